//! Inbound tokens: what marketplaces answer when they are asked for one, and what if they do not.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::config::Config;
use doorbell::handler::Accept;
use doorbell::marketplace::{CredentialForm, MarketplaceClient};
use doorbell::store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, notify};
use crate::support::{PATIENCE, configuration, let_time_pass};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A configuration with the schedule that users have, and not that of impatient tests.
fn patient(marketplace: &Marketplace) -> String {
    configuration(&marketplace.base_url, "memory:").replace("retry = [\"10ms\"]", "")
}

async fn start(configuration: &str) -> (Receiver, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let receiver = Receiver::start_with(configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    (receiver, clock)
}

async fn notify_of(receiver: &Receiver, marketplace: &Marketplace, events: std::ops::Range<usize>) {
    let bearer = receiver.token().await;
    for number in events {
        let url = marketplace.order(&number.to_string());
        let answer = notify(&receiver.client, &receiver.public, &bearer, "/create", &url).await;
        assert!(answer.status().is_success(), "{}", answer.status());
    }
}

async fn events(receiver: &Receiver) -> Vec<Value> {
    let answer =
        receiver.client.get(format!("{}/api/v1/events?limit=200", receiver.admin)).send().await.expect("answers");
    crate::support::receiver::json(answer).await["events"].as_array().expect("a list").clone()
}

/// Waits until all events satisfy `condition`.
async fn until_all(receiver: &Receiver, what: &str, condition: impl Fn(&Value) -> bool) {
    let reached = async {
        while !events(receiver).await.iter().all(&condition) {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        let others: Vec<_> = events(receiver).await.into_iter().filter(|event| !condition(event)).collect();
        panic!("waited in vain until {what}: {others:?}");
    }
}

/// A client of `marketplace` by the first integration of `configuration`.
fn client(configuration: &str, clock: Arc<dyn Clock>) -> MarketplaceClient {
    let config = Config::from_toml(configuration).unwrap_or_else(|error| panic!("{error}"));
    MarketplaceClient::new(&config.integrations[0].marketplaces[0], &config.egress, clock).expect("a client")
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_fails_every_event_within_the_first_minute_and_says_so() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.token_rule = Some(Twist::Hang));
    let (receiver, clock) = start(&patient(&marketplace)).await;
    notify_of(&receiver, &marketplace, 0..60).await;
    marketplace.until("a token is asked for", |state| state.token_requests == 1).await;
    // As long as one request may take.
    clock.advance(Duration::from_secs(15));
    until_all(&receiver, "each has failed", |event| {
        let reason = event["lastError"].as_str().unwrap_or_default();
        event["attempts"] == 1 && reason.contains("the token endpoint did not answer within 15s")
    })
    .await;
    assert_eq!(marketplace.with(|state| state.token_requests), 1, "one request was made for all of them");

    marketplace.with(|state| state.token_rule = None);
    tokio::select! {
        () = let_time_pass(&clock) => {}
        () = until_all(&receiver, "each is done", |event| event["state"] == "done") => {}
    }
    assert!(events(&receiver).await.iter().all(|event| event["attempts"].as_u64() < Some(3)), "it was back at once");
    assert_eq!(marketplace.with(|state| state.token_requests), 2);
}

#[tokio::test]
async fn a_token_endpoint_that_keeps_hanging_is_waited_for_briefly_once_it_has_failed() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.token_rule = Some(Twist::Hang));
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let client = Arc::new(client(&patient(&marketplace), clock.clone()));
    for (requests, wait) in [(1, 15), (2, 5)] {
        let asking = tokio::spawn({
            let client = Arc::clone(&client);
            async move { client.check().await }
        });
        marketplace.until("it is asked", |state| state.token_requests == requests).await;
        clock.advance(Duration::from_secs(wait));
        let answer = tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time").expect("no panic");
        assert!(answer.expect_err("no token").to_string().contains("did not answer within 15s"));
        // The cool-down ends, or the second request goes on.
        clock.advance(Duration::from_secs(5));
    }
    marketplace.with(|state| state.token_rule = None);
    clock.advance(Duration::from_mins(1));
    tokio::select! {
        () = let_time_pass(&clock) => {}
        () = async { while client.check().await.is_err() { tokio::task::yield_now().await } } => {}
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_the_token_from_nobody() {
    let marketplace = Marketplace::start().await;
    let gate = Arc::new(Semaphore::new(0));
    marketplace.with(|state| state.token_twists.push_back(Twist::GiveLate(Arc::clone(&gate))));
    let client = Arc::new(client(&patient(&marketplace), Arc::new(SystemClock)));
    let gone = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.check().await }
    });
    marketplace.until("it has asked", |state| state.token_requests == 1).await;
    gone.abort();
    assert!(gone.await.expect_err("gone").is_cancelled());
    let (first, second, ()) = tokio::join!(client.check(), client.check(), async { gate.add_permits(1) });
    assert_eq!((first.expect("a token"), second.expect("a token")), (CredentialForm::Encoded, CredentialForm::Encoded));
    assert_eq!(marketplace.with(|state| state.token_requests), 1, "the request outlived the one who made it");
}

#[tokio::test]
async fn a_renewal_that_hangs_costs_nothing_while_the_old_token_is_good() {
    let marketplace = Marketplace::start().await;
    let (receiver, clock) = start(&patient(&marketplace)).await;
    notify_of(&receiver, &marketplace, 0..1).await;
    marketplace.until_settled("0").await;
    marketplace.with(|state| state.token_rule = Some(Twist::Hang));
    clock.advance(Duration::from_secs(43_199 - 60));
    notify_of(&receiver, &marketplace, 1..4).await;
    for id in ["1", "2", "3"] {
        marketplace.until_settled(id).await;
    }
    assert_eq!(marketplace.with(|state| state.token_requests), 2, "one renewal is on its way");
    clock.advance(Duration::from_mins(1));
    notify_of(&receiver, &marketplace, 4..5).await;
    until_all(&receiver, "the one without a token has failed", |event| {
        event["state"] == "done" || event["lastError"].as_str().is_some_and(|reason| reason.contains("token endpoint"))
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_refused_is_not_tried_by_every_event() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.credentials = Some("Basic of somebody else".to_owned()));
    let (receiver, clock) = start(&patient(&marketplace)).await;
    notify_of(&receiver, &marketplace, 0..60).await;
    for _ in 0..60 {
        until_all(&receiver, "each has failed", |event| {
            event["lastError"].as_str().is_some_and(|reason| reason.contains("refused our client: invalid_client"))
        })
        .await;
        clock.advance(Duration::from_secs(1));
    }
    let requests = marketplace.with(|state| state.token_requests);
    assert!((2..=15).contains(&requests), "{requests} requests in a minute");
}

#[tokio::test]
async fn a_token_endpoint_that_asks_for_patience_is_given_it_and_asked_again_for_later_events() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.token_twists.push_back(Twist::RetryAfter(429, "600".into())));
    let (receiver, clock) = start(&patient(&marketplace)).await;
    notify_of(&receiver, &marketplace, 0..2).await;
    until_all(&receiver, "both have failed", |event| event["attempts"] == 1).await;
    let due = receiver.idle_until().await.expect("there");
    assert_eq!(due, clock.monotonic().plus(Duration::from_mins(10)), "as long as it asked");
    clock.advance(Duration::from_secs(30));
    notify_of(&receiver, &marketplace, 2..3).await;
    until_all(&receiver, "the later one has failed", |event| event["attempts"] == 1).await;
    assert_eq!(marketplace.with(|state| state.token_requests), 1, "the endpoint is left alone");
    clock.advance(Duration::from_secs(30));
    notify_of(&receiver, &marketplace, 3..4).await;
    marketplace.until_settled("3").await;
    clock.advance(Duration::from_mins(9));
    until_all(&receiver, "each is done", |event| event["state"] == "done").await;
}

#[tokio::test]
async fn the_wall_clock_neither_ends_a_token_nor_keeps_it() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let client = client(&patient(&marketplace), clock.clone());
    client.check().await.expect("a token");
    let day = Duration::from_hours(24);
    clock.set(clock.now().plus(day));
    client.check().await.expect("a token");
    assert_eq!(marketplace.with(|state| state.token_requests), 1, "a day forward");
    clock.set(doorbell::clock::Timestamp::from_millis(0));
    clock.advance(Duration::from_secs(43_199));
    client.check().await.expect("a token");
    assert_eq!(marketplace.with(|state| state.token_requests), 2, "its end came, whatever the date");
}

#[tokio::test]
async fn token_answers_that_are_nearly_right_are_tokens() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(br#"{"access_token": "token-1"}"#).expect("packs");
    let packed = packed.finish().expect("packs");
    let text = |body: &str| (200, vec![JSON], body.as_bytes().to_vec());
    let answers = [
        text(r#"{"access_token": "token-1", "token_type": "bearer", "expires_in": "1800"}"#),
        text(r#"{"access_token": "token-1", "token_type": "BEARER", "expires_in": 1800.5}"#),
        text(r#"{"access_token": "token-1", "token_type": "Bearer", "expires_in": -1}"#),
        text(r#"{"access_token": "token-1", "token_type": null, "expires_in": 0}"#),
        text(r#"{"access_token": "token-1", "token_type": 7, "expires_in": null}"#),
        text(r#"{"access_token": "token-1", "token_type": "JWT", "expires_in": 1e99}"#),
        text(r#"{"access_token": "token-1", "expires_in": 99999999999999999999999999, "scope": ["A", "B"]}"#),
        text(r#"{"access_token": "token-1", "expires_in": {}, "scope": "A B", "refresh_token": null, "jti": [1]}"#),
        text(r#"{"access_token": "token-1", "error": null, "scope": {"a": []}}"#),
        text(r#"{"access_token": " token-1\r\n", "access_token_expires": "soon"}"#),
        text(r#"{"access_token": "token-0", "access_token": "token-1"}"#),
        text("\u{feff}\r\n {\"access_token\": \"token-1\"}\n\n"),
        (201, vec![JSON], br#"{"access_token": "token-1"}"#.to_vec()),
        (200, vec![], br#"{"access_token": "token-1"}"#.to_vec()),
        (200, vec![("Content-Type", "text/html; charset=utf-8")], br#"{"access_token": "token-1"}"#.to_vec()),
        (200, vec![JSON, ("Content-Encoding", "gzip")], packed),
        (200, vec![JSON], b"{\"access_token\": \"token-1\", \"name\": \"Zo\xe9\"}".to_vec()),
        text(r#"{"access_token": "token-1", "name": "Zo\ud800"}"#),
        text("{\"access_token\": \"token-1\", \"name\": \"Zo\te\"}"),
        (
            200,
            vec![JSON],
            "\u{feff}{\"access_token\": \"token-1\"}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ),
        text(r#"{"access_token": "token-1", "expires_in": 1e999}"#),
        text(r#"{"access_token": "token-1", "expires_in": Infinity, "name": "\"Infinity"}"#),
        text(r#"{"access_token": "token-1", "expires_in":-Infinity, "load": [NaN]}"#),
        text(r#"{"access_token": "Bearer token-1"}"#),
        text(r#"{"access_token": "bearer  token-1 "}"#),
        (200, vec![("Content-Type", FORM)], b"access_token=token%2D1&expires_in=3600&token_type=bearer".to_vec()),
        (200, vec![("Content-Type", "text/plain")], b"access_token=token-1\n".to_vec()),
    ];
    for (status, headers, body) in answers {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let marketplace = Marketplace::start().await;
        marketplace.with(|state| state.token_twists.push_back(Twist::Say(status, headers, body)));
        let receiver = Receiver::start(&patient(&marketplace), Accept).await;
        receiver.notify("/create", &marketplace.order("1")).await;
        let event = receiver.until_state("done").await;
        assert_eq!((&event["attempts"], marketplace.with(|state| state.token_requests)), (&json!(1), 1), "{shown}");
    }
}

#[tokio::test]
async fn token_answers_that_are_none_are_called_by_their_name_and_not_repeated() {
    let html = ("Content-Type", "text/html;charset=UTF-8");
    for (status, header, body, expected) in [
        (200, html, "<html>s3cret</html>", "answered 200 OK with text/html, which is no token"),
        (200, JSON, "", "answered 200 OK without a body"),
        (200, JSON, "s3cret", "answered 200 OK with application/json, which is no token"),
        (200, JSON, r#"["s3cret"]"#, "answered 200 OK with application/json, which is no token"),
        (200, JSON, r#"{"token": "s3cret"}"#, "answer has no access_token"),
        (200, JSON, r#"{"access_token": null}"#, "answer has no access_token"),
        (200, JSON, r#"{"access_token": ["s3cret"]}"#, "answer has no access_token, or not as text"),
        (200, JSON, r#"{"access_token": " \n"}"#, "answer has no access_token"),
        (200, JSON, r#"{"access_token": "s3cret\ns3cret"}"#, "characters that cannot be sent in a header"),
        (200, JSON, r#"{"access_token": "s3crét"}"#, "characters that cannot be sent in a header"),
        (200, JSON, r#"{"error": "invalid_scope", "error_description": "s3cret"}"#, "our client: invalid_scope"),
        (400, JSON, r#"{"error": "unauthorized_client"}"#, "our client: unauthorized_client"),
        (400, JSON, r#"{"error": "no vendor:inbound-secret"}"#, "our client: an error without a known code"),
        (400, JSON, r#"{"error": "inbound-secret"}"#, "our client: an error without a known code"),
        (401, html, "<html>s3cret</html>", "the token endpoint answered 401"),
        (403, JSON, r#"{"error": "s3cret"}"#, "the token endpoint answered 403"),
        (400, JSON, r#"{"error": {"s3cret": 1}}"#, "the token endpoint answered 400"),
        (500, JSON, r#"{"access_token": "s3cret"}"#, "the token endpoint answered 500"),
    ] {
        let marketplace = Marketplace::start().await;
        let twist = Twist::Say(status, vec![header], body.as_bytes().to_vec());
        marketplace.with(|state| state.token_rule = Some(twist));
        let client = client(&patient(&marketplace), Arc::new(SystemClock));
        let error = client.check().await.expect_err("no token");
        let (shown, details) = (error.to_string(), format!("{error:?}"));
        assert!(shown.contains(expected), "{body}: {shown}");
        for secret in ["s3cr", "inbound-secret"] {
            assert!(!shown.contains(secret) && !details.contains(secret), "{body}: {details}");
        }
        assert_eq!(marketplace.with(|state| state.token_requests), 1, "{body}");
    }
}

#[tokio::test]
async fn a_token_that_is_longer_than_a_header_may_be_is_refused_by_name() {
    let marketplace = Marketplace::start().await;
    let body = json!({"access_token": "t".repeat(100_000)}).to_string().into_bytes();
    marketplace.with(|state| state.token_rule = Some(Twist::Say(200, vec![JSON], body)));
    let client = client(&patient(&marketplace), Arc::new(SystemClock));
    let error = client.check().await.expect_err("no token").to_string();
    assert!(error.contains("too long to be sent in a header"), "{error}");
}

/// What `id` and `secret` are in the header of HTTP Basic.
fn basic(id: &str, secret: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{id}:{secret}")))
}

#[tokio::test]
async fn a_secret_with_reserved_characters_is_good_encoded_and_raw() {
    let secret = "p+q/r=s t%~ü:";
    let encoded = basic("vendor", "p%2Bq%2Fr%3Ds+t%25%7E%C3%BC%3A");
    let raw = basic("vendor", secret);
    for (accepted, requests, form) in [(&encoded, 1, CredentialForm::Encoded), (&raw, 2, CredentialForm::Raw)] {
        let marketplace = Marketplace::start().await;
        marketplace.with(|state| state.credentials = Some(accepted.clone()));
        let configuration = patient(&marketplace).replace("inbound-secret", secret);
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let client = client(&configuration, clock.clone());
        assert_eq!(client.check().await.expect("a token"), form);
        let shown = marketplace.with(|state| state.shown_credentials.clone());
        assert_eq!(shown, [&encoded, &raw].map(Clone::clone)[..requests], "encoded first");
        clock.advance(Duration::from_hours(24));
        assert_eq!(client.check().await.expect("a token"), form);
        assert_eq!(marketplace.with(|state| state.token_requests), requests + 1, "what worked is remembered");
    }
}

#[tokio::test]
async fn a_raw_secret_is_found_out_whatever_the_refusal_looks_like_and_while_events_wait() {
    for refusal in [
        Twist::Answer(401),
        Twist::Say(400, vec![JSON], br#"{"error": "invalid_client"}"#.to_vec()),
        Twist::Say(200, vec![JSON], br#"{"error": "invalid_client"}"#.to_vec()),
        Twist::Say(401, vec![JSON], br#"{"error": "unauthorized", "error_description": "Bad credentials"}"#.to_vec()),
        Twist::Answer(403),
        Twist::Say(403, vec![JSON], br#"{"error": "invalid_client"}"#.to_vec()),
        Twist::Say(500, vec![JSON], br#"{"error": "invalid_client"}"#.to_vec()),
        Twist::Say(400, vec![JSON], br#"{"error": "unauthorized_client"}"#.to_vec()),
        Twist::Say(400, vec![JSON], br#"{"error": {"code": "invalid_client"}}"#.to_vec()),
        Twist::Say(500, vec![JSON], br#"{"errors": [{"code": "INVALID_CLIENT"}]}"#.to_vec()),
        Twist::Say(400, vec![JSON], br#"{"error": "Bad credentials"}"#.to_vec()),
        Twist::Say(200, vec![JSON], br#"{"error": "Bad credentials"}"#.to_vec()),
        Twist::Say(400, vec![("Content-Type", FORM)], b"error=invalid_client".to_vec()),
        Twist::Say(200, vec![JSON], br#"{"access_token": null, "error": "invalid_client"}"#.to_vec()),
        Twist::Say(200, vec![JSON], br#"{"access_token": "", "error": "invalid_client"}"#.to_vec()),
        Twist::Say(500, vec![("Content-Type", "text/plain")], b"error: invalid_client".to_vec()),
    ] {
        let marketplace = Marketplace::start().await;
        marketplace.with(|state| {
            state.credentials = Some(basic("vendor", "a/b"));
            state.token_twists.push_back(refusal.clone());
        });
        let receiver = Receiver::start(&patient(&marketplace).replace("inbound-secret", "a/b"), Accept).await;
        receiver.notify("/create", &marketplace.order("1")).await;
        let event = receiver.until_state("done").await;
        assert_eq!((&event["attempts"], marketplace.with(|state| state.token_requests)), (&json!(1), 2), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_refused_in_both_forms_is_tried_once_in_each() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.credentials = Some("nobody's".to_owned()));
    let configuration = patient(&marketplace).replace("inbound-secret", "a/b");
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let client = client(&configuration, clock.clone());
    for requests in [2, 4, 4] {
        client.check().await.expect_err("no token");
        assert_eq!(marketplace.with(|state| state.token_requests), requests, "after two failures it is left alone");
    }
}

#[tokio::test]
async fn a_refusal_that_may_mean_anything_is_not_put_down_to_a_secret_that_has_worked_nor_to_both_forms() {
    let refusal = || Twist::Say(400, vec![JSON], br#"{"error": "invalid_scope"}"#.to_vec());
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.credentials = Some(basic("vendor", "a%2Fb")));
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let client = client(&patient(&marketplace).replace("inbound-secret", "a/b"), clock.clone());
    // The first form is refused for its scope, and the second for itself: what is wrong is the scope.
    marketplace.with(|state| state.token_twists.push_back(refusal()));
    let error = client.check().await.expect_err("no token").to_string();
    assert!(error.contains("invalid_scope"), "{error}");
    assert_eq!(client.check().await.expect("a token"), CredentialForm::Encoded);
    assert_eq!(marketplace.with(|state| state.token_requests), 3);
    clock.advance(Duration::from_hours(24));
    marketplace.with(|state| state.token_twists.push_back(refusal()));
    client.check().await.expect_err("no token");
    assert_eq!(marketplace.with(|state| state.token_requests), 4, "it has worked before");
}

#[tokio::test]
async fn the_form_that_gets_further_is_the_one_to_go_on_with() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| {
        state.credentials = Some(basic("vendor", "a/b"));
        let out_of_scope = Twist::Say(400, vec![JSON], br#"{"error": "invalid_scope"}"#.to_vec());
        state.token_twists.extend([Twist::Answer(401), out_of_scope]);
    });
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let client = client(&patient(&marketplace).replace("inbound-secret", "a/b"), clock);
    let error = client.check().await.expect_err("no token").to_string();
    assert!(error.contains("invalid_scope"), "{error}");
    assert_eq!(client.check().await.expect("a token"), CredentialForm::Raw);
    assert_eq!(marketplace.with(|state| state.token_requests), 3, "the other is not tried again");
}

#[tokio::test]
async fn an_empty_scope_is_not_sent() {
    let marketplace = Marketplace::start().await;
    // The marketplace of the tests refuses whoever does not ask for its scope.
    let configuration = patient(&marketplace).replace("client_id = \"vendor\"", "client_id = \"vendor\"\nscope = \"\"");
    let error = client(&configuration, Arc::new(SystemClock)).check().await.expect_err("no token").to_string();
    assert!(error.contains("invalid_client"), "{error}");
    assert_eq!(marketplace.with(|state| state.token_forms.clone()), ["grant_type=client_credentials"]);
}

#[tokio::test]
async fn check_tells_that_a_secret_is_only_taken_as_it_is() {
    let marketplace = Marketplace::start().await;
    marketplace.with(|state| state.credentials = Some(basic("vendor", "a/b")));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorbell.toml");
    std::fs::write(&file, patient(&marketplace).replace("inbound-secret", "a/b")).expect("written");
    let check = tokio::task::spawn_blocking(move || {
        std::process::Command::new(crate::support::process::doorbell())
            .args(["check", "--output", "json", "--config"])
            .arg(&file)
            .output()
    });
    let output = tokio::time::timeout(PATIENCE, check).await.expect("in time").expect("no panic").expect("runs");
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = findings.as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["detail"].to_string().contains("token issued by"));
    let detail = finding.unwrap_or_else(|| panic!("{findings:?}"))["detail"].to_string();
    assert!(detail.contains("only as they are") && !detail.contains("a/b"), "{detail}");
}
