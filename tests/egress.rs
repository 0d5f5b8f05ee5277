//! How we call others: over TLS of a private authority, through a proxy, and not for ever.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use doorbell::handler::Accept;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::receiver::Receiver;

/// Terminates TLS for `localhost` before the server at `plain`; writes the authority that vouches for it to `ca_file`.
async fn terminate_tls(plain: &str, ca_file: &Path) -> String {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(ca_file, certified.cert.pem()).expect("written");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("usable");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let plain = plain.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let mut inside = acceptor.accept(connection).await?;
                let mut outside = TcpStream::connect(plain).await?;
                copy_bidirectional(&mut inside, &mut outside).await
            });
        }
    });
    format!("https://localhost:{port}")
}

/// A server that answers each path in its own bad way.
async fn badly_behaved() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    let bomb = Arc::new(packed(&vec![b' '; 8 << 20]));
    assert!(bomb.len() < 1 << 20, "what travels is within the limit");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(misbehave(connection, Arc::clone(&bomb)));
        }
    });
    base_url
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("packs")
}

async fn misbehave(mut connection: TcpStream, bomb: Arc<Vec<u8>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let answer = |length: usize, more: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
        )
    };
    let length = head.to_lowercase().split_once("content-length: ").map(|(_, behind)| behind.to_owned());
    let length = length.and_then(|behind| behind.lines().next()?.parse().ok()).unwrap_or_default();
    connection.read_exact(&mut vec![0; length]).await?;
    let order = json!({"type": "SUBSCRIPTION_NOTICE", "payload": {}}).to_string();
    match head.split(' ').nth(1).unwrap_or_default() {
        "/events/silent" => std::future::pending().await,
        "/events/stuck" => {
            connection.write_all(answer(1000, "").as_bytes()).await?;
            connection.write_all(b"{").await?;
            std::future::pending().await
        }
        "/events/trickling" => {
            connection.write_all(answer(1_000_000, "").as_bytes()).await?;
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                tick.tick().await;
                connection.write_all(b" ").await?;
            }
        }
        "/events/endless" => {
            connection.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            loop {
                connection.write_all(chunk.as_bytes()).await?;
            }
        }
        "/events/cut" => {
            let failure = answer(1000, "").replace("200 OK", "503 Service Unavailable");
            connection.write_all(failure.as_bytes()).await?;
            connection.write_all(b"{").await
        }
        "/events/cut-result/result" => {
            connection.write_all(answer(1000, "").as_bytes()).await?;
            connection.write_all(b"{").await
        }
        "/events/stuck-result/result" => {
            connection.write_all(answer(1000, "").as_bytes()).await?;
            std::future::pending().await
        }
        "/events/cut-result" | "/events/stuck-result" => {
            let order = order.replace("NOTICE", "ORDER");
            connection.write_all(answer(order.len(), "").as_bytes()).await?;
            connection.write_all(order.as_bytes()).await
        }
        "/events/bomb" => {
            connection.write_all(answer(bomb.len(), "Content-Encoding: gzip\r\n").as_bytes()).await?;
            connection.write_all(&bomb).await
        }
        "/events/packed" => {
            let body = packed(order.as_bytes());
            connection.write_all(answer(body.len(), "Content-Encoding: gzip\r\n").as_bytes()).await?;
            connection.write_all(&body).await
        }
        _ => {
            connection.write_all(answer(order.len(), "").as_bytes()).await?;
            connection.write_all(order.as_bytes()).await
        }
    }
}

/// The configuration of a marketplace whose tokens come from `tokens` and whose events lie at `events`.
fn apart(tokens: &str, events: &str, egress: &str) -> String {
    configuration(events, "memory:")
        .replace("client_id = \"vendor\"", &format!("token_url = \"{tokens}/oauth2/token\"\nclient_id = \"vendor\""))
        .replace("[log]", &format!("[egress]\n{egress}\n[log]"))
}

#[tokio::test]
async fn a_marketplace_that_never_finishes_its_answer_is_waited_for_so_long_and_no_longer() {
    let (tokens, events) = (Marketplace::start().await, badly_behaved().await);
    let limits = "connect_timeout = \"2s\"\nread_timeout = \"150ms\"\ntotal_timeout = \"600ms\"";
    let text = apart(&tokens.base_url, &events, limits).replace("[delivery]", "[delivery]\ngive_up_after = \"1ms\"");
    let receiver = Receiver::start(&text, Accept).await;
    for (event, reason) in [
        ("silent", "did not answer in time"),
        ("stuck", "did not answer in time"),
        ("trickling", "did not answer in time"),
        ("endless", "answered more than 1048576 bytes"),
        ("bomb", "answered more than 1048576 bytes"),
        ("cut", "answered 503"),
    ] {
        let answer = receiver.notify("/create", &format!("{events}/events/{event}")).await;
        assert_eq!(answer.status().as_u16(), 202);
        let dead = async {
            loop {
                let found = receiver.events().await.into_iter().find(|found| found["token"] == event);
                if let Some(found) = found.filter(|found| found["state"] == "dead") {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        let dead =
            tokio::time::timeout(crate::support::PATIENCE, dead).await.unwrap_or_else(|_| panic!("{event} hangs"));
        let error = dead["lastError"].as_str().expect("a reason");
        assert!(error.contains(reason), "{event}: {error}");
    }
    for good in ["plain", "packed"] {
        receiver.notify("/notify", &format!("{events}/events/{good}")).await;
        receiver.until_state("done").await;
    }
}

#[tokio::test]
async fn a_result_is_taken_once_the_head_of_the_answer_says_so() {
    let (tokens, events) = (Marketplace::start().await, badly_behaved().await);
    let limits = "connect_timeout = \"2s\"\nread_timeout = \"150ms\"\ntotal_timeout = \"600ms\"";
    let text = apart(&tokens.base_url, &events, limits);
    for event in ["cut-result", "stuck-result"] {
        let receiver = Receiver::start(&text, Accept).await;
        receiver.notify("/create", &format!("{events}/events/{event}")).await;
        let done = receiver.until_state("done").await;
        assert_eq!((&done["attempts"], &done["lastError"]), (&json!(1), &json!(null)), "{event}: it is told once");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_configured_and_not_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let ca_file = directory.path().join("ca.pem");
    let market = Marketplace::start().await;
    let secure = terminate_tls(&market.base_url, &ca_file).await;
    let event = market.order("1").replace(&market.base_url, &secure);
    let stranger = Receiver::start(&configuration(&secure, "memory:"), Accept).await;
    stranger.notify("/create", &event).await;
    let failed = async {
        loop {
            let events = stranger.events().await;
            if let Some(error) = events.first().and_then(|event| event["lastError"].as_str()) {
                return error.to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(crate::support::PATIENCE, failed).await.expect("an error");
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(market.with(|state| state.arrived.len()), 0);

    let egress = format!("[egress]\nca_file = {ca_file:?}\n[log]");
    let text = configuration(&secure, "memory:").replace("[log]", &egress);
    let friend = Receiver::start(&text, Accept).await;
    friend.notify("/create", &event).await;
    friend.until_state("done").await;
}

#[tokio::test]
async fn everything_goes_through_the_proxy_that_is_configured() {
    let market = Marketplace::start().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = proxy.local_addr().expect("an address");
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let behind = market.base_url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = proxy.accept().await {
            let (sender, behind) = (sender.clone(), behind.clone());
            tokio::spawn(async move {
                let mut start = vec![0; 4096];
                let read = connection.peek(&mut start).await?;
                let _ = sender.send(String::from_utf8_lossy(&start[..read]).into_owned());
                let mut outside = TcpStream::connect(behind).await?;
                copy_bidirectional(&mut connection, &mut outside).await
            });
        }
    });
    let egress = format!("[egress]\nproxy = \"http://user:pr0xy-pass@{address}\"\n[log]");
    let text = configuration(&market.base_url, "memory:").replace("[log]", &egress);
    let receiver = Receiver::start(&text, Accept).await;
    receiver.notify("/create", &market.order("1")).await;
    market.until_settled("1").await;
    let first = asked.recv().await.expect("the proxy was asked");
    assert!(first.starts_with(&format!("POST {}/oauth2/token", market.base_url)), "{first}");
    assert!(first.to_lowercase().contains("proxy-authorization: basic"), "{first}");
    let shown = format!("{:?}", doorbell::config::Config::from_toml(&text).expect("valid"));
    assert!(!shown.contains("pr0xy-pass"), "{shown}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_stop_the_start_with_the_key_and_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (missing, empty) = (directory.path().join("missing.pem"), directory.path().join("empty.pem"));
    std::fs::write(&empty, "no certificate").expect("written");
    for (file, reason) in [(&missing, "No such file"), (&empty, "it holds no certificate")] {
        let text = configuration("https://market.example", "memory:");
        let text = text.replace("[log]", &format!("[egress]\nca_file = {file:?}\n[log]"));
        let config = doorbell::config::Config::from_toml(&text).expect("valid in itself");
        let clock = Arc::new(doorbell::clock::SystemClock);
        let started = doorbell::app::App::start(&config, Arc::new(Accept), clock).await;
        let error = started.expect_err("no start").to_string();
        assert!(error.contains("egress.ca_file names") && error.contains(reason), "{error}");
    }
}
