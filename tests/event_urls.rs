//! Where strangers, or a marketplace that was broken into, would have us call: each is refused, and nobody is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorbell::handler::Accept;
use serde_json::json;
use tokio::net::TcpListener;
use url::form_urlencoded::byte_serialize;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::raw::exchange;
use crate::support::receiver::Receiver;

/// A server that is called by nobody.
struct Trap {
    port: u16,
    calls: Arc<AtomicUsize>,
}

impl Trap {
    /// Listens on every address of this machine, so that no spelling of one is missed.
    async fn start() -> Self {
        let listener = TcpListener::bind("[::]:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, calls }
    }
}

#[tokio::test]
async fn no_event_url_makes_us_call_whom_nobody_configured() {
    let trap = Trap::start().await;
    let marketplace = Marketplace::start().await;
    // A marketplace whose events lie below a path, and one whose name has another script's letters and a port.
    let inbound = "[integrations.marketplaces.inbound]\nclient_id = \"v\"\nclient_secret = \"s\"\n";
    let configuration = format!(
        "{}\n[[integrations.marketplaces]]\nbase_url = \"http://localhost:{}/store\"\n{inbound}\
         [[integrations.marketplaces]]\nbase_url = \"https://bücher.example\"\n{inbound}",
        configuration(&marketplace.base_url, "memory:"),
        trap.port,
    );
    let receiver = Receiver::start(&configuration, Accept).await;
    let token = receiver.token().await;

    let market = marketplace.base_url.trim_start_matches("http://").to_owned();
    let market_port = market.rsplit(':').next().expect("a port");
    let bait = format!("127.0.0.1:{}", trap.port);
    let port = trap.port;
    let path = "/api/integration/v1/events/1";
    let refused = [
        // Other hosts.
        format!("http://{bait}{path}"),
        format!("https://{bait}{path}"),
        format!("https://{market}{path}"),
        format!("http://127.0.0.1{path}"),
        format!("http://127.0.0.1:80{path}"),
        format!("http://localhost:{market_port}{path}"),
        format!("http://127.0.0.2:{market_port}{path}"),
        format!("http://0.0.0.0:{market_port}{path}"),
        format!("http://{market}.evil.example{path}"),
        format!("http://evil.example{path}?host={market}"),
        format!("http://evil.example/http://{market}{path}"),
        "http://169.254.169.254/latest/meta-data/iam".to_owned(),
        "http://metadata.google.internal/computeMetadata/v1/".to_owned(),
        // Who is before an @ is no host.
        format!("http://{market}@{bait}{path}"),
        format!("http://{market}:x@{bait}{path}"),
        format!("http://user@{market}{path}"),
        format!("http://user:password@{market}{path}"),
        format!("http://:@{market}{path}"),
        format!("http://@{market}{path}"),
        format!("http://{market}%40{bait}{path}"),
        format!("http://{bait}#@{market}{path}"),
        format!("http://{bait}?@{market}{path}"),
        format!("http://{bait}/@{market}{path}"),
        format!("http://{bait}\\@{market}{path}"),
        format!("http://{market}\\@{bait}{path}"),
        // Backslashes and slashes.
        format!("http:\\\\{market}{path}"),
        format!("http:/{market}{path}"),
        format!("http:///{market}{path}"),
        format!("http:{market}{path}"),
        format!("//{market}{path}"),
        path.to_owned(),
        format!("http://{market}\\{path}"),
        format!("http://{market}/{path}"),
        format!("http://{market}//{bait}{path}"),
        // Ports.
        format!("http://127.0.0.1:0{market_port}{path}"),
        format!("http://127.0.0.1:{market_port}0{path}"),
        format!("http://127.0.0.1:{}{path}", 65_536 + u32::from(port)),
        format!("http://127.0.0.1:-1{path}"),
        format!("http://127.0.0.1:{market_port}:{port}{path}"),
        format!("http://127.0.0.1:{path}"),
        // Addresses in other notations.
        format!("http://2130706433:{market_port}{path}"),
        format!("http://0x7f000001:{market_port}{path}"),
        format!("http://0x7f.0.0.1:{market_port}{path}"),
        format!("http://0177.0.0.1:{market_port}{path}"),
        format!("http://127.1:{market_port}{path}"),
        format!("http://127.0.1:{market_port}{path}"),
        format!("http://127.0.0.1.:{market_port}{path}"),
        format!("http://[::1]:{port}{path}"),
        format!("http://[::ffff:127.0.0.1]:{market_port}{path}"),
        format!("http://[::ffff:7f00:1]:{market_port}{path}"),
        format!("http://[::127.0.0.1]:{market_port}{path}"),
        format!("http://[::1%25lo]:{port}{path}"),
        format!("http://[127.0.0.1]:{market_port}{path}"),
        format!("http://１２７.0.0.1:{market_port}{path}"),
        format!("http://127。0。0。1:{market_port}{path}"),
        format!("http://%31%32%37.0.0.1:{market_port}{path}"),
        // Names.
        format!("http://LOCALHOST.:{port}/store/events/1"),
        format!("http://localhost.:{port}/store/events/1"),
        format!("http://ⓛocalhost:{port}/store/events/1"),
        format!("http://local\u{ad}host:{port}/store/events/1"),
        format!("http://localhost%00.evil.example:{port}/store/events/1"),
        format!("https://bücher.example{path}"),
        format!("https://xn--bcher-kva.example.{path}"),
        format!("https://bucher.example{path}"),
        format!("https://b\u{75}\u{308}cher.example{path}"),
        // Schemes.
        format!("HTTP://{bait}{path}"),
        format!("hTTps://{market}{path}"),
        format!("ftp://{market}{path}"),
        format!("ws://{market}{path}"),
        format!("file://{market}/etc/passwd"),
        "file:///etc/passwd".to_owned(),
        "data:application/json,{}".to_owned(),
        "javascript:alert(1)".to_owned(),
        format!("gopher://{bait}/_GET%20/"),
        format!("jar:http://{market}{path}!/"),
        format!("view-source:http://{market}{path}"),
        format!("http+unix://{market}{path}"),
        // White space, and around what leads elsewhere; around what leads to the marketplace it is left out.
        format!(" http://{bait}{path}"),
        format!("\thttp://{market}@{bait}{path}"),
        // Control characters.
        format!("http://{market}{path}\r\nX-Injected: yes"),
        format!("http://{bait}{path}\n"),
        format!("http://{market}/api\t/events/1"),
        format!("ht\ttp://{market}{path}"),
        format!("http://{bait}{path}\0"),
        format!("http://{bait}{path}\u{7f}"),
        format!("http://{bait}{path}\u{2028}"),
        format!("http://{bait}{path} "),
        format!("http://{market}/events/%00"),
        format!("http://{market}/events/%0d%0aX-Injected:%20yes%00"),
        // Fragments.
        format!("http://{market}{path}#"),
        format!("http://{market}{path}#result"),
        format!("http://{market}#{path}"),
        // Paths that lead out.
        format!("http://{market}/events/../admin/1"),
        format!("http://{market}/events/./1"),
        format!("http://{market}/events/.."),
        format!("http://{market}/events/%2e%2e/1"),
        format!("http://{market}/events/%2E%2E/1"),
        format!("http://{market}/events/.%2e/1"),
        format!("http://{market}/events/..%2f1"),
        format!("http://{market}/events/..%5c1"),
        format!("http://{market}/events/%252e%252e/1"),
        format!("http://{market}/events/..;/1?x=../.."),
        format!("http://localhost:{port}/store/../events/1"),
        format!("http://localhost:{port}/store/%2e%2e/events/1"),
        format!("http://localhost:{port}/events/1"),
        format!("http://localhost:{port}/storefront/events/1"),
        format!("http://localhost:{port}/STORE/events/1"),
        format!("http://localhost:{port}/store"),
        format!("http://localhost:{port}/store/"),
        // No event.
        format!("http://{market}"),
        format!("http://{market}/"),
        format!("http://{market}?{path}"),
        "http://".to_owned(),
        "http://?".to_owned(),
        String::new(),
        format!("http://{market}/events/{{eventUrl}}"),
        format!("http://{market}/events/{}", "a".repeat(2100)),
    ];
    assert!(refused.len() >= 60);
    let ask = async |event_url: &str| {
        let query: String = byte_serialize(event_url.as_bytes()).collect();
        let request = format!(
            "GET /notifications/create?eventUrl={query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: \
             close\r\n\r\n"
        );
        exchange(&receiver.public, request.as_bytes()).await
    };
    for event_url in &refused {
        let (status, _, body) = ask(event_url).await;
        assert_eq!(status, 400, "{event_url}: {body}");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&answer["success"], &answer["errorCode"]),
            (&json!(false), &json!("INVALID_RESPONSE")),
            "{event_url}"
        );
    }
    assert!(receiver.events().await.is_empty());
    assert_eq!(marketplace.with(|state| state.arrived.len()), 0, "not even the right one was called");

    // What was meant is taken, and of what is below a path, only that.
    let event = marketplace.order("1");
    for good in [event.clone(), format!("{event}?view=full"), event.replace("http:", "HTTP:")] {
        assert!([200, 202].contains(&ask(&good).await.0), "{good}");
    }
    marketplace.until_settled("1").await;
    assert_eq!(trap.calls.load(Ordering::SeqCst), 0, "somebody called the trap");
    assert_eq!(ask(&format!("http://localhost:{port}/store/events/1")).await.0, 202);
}
