//! How much strangers may send, hold open and ask for: each limit has an answer and a count.

use doorbell::handler::Accept;
use doorbell::receive::LimitExceeded;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::raw::{answer, connect, exchange};
use crate::support::receiver::{Receiver, notify};

async fn start(limits: &str) -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:");
    let text = text.replace("[admin]", &format!("[server.limits]\n{limits}\n[admin]"));
    (marketplace, Receiver::start(&text, Accept).await)
}

/// Sends a request and keeps the connection.
async fn ask(connection: &mut TcpStream, path: &str) -> u16 {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
    let mut head = [0; 12];
    connection.read_exact(&mut head).await.expect("an answer");
    // Answers here are short; what is left of this one is read with it.
    let mut rest = vec![0; 4096];
    let _ = connection.read(&mut rest).await.expect("the rest");
    std::str::from_utf8(&head[9..]).expect("a status").parse().expect("a status")
}

#[tokio::test]
async fn a_request_that_is_too_large_is_told_what_is_too_large() {
    let (_marketplace, receiver) =
        start("max_url_bytes = 500\nmax_header_bytes = 1000\nmax_body_bytes = 300\nrequest_timeout = \"2s\"").await;
    let long = "a".repeat(2000);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let chunked = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{form}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    let cases = [
        (LimitExceeded::Url, 414, format!("GET /notifications?eventUrl={long} HTTP/1.1\r\nHost: x\r\n\r\n")),
        (LimitExceeded::Url, 414, format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")),
        (LimitExceeded::Headers, 431, format!("GET /notifications HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n")),
        (LimitExceeded::Headers, 431, {
            let many = "X-Many: a value of some length\r\n".repeat(60);
            format!("GET /notifications HTTP/1.1\r\nHost: x\r\n{many}\r\n")
        }),
        (
            LimitExceeded::Body,
            413,
            format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{form}Content-Length: 2000\r\n\r\n{long}"),
        ),
        (
            LimitExceeded::Body,
            413,
            format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{form}Content-Length: 99999999999\r\n\r\n"),
        ),
        (
            LimitExceeded::Body,
            413,
            format!("GET /notifications HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n{long}"),
        ),
        (LimitExceeded::Body, 413, chunked.replace("\r\n\r\n7d0", "\r\nConnection: close\r\n\r\n7d0")),
        // Little body, and much around it.
        (
            LimitExceeded::Body,
            413,
            format!(
                "POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{form}Transfer-Encoding: chunked\r\n\r\n{}",
                format!("1;{}\r\na\r\n", "x".repeat(400)).repeat(200)
            ),
        ),
        (
            LimitExceeded::Slow,
            408,
            format!(
                "POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{form}Content-Length: 10\r\nConnection: close\r\n\r\nhalf"
            ),
        ),
    ];
    let mut expected = std::collections::HashMap::new();
    for (excess, status, request) in cases {
        let (answered, head, body) = exchange(&receiver.public, request.as_bytes()).await;
        assert_eq!(answered, status, "{request:.60}: {head}");
        let result: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(result["success"], false);
        assert!(result["message"].as_str().is_some_and(|message| !message.is_empty()));
        let count = expected.entry(excess.name()).or_insert(0);
        *count += 1;
        assert_eq!(receiver.app.limit_counters().count(excess), *count, "{request:.60}");
    }
    let (status, ..) =
        exchange(&receiver.public, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_arrive_is_answered_408_and_counted() {
    let (_marketplace, receiver) = start("request_timeout = \"500ms\"").await;
    let mut connection = connect(&receiver.public).await;
    connection.write_all(b"GET /notifications HTTP/1.1\r\nHost: ").await.expect("sent");
    assert_eq!(answer(&mut connection).await.0, 408);
    while receiver.app.limit_counters().count(LimitExceeded::Slow) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_head_beyond_all_measure_is_answered_too() {
    let (_marketplace, receiver) = start("").await;
    let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "a".repeat(200_000));
    assert_eq!(exchange(&receiver.public, endless.as_bytes()).await.0, 431);
    let headers = "X-Many: a\r\n".repeat(200);
    let (status, _, body) = exchange(&receiver.public, format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
    assert!(status == 431 && body.contains("headers"), "{status} {body}");
    assert_eq!(
        (receiver.app.limit_counters().count(LimitExceeded::Headers), receiver.app.limit_counters().malformed()),
        (2, 0)
    );
}

#[tokio::test]
async fn a_trusted_proxy_may_hold_more_connections_than_an_address() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:");
    let limits = "trusted_proxies = [\"127.0.0.0/8\"]\n[server.limits]\nmax_connections_per_address = 1\n[admin]";
    let receiver = Receiver::start(&text.replace("[admin]", limits), Accept).await;
    let (mut first, mut second) = (connect(&receiver.public).await, connect(&receiver.public).await);
    assert_eq!((ask(&mut first, "/health/live").await, ask(&mut second, "/health/live").await), (200, 200));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_503_and_health_is_told_all_the_same() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("[admin]", "[server.limits]\nmax_requests_in_flight = 1\n[admin]")
        .replace("name = \"default\"", "name = \"default\"\nanswer = \"sync\"");
    let receiver = Receiver::start(&text, Accept).await;
    marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
    let token = receiver.token().await;
    let (client, public) = (&receiver.client, &receiver.public);
    let (event, other) = (marketplace.order("1"), marketplace.order("2"));
    let waits = notify(client, public, &token, "/create", &event);
    let meanwhile = async {
        marketplace.until("the event is being read", |state| state.arrived.get("read") == Some(&1)).await;
        let refused = notify(client, public, &token, "/create", &other).await;
        assert_eq!(refused.status().as_u16(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(receiver.app.limit_counters().count(LimitExceeded::RequestsInFlight), 1);
        let health = client.get(format!("{public}/health/ready")).send().await.expect("answers");
        assert_eq!(health.status().as_u16(), 200);
    };
    tokio::select! {
        answer = waits => panic!("the first was answered {}", answer.status()),
        () = meanwhile => {}
    }
    let events = receiver.events().await;
    assert_eq!(events.len(), 1);
}
