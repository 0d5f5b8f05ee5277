//! Who gets a token, and whose token opens the door.

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::receiver::{Receiver, json as body_of, notify};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::handler::Accept;
use doorbell::store::memory::MemoryStore;
use doorbell::store::sled::SledStore;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::header::{AUTHORIZATION, HeaderValue};
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
async fn without_a_good_token_nothing_is_recorded() {
    let (marketplace, receiver) = start().await;
    let url = marketplace.order("1");
    let good = receiver.token().await;
    let parts: Vec<&str> = good.split('.').collect();
    let (header, claims, signature) = (parts[0], parts[1], parts[2]);
    let decoded: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("claims");
    let forged = |algorithm, key: &[u8], change: serde_json::Value| {
        let mut claims = decoded.clone();
        claims.as_object_mut().expect("claims").extend(change.as_object().expect("changes").clone());
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(key)).expect("signs")
    };
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let flipped = format!("{header}.{claims}.{}", signature.chars().rev().collect::<String>());
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    for (case, headers) in [
        ("no header", vec![]),
        ("empty", vec![String::new()]),
        ("no scheme", vec![good.clone()]),
        ("another scheme", vec![format!("Basic {good}")]),
        ("no token", vec!["Bearer ".into()]),
        ("two headers", vec![format!("Bearer {good}"), format!("Bearer {good}")]),
        ("wrong signature", bearer(&flipped)),
        ("no signature", bearer(&format!("{header}.{claims}."))),
        ("two parts", bearer(&format!("{header}.{claims}"))),
        ("alg none", bearer(&format!("{none}.{claims}."))),
        ("alg none with a signature", bearer(&format!("{none}.{claims}.{signature}"))),
        ("another key", bearer(&forged(Algorithm::HS256, b"guess", json!({})))),
        ("the client's secret as key", bearer(&forged(Algorithm::HS256, b"outbound-secret", json!({})))),
        ("another issuer", bearer(&forged(Algorithm::HS256, b"guess", json!({"iss": "http://elsewhere"})))),
        ("garbage", bearer("a.b.c")),
        ("very long", bearer(&"a".repeat(20_000))),
    ] {
        let mut request = receiver
            .client
            .get(format!("{}/notifications/create?eventUrl={url}", receiver.public))
            .build()
            .expect("a request");
        for header in &headers {
            request.headers_mut().append(AUTHORIZATION, HeaderValue::from_str(header).expect("a header"));
        }
        let answer = receiver.client.execute(request).await.expect("answers");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{case}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer error=\"invalid_token\"", "{case}");
        assert_eq!(body_of(answer).await["errorCode"], "UNAUTHORIZED", "{case}");
    }
    let query =
        receiver.client.get(format!("{}/notifications/create?eventUrl={url}&access_token={good}", receiver.public));
    assert_eq!(query.send().await.expect("answers").status(), StatusCode::UNAUTHORIZED, "a token in the query is none");
    assert!(receiver.events().await.is_empty());
    assert_eq!(notify(&receiver.client, &receiver.public, &good, "/create", &url).await.status(), StatusCode::ACCEPTED);
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
    let open = || Arc::new(SledStore::open(directory.path(), false).expect("opens"));
    let before = Receiver::start_with(&configuration, open(), Accept, Arc::new(SystemClock)).await;
    let bearer = before.token().await;
    let Receiver { app, store, .. } = before;
    app.stop().await;
    drop(store);
    let after = Receiver::start_with(&configuration, open(), Accept, Arc::new(SystemClock)).await;
    let answer = notify(&after.client, &after.public, &bearer, "/create", &marketplace.order("1")).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}
