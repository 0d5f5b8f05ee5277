//! Who gets a token, and whose token opens the public listener.

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::receiver::{Receiver, json as body_of, notify};
use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::handler::Accept;
use doorbell::store::memory::MemoryStore;
use doorbell::store::sled::SledStore;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn start() -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    (marketplace, receiver)
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn the_token_endpoint_serves_basic_and_form_and_forbids_caching() {
    let (_marketplace, receiver) = start().await;
    let endpoint = || receiver.client.post(format!("{}/oauth2/token", receiver.public)).header("content-type", FORM);
    for request in [
        endpoint().basic_auth("marketplace", Some("outbound-secret")).body("grant_type=client_credentials"),
        endpoint()
            .basic_auth("marketplace", Some("outbound%2Dsecret"))
            .body("grant_type=client_credentials&scope=ROLE_ANY"),
        endpoint().body("grant_type=client_credentials&client_id=marketplace&client_secret=outbound-secret"),
        endpoint()
            .basic_auth("marketplace", Some("outbound-secret"))
            .body("grant_type=client_credentials&client_id=marketplace"),
    ] {
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let token = body_of(answer).await;
        assert_eq!(
            (&token["token_type"], &token["expires_in"], &token["scope"]),
            (&json!("bearer"), &json!(3600), &json!("notifications"))
        );
    }
}

#[tokio::test]
async fn the_token_endpoint_refuses_in_the_words_of_rfc_6749() {
    let (_marketplace, receiver) = start().await;
    let endpoint = || receiver.client.post(format!("{}/oauth2/token", receiver.public)).header("content-type", FORM);
    let known = |request: RequestBuilder| request.basic_auth("marketplace", Some("outbound-secret"));
    let twice = "grant_type=client_credentials&grant_type=client_credentials";
    for (case, request, status, error) in [
        ("no credentials", endpoint().body("grant_type=client_credentials"), 401, "invalid_client"),
        (
            "wrong secret",
            endpoint().basic_auth("marketplace", Some("x")).body("grant_type=client_credentials"),
            401,
            "invalid_client",
        ),
        (
            "unknown client",
            endpoint().basic_auth("x", Some("outbound-secret")).body("grant_type=client_credentials"),
            401,
            "invalid_client",
        ),
        (
            "half in the form",
            endpoint().body("grant_type=client_credentials&client_id=marketplace"),
            401,
            "invalid_client",
        ),
        ("not Basic", endpoint().bearer_auth("x").body("grant_type=client_credentials"), 401, "invalid_client"),
        ("no grant", known(endpoint()).body(""), 400, "invalid_request"),
        ("another grant", known(endpoint()).body("grant_type=password"), 400, "unsupported_grant_type"),
        ("a parameter twice", known(endpoint()).body(twice), 400, "invalid_request"),
        (
            "both ways",
            known(endpoint()).body("grant_type=client_credentials&client_secret=outbound-secret"),
            400,
            "invalid_request",
        ),
        (
            "two clients",
            known(endpoint()).body("grant_type=client_credentials&client_id=other"),
            400,
            "invalid_request",
        ),
        (
            "JSON",
            known(receiver.client.post(format!("{}/oauth2/token", receiver.public))).body("{}"),
            400,
            "invalid_request",
        ),
    ] {
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), status, "{case}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{case}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401, "{case}");
        let body = body_of(answer).await;
        assert_eq!(body["error"], error, "{case}");
        assert!(!body.to_string().contains("outbound-secret"), "{case}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_with(&configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    let bearer = receiver.token().await;
    clock.advance(Duration::from_secs(3601));
    let answer = notify(&receiver.client, &receiver.public, &bearer, "/create", &marketplace.order("1")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(body_of(answer).await["message"].as_str().expect("a message").contains("expired"));
    assert!(receiver.events().await.is_empty());
}

#[tokio::test]
async fn a_token_of_another_receiver_is_refused_even_if_the_two_share_their_secrets() {
    let marketplace = Marketplace::start().await;
    let ours = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    let theirs = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    let answer = notify(&ours.client, &ours.public, &theirs.token().await, "/create", &marketplace.order("1")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(ours.events().await.is_empty());
}

#[tokio::test]
async fn a_token_stays_good_across_a_restart() {
    let marketplace = Marketplace::start().await;
    let configuration = configuration(&marketplace.base_url, "memory:");
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Arc::new(SledStore::open(directory.path(), false, SystemClock.read()).expect("opens"));
    let before = Receiver::start_with(&configuration, open(), Accept, Arc::new(SystemClock)).await;
    let bearer = before.token().await;
    let Receiver { app, store, .. } = before;
    app.stop().await;
    drop(store);
    let after = Receiver::start_with(&configuration, open(), Accept, Arc::new(SystemClock)).await;
    let answer = notify(&after.client, &after.public, &bearer, "/create", &marketplace.order("1")).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_secret_before_is_good_while_it_is_configured() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("client_secret = \"outbound-secret\"", "client_secret = \"new\"\nprevious_client_secret = \"old\"");
    let receiver = Receiver::start(&text, Accept).await;
    for secret in ["new", "old"] {
        let token = crate::support::receiver::token(&receiver.client, &receiver.public, "marketplace", secret).await;
        let answer = notify(&receiver.client, &receiver.public, &token, "/create", &marketplace.order("1")).await;
        assert!(answer.status().is_success());
    }
}

#[tokio::test]
async fn a_scope_or_audience_that_is_not_to_be_had_is_refused_by_name() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("kind = \"oauth2\"", "kind = \"oauth2\"\nscope = \"notifications read\"\ntoken_lifetime = \"10m\"");
    let receiver = Receiver::start(&text, Accept).await;
    for (form, status, told) in [
        ("", 200, json!({"scope": "notifications read", "expires_in": 600})),
        ("&scope=read", 200, json!({"scope": "read"})),
        ("&scope=notifications+read", 200, json!({"scope": "notifications read"})),
        ("&audience=http%3A%2F%2F127.0.0.1%3A8080", 200, json!({"scope": "notifications read"})),
        ("&scope=write", 400, json!({"error": "invalid_scope"})),
        ("&scope=read+write", 400, json!({"error": "invalid_scope"})),
        ("&scope=read&scope=read", 400, json!({"error": "invalid_request"})),
        ("&audience=https%3A%2F%2Fother.example", 400, json!({"error": "invalid_target"})),
        ("&resource=https%3A%2F%2Fother.example", 400, json!({"error": "invalid_target"})),
    ] {
        let request = receiver.client.post(format!("{}/oauth2/token", receiver.public)).header("content-type", FORM);
        let request = request.basic_auth("marketplace", Some("outbound-secret"));
        let answer = request.body(format!("grant_type=client_credentials{form}")).send().await.expect("answers");
        assert_eq!(answer.status(), status, "{form}");
        let body = body_of(answer).await;
        for (name, value) in told.as_object().expect("an object") {
            assert_eq!(&body[name], value, "{form}: {body}");
        }
    }
}

#[tokio::test]
async fn the_token_endpoint_describes_itself_where_clients_look() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:");
    let text = text.replace("[admin]", "public_url = \"http://127.0.0.1:8080/market\"\n[admin]");
    let receiver = Receiver::start(&text, Accept).await;
    let origin = receiver.public.trim_end_matches("/market");
    for path in ["/.well-known/oauth-authorization-server/market", "/market/.well-known/oauth-authorization-server"] {
        let answer = receiver.client.get(format!("{origin}{path}")).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let metadata = body_of(answer).await;
        assert_eq!(metadata["issuer"], "http://127.0.0.1:8080/market");
        assert_eq!(metadata["token_endpoint"], "http://127.0.0.1:8080/market/oauth2/token");
        assert_eq!(metadata["grant_types_supported"], json!(["client_credentials"]));
        assert_eq!(metadata["scopes_supported"], json!(["notifications"]));
    }
}

#[tokio::test]
async fn who_guesses_waits_and_the_marketplace_does_not() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let (before, rest) = configuration(&marketplace.base_url, "memory:")
        .split_once("[integrations.outbound]")
        .map(|(before, rest)| (before.to_owned(), rest.to_owned()))
        .expect("a table");
    let text = format!(
        "{before}[[integrations.outbound]]\nkind = \"basic\"\nclient_id = \"marketplace\"\nclient_secret = \
         \"outbound-secret\"\n[[integrations.outbound]]{rest}"
    )
    .replace("[admin]", "trusted_proxies = [\"127.0.0.1\"]\n[admin]");
    let receiver = Receiver::start_with(&text, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    let event = marketplace.order("1");
    let by_token = async |address: &str, secret: &str| {
        let request = receiver.client.post(format!("{}/oauth2/token", receiver.public)).header("content-type", FORM);
        let request = request.basic_auth("marketplace", Some(secret)).header("x-forwarded-for", address);
        let answer = request.body("grant_type=client_credentials").send().await.expect("answers");
        (
            answer.status().as_u16(),
            answer.headers().get("retry-after").map(|wait| wait.to_str().expect("text").to_owned()),
        )
    };
    let by_name = async |address: &str, secret: &str| {
        let request = receiver.client.get(format!("{}/notifications/create?eventUrl={event}", receiver.public));
        let request = request.basic_auth("marketplace", Some(secret)).header("x-forwarded-for", address);
        let answer = request.send().await.expect("answers");
        (
            answer.status().as_u16(),
            answer.headers().get("retry-after").map(|wait| wait.to_str().expect("text").to_owned()),
        )
    };
    // A stranger, at either public listener: five tries cost nothing, and then each costs more.
    let market = "198.51.100.1";
    assert_eq!(by_token(market, "outbound-secret").await.0, 200);
    for (guess, wait) in [(1, None), (2, None), (3, None), (4, None), (5, None), (6, Some("1"))] {
        assert_eq!(by_token("203.0.113.1", "guess").await.1.as_deref(), wait, "guess {guess}");
    }
    assert_eq!(by_name("203.0.113.1", "outbound-secret").await, (429, Some("1".into())), "not even the right one");
    clock.advance(Duration::from_secs(1));
    assert_eq!(by_name("203.0.113.1", "guess").await, (401, None));
    assert_eq!(by_token("203.0.113.1", "guess").await, (429, Some("2".into())));

    // Many strangers: an address has one try, and the marketplace passes, from where it is known and from elsewhere.
    for number in 0..60 {
        by_token(&format!("203.0.114.{number}"), "guess").await;
    }
    assert_eq!(by_token("203.0.115.1", "guess").await, (401, None));
    assert_eq!(by_token("203.0.115.1", "guess").await, (429, Some("30".into())));
    assert_eq!(by_token(market, "outbound-secret").await.0, 200);
    assert_eq!(by_token("198.51.100.2", "outbound-secret").await.0, 200, "from an address it never had");
    assert_eq!(by_name("198.51.100.3", "outbound-secret").await.0, 202);

    // A stranger behind the marketplace's own address.
    for guess in 0..20 {
        let status = by_token(market, "guess").await.0;
        assert_eq!(status, if guess == 0 { 401 } else { 429 }, "many guess at this name, so it waits like any other");
    }
    assert_eq!(by_token(market, "outbound-secret").await.0, 200);
    assert_eq!(by_token("203.0.113.1, 198.51.100.1", "outbound-secret").await.0, 200);
    assert_eq!(
        by_token("198.51.100.1, 203.0.113.1", "outbound-secret").await.0,
        429,
        "what a stranger says of itself is not believed"
    );
}

#[tokio::test]
async fn a_page_in_the_operators_browser_cannot_use_the_private_listener() {
    let (_marketplace, receiver) = start().await;
    let port = receiver.admin.rsplit(':').next().expect("a port").to_owned();
    for (host, origin, status) in [
        ("127.0.0.1", None, 200),
        ("localhost", None, 200),
        ("[::1]", None, 200),
        ("127.0.0.1", Some("http://127.0.0.1"), 200),
        ("127.0.0.1", Some("https://evil.example"), 403),
        ("127.0.0.1", Some("null"), 403),
        ("evil.example", None, 403),
        ("localhost.evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
    ] {
        let mut request = receiver.client.post(format!("{}/api/v1/keys/rotate", receiver.admin));
        request = request.header("host", format!("{host}:{port}"));
        if let Some(origin) = origin {
            request = request.header("origin", format!("{origin}:{port}"));
        }
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), status, "{host} {origin:?}");
    }
}
