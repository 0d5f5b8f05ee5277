//! The public listener as probers, proxies and marketplaces with a wrong set-up find it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use doorbell::clock::{Clock, SystemClock};
use doorbell::event::{BaseUrl, EventId, EventUrl, Notification};
use doorbell::handler::Accept;
use doorbell::store::EventStore;
use doorbell::store::memory::MemoryStore;
use reqwest::{Method, StatusCode};
use serde_json::json;
use url::form_urlencoded::byte_serialize;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};
use crate::support::raw::exchange;
use crate::support::receiver::{Receiver, json as body_of, notify, token};

const FORM: &str = "application/x-www-form-urlencoded";

async fn start() -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    (marketplace, receiver)
}

/// The same below a prefix.
async fn start_below(prefix: &str) -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("[server]", &format!("[server]\npublic_url = \"http://127.0.0.1:8080{prefix}\""));
    let receiver = Receiver::start(&text, Accept).await;
    (marketplace, receiver)
}

/// What is answered to `method` at `path`, which is sent as it stands: status, head, body.
async fn ask(receiver: &Receiver, method: &str, path: &str, more: &str) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    let (status, head, body) = exchange(&format!("http://{}", receiver.app.public), request.as_bytes()).await;
    (status, head.to_ascii_lowercase(), body)
}

fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn whatever_is_read_by_get_answers_head_with_the_same_status_and_no_body() {
    for prefix in ["", "/in/front"] {
        let (_marketplace, receiver) = start_below(prefix).await;
        let metadata = format!("/.well-known/oauth-authorization-server{prefix}");
        for path in ["/health/live", "/health/ready", "/notifications", "/notifications/create", "/nowhere"]
            .map(|path| format!("{prefix}{path}"))
            .into_iter()
            .chain([metadata])
        {
            let (got, head_of_get, body) = ask(&receiver, "GET", &path, "").await;
            let (status, head, nothing) = ask(&receiver, "HEAD", &path, "").await;
            assert_eq!((status, nothing.as_str()), (got, ""), "{path}");
            assert!(!body.is_empty(), "{path}");
            for name in ["content-type", "content-length", "www-authenticate"] {
                let line = |head: &str| head.lines().find(|line| line.starts_with(name)).map(str::to_owned);
                assert_eq!(line(&head), line(&head_of_get), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_notification_by_head_is_recorded_once_and_only_with_credentials() {
    let (marketplace, receiver) = start().await;
    let url = marketplace.order("1");
    let path = format!("/notifications/create?eventUrl={}", encoded(&url));
    assert_eq!(ask(&receiver, "HEAD", &path, "").await.0, 401);
    assert!(receiver.events().await.is_empty());
    let bearer = format!("Authorization: Bearer {}\r\n", receiver.token().await);
    assert_eq!(ask(&receiver, "HEAD", "/notifications/create", &bearer).await.0, 400);
    let (status, _, body) = ask(&receiver, "HEAD", &path, &bearer).await;
    assert_eq!((status, body.as_str()), (202, ""), "a 2xx says that the event is durable");
    marketplace.until_settled("1").await;
    receiver.until_state("done").await;
    assert_eq!(ask(&receiver, "HEAD", &path, &bearer).await.0, 200);
    assert_eq!(ask(&receiver, "GET", &path, &bearer).await.0, 200);
    assert_eq!(receiver.events().await.len(), 1);
}

#[tokio::test]
async fn a_result_that_head_has_no_body_for_is_reported() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("name = \"default\"", "name = \"default\"\nanswer = \"sync\"");
    let receiver = Receiver::start(&text, Accept).await;
    let path = format!("/notifications/create?eventUrl={}", encoded(&marketplace.order("1")));
    let bearer = format!("Authorization: Bearer {}\r\n", receiver.token().await);
    assert_eq!(ask(&receiver, "HEAD", &path, &bearer).await.0, 202);
    marketplace.until_settled("1").await;
}

#[tokio::test]
async fn any_other_method_is_405_with_allow_and_a_body_in_the_callers_format() {
    for prefix in ["", "/in/front"] {
        let (_marketplace, receiver) = start_below(prefix).await;
        for (path, allow) in [
            (format!("{prefix}/notifications"), "get, head"),
            (format!("{prefix}/notifications/create"), "get, head"),
            (format!("{prefix}/notifications/user-updated/"), "get, head"),
            (format!("{prefix}/health/live"), "get, head"),
            (format!("{prefix}/health/ready"), "get, head"),
            (format!("/.well-known/oauth-authorization-server{prefix}"), "get, head"),
            (format!("{prefix}/oauth2/token"), "post"),
        ] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE", "GET", "HEAD"] {
                if allow.contains(&method.to_ascii_lowercase()) {
                    continue;
                }
                let (status, head, body) = ask(&receiver, method, &path, "Content-Length: 0\r\n").await;
                assert_eq!(status, 405, "{method} {path}");
                assert!(head.contains(&format!("allow: {allow}\r\n")), "{method} {path}: {head}");
                if method == "HEAD" {
                    assert_eq!(body, "", "{method} {path}");
                    continue;
                }
                let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let error = body.get("errorCode").or(body.get("error")).expect("an error");
                assert!(["INVALID_OPERATION", "invalid_request"].contains(&error.as_str().expect("text")), "{body}");
            }
        }
        for (method, path) in [("POST", "/notifications/create"), ("PUT", "/health/live"), ("GET", "/nowhere")] {
            let accept = "Content-Length: 0\r\nAccept: application/xml\r\n";
            let (_, head, body) = ask(&receiver, method, &format!("{prefix}{path}"), accept).await;
            assert!(head.contains("content-type: application/xml"), "{method} {path}: {head}");
            assert!(body.starts_with("<result><success>false</success>"), "{method} {path}: {body}");
        }
    }
}

#[tokio::test]
async fn a_slash_at_the_end_and_doubled_slashes_change_nothing() {
    for prefix in ["", "/in/front"] {
        let (marketplace, receiver) = start_below(prefix).await;
        let bearer = receiver.token().await;
        let authorization = format!("Authorization: Bearer {bearer}\r\n");
        for (number, path) in [
            "/notifications/create/",
            "//notifications/create",
            "/notifications//create//",
            "/notifications/",
            "//notifications",
        ]
        .into_iter()
        .enumerate()
        {
            let url = marketplace.order(&number.to_string());
            let path = format!("{prefix}{path}?eventUrl={}", encoded(&url));
            assert_eq!(ask(&receiver, "GET", &path, &authorization).await.0, 202, "{path}");
            assert_eq!(ask(&receiver, "GET", &path, "").await.0, 401, "{path}");
        }
        assert_eq!(receiver.events().await.len(), 5);
        for path in ["/health/live/", "//health/ready", "/health//live", "/.well-known/oauth-authorization-server/"] {
            assert_eq!(ask(&receiver, "GET", &format!("{prefix}{path}"), "").await.0, 200, "{path}");
        }
        for path in ["/oauth2/token/", "//oauth2//token"] {
            let answer = receiver
                .client
                .post(format!("{}{path}", receiver.public))
                .basic_auth("marketplace", Some("outbound-secret"))
                .header("content-type", FORM)
                .body("grant_type=client_credentials")
                .send()
                .await
                .expect("answers");
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
        }
        // These are other paths.
        for path in
            ["/notifications%2Fcreate", "/notifications/create/x", "/notifications/Create", "/notificationscreate"]
        {
            assert_eq!(ask(&receiver, "GET", &format!("{prefix}{path}"), &authorization).await.0, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn an_oauth1_signature_covers_the_method_and_the_path_as_they_were_sent() {
    use crate::support::signature::Request;
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:").replace("kind = \"oauth2\"", "kind = \"oauth1\"");
    let text = text.replace("client_id = \"marketplace\"", "client_id = \"legacy\"");
    let text = text.replace("outbound-secret", crate::support::signature::SECRET);
    let receiver = Receiver::start(&text, Accept).await;
    let url = marketplace.order("1");
    for (verb, sent, signed_path, status) in [
        ("GET", "/notifications/create/", "/notifications/create/", 202),
        ("GET", "//notifications/create", "/notifications/create", 401),
        ("HEAD", "/notifications/create", "/notifications/create", 202),
    ] {
        for signed_as in ["GET", "HEAD"] {
            let now = SystemClock.now().as_seconds();
            let signed = Request::new("http://127.0.0.1:8080", signed_path, &url, now).verb(signed_as);
            let header = format!("Authorization: {}\r\n", signed.header());
            let answer = ask(&receiver, verb, &format!("{sent}?eventUrl={}", encoded(&url)), &header).await.0;
            let answer = if answer == 200 { 202 } else { answer };
            assert_eq!(answer, if signed_as == verb { status } else { 401 }, "{verb} {sent} signed as {signed_as}");
        }
    }
}

#[tokio::test]
async fn an_event_that_an_earlier_release_recorded_under_a_spelling_of_its_own_is_found_again() {
    let marketplace = Marketplace::start().await;
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let base = BaseUrl::parse(&marketplace.base_url).expect("a base URL");
    let spelling = marketplace.order("1").replace("/events/1", "/events/%31");
    let url = EventUrl::parse(&spelling, [&base]).expect("an event URL");
    let former = EventId::former("default", &url).expect("it had another name");
    let notification = Notification::new("default".into(), url, None, String::new()).known_as(former);
    store.record(&notification, SystemClock.read()).await.expect("recorded");
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_with(&text, store, Accept, Arc::new(SystemClock)).await;
    assert!(receiver.notify("/create", &spelling).await.status().is_success());
    marketplace.until_settled("1").await;
    let event = receiver.until_state("done").await;
    assert_eq!((receiver.events().await.len(), &event["id"]), (1, &json!(former)));
}

#[tokio::test]
async fn every_spelling_of_an_event_url_is_one_event() {
    let (marketplace, receiver) = start().await;
    let bearer = receiver.token().await;
    let url = marketplace.order("e-1");
    let path = url.strip_prefix(&marketplace.base_url).expect("below its base");
    let port = marketplace.base_url.rsplit(':').next().expect("a port");
    for spelling in [
        url.clone(),
        format!("{url}/"),
        format!("{url}?"),
        format!("{url}/?"),
        url.replace("e-1", "%65-1"),
        url.replace("e-1", "e%2D%31"),
        url.replace("e-1", "e%2d1"),
        format!("HTTP://127.0.0.1:{port}{path}"),
        format!("Http://127.0.0.1:{port}{}", path.replace("api", "%61pi")),
    ] {
        let answer = notify(&receiver.client, &receiver.public, &bearer, "/create", &spelling).await;
        assert!(answer.status().is_success(), "{spelling}: {}", answer.status());
    }
    marketplace.until_settled("e-1").await;
    let event = receiver.until_state("done").await;
    assert_eq!((receiver.events().await.len(), &event["eventUrl"]), (1, &json!(url)));
    assert_eq!(marketplace.seen("e-1").taken.len(), 1, "and its handler ran once");
}

/// Two marketplaces at one origin, each with tokens of its own; what they were called with, by path.
async fn nested_marketplaces() -> (String, Arc<Mutex<HashMap<String, Vec<String>>>>) {
    type Calls = Mutex<HashMap<String, Vec<String>>>;
    async fn call(calls: web::Data<Calls>, request: HttpRequest) -> HttpResponse {
        let path = request.path();
        let of = if path.starts_with("/store/") { "inner" } else { "outer" };
        if path.ends_with("/oauth2/token") {
            return HttpResponse::Ok().json(json!({"access_token": of, "token_type": "bearer", "expires_in": 3600}));
        }
        let shown = request.headers().get("authorization").expect("a token").to_str().expect("text").to_owned();
        calls.lock().expect("unpoisoned").entry(path.to_owned()).or_default().push(shown);
        if path.ends_with("/result") {
            return HttpResponse::NoContent().finish();
        }
        HttpResponse::Ok().json(json!({"type": "SUBSCRIPTION_ORDER"}))
    }
    let calls = Arc::new(Calls::default());
    let shared = web::Data::from(Arc::clone(&calls));
    let server = HttpServer::new(move || App::new().app_data(shared.clone()).default_service(web::to(call)))
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let base = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    (base, calls)
}

fn marketplace_at(base: &str) -> String {
    format!(
        "[[integrations.marketplaces]]\nbase_url = \"{base}\"\n[integrations.marketplaces.inbound]\nclient_id = \"v\"\n\
         client_secret = \"s\"\n"
    )
}

#[tokio::test]
async fn an_event_is_read_with_the_token_of_the_innermost_marketplace_it_lies_in() {
    let (base, calls) = nested_marketplaces().await;
    let text = format!("{}{}", configuration(&base, "memory:"), marketplace_at(&format!("{base}/store/")));
    let receiver = Receiver::start(&text, Accept).await;
    for (event, of) in [
        ("/store/events/1", "inner"),
        ("/events/2", "outer"),
        ("/storefront/events/3", "outer"),
        ("/%73tore/events/4", "inner"),
    ] {
        assert_eq!(receiver.notify("/create", &format!("{base}{event}")).await.status(), StatusCode::ACCEPTED);
        let path = event.replace("%73", "s");
        let reported = async {
            while !calls.lock().expect("unpoisoned").contains_key(&format!("{path}/result")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, reported).await.expect("is reported");
        let calls = calls.lock().expect("unpoisoned");
        for path in [path.clone(), format!("{path}/result")] {
            assert!(calls[&path].iter().all(|shown| *shown == format!("Bearer {of}")), "{path}: {:?}", calls[&path]);
        }
    }
}

#[tokio::test]
async fn an_event_of_another_integrations_inner_marketplace_is_not_taken_by_the_outer_one() {
    let (base, calls) = nested_marketplaces().await;
    let first = configuration(&base, "memory:");
    let second = configuration(&format!("{base}/store"), "memory:");
    let second = &second[second.find("[[integrations]]").expect("an integration")..];
    let second = second.replace("\"default\"", "\"second\"").replace("\"marketplace\"", "\"second-client\"");
    let receiver = Receiver::start(&format!("{first}{second}"), Accept).await;
    let of_second = token(&receiver.client, &receiver.public, "second-client", "outbound-secret").await;
    for event in ["/store/events/1", "/%73tore/events/1"] {
        let answer = receiver.notify("/create", &format!("{base}{event}")).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{event}");
    }
    assert!(receiver.events().await.is_empty() && calls.lock().expect("unpoisoned").is_empty(), "nobody was called");
    let inner =
        notify(&receiver.client, &receiver.public, &of_second, "/create", &format!("{base}/store/events/1")).await;
    assert_eq!(inner.status(), StatusCode::ACCEPTED);
    let outer = notify(&receiver.client, &receiver.public, &of_second, "/create", &format!("{base}/events/1")).await;
    assert_eq!(outer.status(), StatusCode::FORBIDDEN);
}

#[test]
fn two_marketplaces_with_one_base_in_one_integration_are_an_error() {
    for (first, second) in [
        ("https://market.example", "https://Market.Example:443/"),
        ("https://market.example/store", "https://market.example/%73tore/"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
    ] {
        let text = format!("{}{}", configuration(first, "memory:"), marketplace_at(second));
        let error = doorbell::config::Config::from_toml(&text).expect_err("one of them is too many").to_string();
        assert!(error.contains("marketplaces[1].base_url") && error.contains("given twice"), "{error}");
    }
    for base in ["https://market.example./", "https://market.example/a//b", "https://market.example/a%2Fb"] {
        let error =
            doorbell::config::Config::from_toml(&configuration(base, "memory:")).expect_err("no event lies there");
        assert!(error.to_string().contains("marketplaces[0].base_url"), "{error}");
    }
}

/// The real program with its log, and a marketplace for it.
async fn start_process() -> (Marketplace, Process, tempfile::TempDir) {
    let marketplace = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorbell.toml");
    let text = configuration(&marketplace.base_url, &format!("sled:{}", directory.path().join("data").display()));
    std::fs::write(&file, text).expect("written");
    let process = tokio::task::spawn_blocking(move || Process::serve(&doorbell(), &file, &[])).await.expect("serves");
    (marketplace, process, directory)
}

/// The lines at `warn` and above.
async fn warnings(process: Process) -> Vec<serde_json::Value> {
    let (_, lines) = tokio::task::spawn_blocking(|| process.terminate()).await.expect("stops");
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap_or_default())).collect()
}

#[tokio::test]
async fn a_stranger_does_not_fill_the_log() {
    let (marketplace, process, _directory) = start_process().await;
    let client = reqwest::Client::new();
    let endpoint = format!("{}/oauth2/token", process.public);
    for number in 0..40 {
        let guess = client.post(&endpoint).basic_auth(format!("name-{number}"), Some("guess"));
        let guess = guess.header("X-Forwarded-For", format!("203.0.113.{number}"));
        guess.header("content-type", FORM).body("grant_type=client_credentials").send().await.expect("answers");
        client.post(&endpoint).body("{}").send().await.expect("answers");
        client.post(&endpoint).header("content-type", FORM).body("grant_type=password").send().await.expect("answers");
        for path in
            ["/notifications/create?eventUrl=https://m/e/1", "/nowhere?eventUrl=https://m/e/1", "/health/ready/"]
        {
            let request = client.get(format!("{}{path}", process.public)).bearer_auth(format!("invented-{number}"));
            request.send().await.expect("answers");
        }
        client.put(format!("{}/notifications", process.public)).send().await.expect("answers");
        exchange(&process.public, b"no request at all\r\n\r\n").await;
    }
    drop(marketplace);
    let warnings = warnings(process).await;
    let messages: Vec<_> = warnings.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect();
    assert!(warnings.len() <= 6, "one a minute of each kind, and not 280: {warnings:#?}");
    assert!(messages.iter().any(|line| line.starts_with("what arrives is no request")), "{messages:?}");
    assert!(messages.contains(&"token refused"), "the first of a kind is logged at once: {messages:?}");
}

#[tokio::test]
async fn a_wrong_set_up_at_the_marketplace_is_logged_by_name_with_what_to_change_there() {
    let (marketplace, process, _directory) = start_process().await;
    let client = reqwest::Client::new();
    let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
    let event = |id: &str| encoded(&marketplace.order(id));
    let twice = encoded(&event("twice"));
    let ask = async |route: &str, query: &str, bearer: &str| {
        let request = client.get(format!("{}{route}?{query}", process.public)).bearer_auth(bearer);
        let answer = request.send().await.expect("answers");
        let status = answer.status().as_u16();
        (status, body_of(answer).await["message"].as_str().expect("a message").to_owned())
    };
    let create = "/notifications/create";
    for (route, query, status, named) in [
        (create, String::new(), 400, "eventUrl is missing; the"),
        (create, "eventUrl=".to_owned(), 400, "it is given, and empty"),
        (create, "eventUrl={eventUrl}".to_owned(), 400, "is the placeholder"),
        (create, "eventUrl=%7BeventUrl%7D".to_owned(), 400, "is the placeholder"),
        (create, format!("eventUrl={}&eventUrl={}", event("a"), event("b")), 400, "not twice the same"),
        (
            create,
            "eventUrl=https://elsewhere.example/events/1".to_owned(),
            400,
            "lies in no marketplace of this integration",
        ),
        ("/notifications/buy", format!("eventUrl={}", event("c")), 404, "no such route"),
        (create, "eventUrl={0}".to_owned(), 400, "is the placeholder"),
        (create, "eventUrl=null".to_owned(), 400, "is the placeholder"),
        (create, "eventUrl=%25s".to_owned(), 400, "is the placeholder"),
        (create, format!("event={}", event("g")), 400, "a parameter \"event\", which holds a URL"),
        (create, event("g"), 400, "is a URL without a name"),
        (create, format!("lang=en?eventUrl={}", event("h")), 202, "recorded"),
        (create, format!("lang=en&amp;eventUrl={}", event("i")), 202, "recorded"),
        (create, format!("eventUrl=%20{}", event("j")), 202, "recorded"),
        (create, format!("eventUrl=%22{}%22%0D%0A", event("k")), 202, "recorded"),
        (create, format!("eventUrl={0}&eventUrl={0}%2F", event("l")), 202, "recorded"),
        (create, format!("eventUrl={twice}"), 202, "recorded"),
        (create, format!("eventUrl={0}&eventUrl={0}", event("d")), 202, "recorded"),
        (create, format!("eventUrl={{eventUrl}}&eventUrl={}", event("e")), 202, "recorded"),
        (create, format!("eventUrl={{eventUrl}}&url={}", event("f")), 202, "recorded"),
    ] {
        for _ in 0..3 {
            let (answered, message) = ask(route, &query, &bearer).await;
            let answered = if answered == 200 { 202 } else { answered };
            assert_eq!(answered, status, "{query}: {message}");
            assert!(status == 202 || message.contains(named), "{query}: {message}");
            assert!(status != 400 || message.contains("marketplace"), "{query}: {message}");
        }
        let stranger = ask(route, &query, "invented").await.0;
        assert_eq!(stranger, if status == 404 { 404 } else { 401 }, "{query}");
    }
    for id in ["twice", "d", "e", "f", "h", "i", "j", "k", "l"] {
        marketplace.until_settled(id).await;
    }
    let warnings: Vec<String> = warnings(process).await.iter().map(ToString::to_string).collect();
    for named in [
        "eventUrl is missing; the",
        "it is given, and empty",
        "is the placeholder",
        "not twice the same",
        "lies in no marketplace of this integration",
        "an address that is no route",
        "percent-encoded more than once",
        "was given twice",
        "beside it a placeholder",
        "joined to what stands before it",
        "white space or quotes",
    ] {
        let lines = warnings.iter().filter(|line| line.contains(named)).count();
        assert_eq!(lines, 1, "{named}: {warnings:#?}");
    }
    // Strangers are one line, whatever they sent: nobody whose credentials are good is among them.
    let (strangers, known): (Vec<_>, Vec<_>) =
        warnings.iter().partition(|line| line.contains("caller_with_invalid_token"));
    assert_eq!(strangers.len(), 1, "{warnings:#?}");
    assert!(known.iter().all(|line| line.contains("\"integration\":\"default\"")), "{warnings:#?}");
}

#[tokio::test]
async fn a_marketplace_that_joins_its_event_url_to_the_path_is_named_in_the_log_and_its_credentials_are_not() {
    for joined in
        ["/notifications/create&token=s3cret&eventUrl=", "/notifications/create/eventUrl=", "/create%3FeventUrl%3D"]
    {
        let (marketplace, process, _directory) = start_process().await;
        let client = reqwest::Client::new();
        let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
        let url = format!("{}{joined}{}", process.public, encoded(&format!("{}?sig=s3cret", marketplace.order("1"))));
        for bearer in [&bearer, "invented"] {
            let answer = client.get(&url).bearer_auth(bearer).send().await.expect("answers");
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{joined}");
        }
        let warnings: Vec<String> = warnings(process).await.iter().map(ToString::to_string).collect();
        let named = |line: &&String| line.contains("an address that is no route") && line.contains("\"default\"");
        assert_eq!(warnings.iter().filter(named).count(), 1, "{joined}: {warnings:#?}");
        assert!(!warnings.concat().contains("s3cret"), "{warnings:#?}");
    }
}

#[tokio::test]
async fn an_event_url_that_may_lie_in_an_inner_marketplace_is_refused_and_not_read_with_the_outer_ones_token() {
    let (base, calls) = nested_marketplaces().await;
    let text = format!("{}{}", configuration(&base, "memory:"), marketplace_at(&format!("{base}/store/")));
    let receiver = Receiver::start(&text, Accept).await;
    for event in
        ["/store;v=1/events/1", "/STORE/events/1", "/store%3Bv/events/1", "/Store;/events/1", "/store%20/events/1"]
    {
        let answer = receiver.notify("/create", &format!("{base}{event}")).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{event}");
        let body = body_of(answer).await;
        assert!(body["message"].as_str().expect("a message").contains(&format!("{base}/store")), "{body}");
    }
    assert!(receiver.events().await.is_empty() && calls.lock().expect("unpoisoned").is_empty(), "nobody was called");
}

#[tokio::test]
async fn no_credential_in_a_query_is_kept_or_shown() {
    let (marketplace, receiver) = start().await;
    let bearer = receiver.token().await;
    let url = format!(
        "{}?Access-Token=s3cret1&eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.s3cret&sig2=s3cret6",
        marketplace.order("1;jsessionid=s3cret0")
    );
    let query = format!(
        "eventUrl={}&TOKEN=s3cret2&x-api-key=s3cret3&sig=s3cret4&APPKEY=s3cret7&SAMLResponse=s3cret8&csrf=s3cret9&a=b;sessid=s3cret10&back=https%3A%2F%2Fp%2F%3Fpwd%3Ds3cret5&applicationUuid=06ea7f9d",
        encoded(&url)
    );
    let request = receiver.client.get(format!("{}/notifications/create?{query}", receiver.public));
    assert_eq!(request.bearer_auth(bearer).send().await.expect("answers").status(), StatusCode::ACCEPTED);
    let event = receiver.until_state("done").await;
    let id: doorbell::event::EventId = event["id"].as_str().expect("an id").parse().expect("an id");
    let record = receiver.store.load(id, false).await.expect("readable").expect("is there").record;
    assert_eq!(record.parameters, "applicationUuid=06ea7f9d");
    let shown = receiver.client.request(Method::GET, format!("{}/api/v1/events/{id}", receiver.admin)).send().await;
    let shown = shown.expect("answers").text().await.expect("text");
    assert!(!shown.contains("s3cret") && shown.contains("[not shown]"), "{shown}");
}

#[tokio::test]
async fn the_sandbox_answers_head_where_it_answers_get_and_says_what_else_it_takes() {
    let text = format!("{}\n[sandbox]\nlisten = \"127.0.0.1:0\"\n", configuration("http://127.0.0.1:1", "memory:"));
    let config = doorbell::config::Config::from_toml(&text).expect("a configuration");
    let sandbox = doorbell::sandbox::Sandbox::bind(&config).expect("listens");
    let base = BaseUrl::parse("http://127.0.0.1:1").expect("a base URL");
    sandbox.open(&config, base, SystemClock).expect("opens");
    let market = format!("http://{}", sandbox.address);
    for (method, path, status, allow) in [
        ("HEAD", "/simulate/events", 200, None),
        ("HEAD", "/simulate/events/1", 404, None),
        ("DELETE", "/simulate/events", 405, Some("get, head")),
        ("POST", "/simulate/events/1", 405, Some("get, head")),
        ("DELETE", "/simulate/ping", 405, Some("post")),
        ("PUT", "/simulate/subscription-order", 405, Some("post")),
        ("GET", "/oauth2/token", 405, Some("post")),
        ("DELETE", "/api/integration/v1/events/00000000-0000-4000-8000-000000000000", 405, Some("get, head")),
        ("GET", "/api/integration/v1/events/00000000-0000-4000-8000-000000000000/result", 405, Some("post")),
        ("OPTIONS", "*", 404, None),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (answered, head, body) = exchange(&market, request.as_bytes()).await;
        let head = head.to_ascii_lowercase();
        assert_eq!(answered, status, "{method} {path}: {head}");
        assert_eq!(body.is_empty(), method == "HEAD", "{method} {path}: {body:?}");
        assert!(allow.is_none_or(|allow| head.contains(&format!("allow: {allow}\r\n"))), "{method} {path}: {head}");
        assert!(!head.contains("content-length: 0"), "{method} {path}: {head}");
    }
    sandbox.stop().await;
}
