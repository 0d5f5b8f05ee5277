//! What is logged, whatever level is asked for: no secret, no token, no body.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use doorbell::clock::SystemClock;
use doorbell::store::EventStore;
use doorbell::store::sled::RecoveringStore;
use reqwest::Client;
use serde_json::{Value, json};

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::process::{Process, doorbell};
use crate::support::receiver::{json as body_of, notify, token};

/// Every way in which these bytes are usually written.
fn spellings(secret: &[u8]) -> Vec<String> {
    let list =
        |separator: &str, one: &dyn Fn(&u8) -> String| secret.iter().map(one).collect::<Vec<_>>().join(separator);
    let mut spellings = vec![
        String::from_utf8_lossy(secret).into_owned(),
        secret.escape_ascii().to_string(),
        list("", &|byte| format!("{byte:02x}")),
        list("", &|byte| format!("{byte:02X}")),
        list(":", &|byte| format!("{byte:02x}")),
        list(" ", &|byte| format!("{byte:02x}")),
        list(", ", &u8::to_string),
        list(",", &u8::to_string),
        list(", ", &|byte| format!("{byte:x}")),
        list(", ", &|byte| format!("{byte:X}")),
        list(", ", &|byte| format!("{byte:#x}")),
        list(",\n    ", &u8::to_string),
    ];
    // In base64 a run of bytes is spelt in three ways, by where it begins; the characters at its ends belong to others too.
    for (skipped, own) in [(0, 0), (1, 2), (2, 3)] {
        let padded = [&vec![0; skipped][..], secret].concat();
        for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = alphabet.encode(&padded);
            spellings.push(text[own..text.len() - 2].to_owned());
        }
    }
    spellings
}

/// Where a secret is found, with what stands around it. Halves are looked for too, so that one that is broken over lines
/// or pages is found.
fn found(log: &str, secret: &[u8]) -> Option<String> {
    let halves = [&secret[..secret.len().div_ceil(2)], &secret[secret.len() / 2..]];
    let spellings = halves.into_iter().flat_map(spellings);
    spellings.filter(|spelling| spelling.len() > 5).find_map(|spelling| {
        let at = log.find(&spelling)?;
        let (from, to) = (log.floor_char_boundary(at.saturating_sub(300)), log.ceil_char_boundary(at + 100));
        Some(format!("{spelling} in …{}…", &log[from..to]))
    })
}

#[test]
fn a_secret_is_found_in_every_spelling() {
    let key: Vec<u8> = (0..32_u8).map(|place| place.wrapping_mul(89).wrapping_add(7)).collect();
    for secret in [key, b"outbound-secret".to_vec()] {
        let mut logs =
            vec![format!("{secret:?}"), format!("{secret:#?}"), format!("{secret:x?}"), format!("{secret:X?}")];
        for before in 0..4 {
            let around = [&vec![7; before][..], &secret, b"more"].concat();
            logs.push(STANDARD.encode(&around));
            logs.push(URL_SAFE_NO_PAD.encode(&around));
            logs.push(format!("b\"{}\"", around.escape_ascii()));
            logs.push(around.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().concat());
        }
        for log in logs {
            assert!(found(&format!("page {log}, and so on"), &secret).is_some(), "{log}");
        }
        assert_eq!(found("page [1, 2, 3], and so on", &secret), None);
    }
}

const PERSON: &str = "jane.roe.7731@customer.example";
const ADMIN: &str = "admin-token-5f1c9b";
const GUESS: &str = "guessed-secret-4d7e21";
const STRAY: &str = "stray-credential-88aa31";

/// Everything that has to do with a secret happens once, and then the store is opened again. Returns what was logged, and
/// what must not be there.
async fn a_day(level: &str, format: &str) -> (String, Vec<(String, Vec<u8>)>) {
    let marketplace = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let file = directory.path().join("doorbell.toml");
    let text = configuration(&marketplace.base_url, &format!("sled:{}", data.display()));
    std::fs::write(&file, text.replace("[admin]", &format!("[admin]\ntoken = \"{ADMIN}\""))).expect("written");
    let variables = [
        ("DOORBELL__LOG__LEVEL", level),
        ("DOORBELL__LOG__FORMAT", format),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "1"),
    ];
    let client = Client::new();
    let mut log = Vec::new();
    let mut secrets = Vec::new();
    for round in ["first", "second"] {
        let process = Process::serve(&doorbell(), &file, &variables);
        let issued = token(&client, &process.public, "marketplace", "outbound-secret").await;
        let order = |id: &str| {
            let payload = json!({"user": {"email": PERSON}, "order": {"editionCode": "BASIC"}});
            let body = json!({"type": "SUBSCRIPTION_ORDER", "creator": {"email": PERSON}, "payload": payload});
            marketplace.event(&format!("{round}-{id}"), &body)
        };
        let broken = marketplace.raw_event(&format!("{round}-broken"), format!("{{\"type\": {PERSON}").as_bytes());
        // The marketplace fails once in each way.
        marketplace.with(|state| {
            state.token_twists.push_back(Twist::Answer(401));
            state.read_twists.extend([Twist::Answer(401), Twist::Answer(500), Twist::Truncated]);
            state.result_twists.extend([Twist::Answer(500), Twist::Truncated]);
        });
        for id in ["a", "b"] {
            assert_eq!(notify(&client, &process.public, &issued, "/create", &order(id)).await.status(), 202);
        }
        for id in ["a", "b"] {
            marketplace.until_settled(&format!("{round}-{id}")).await;
        }
        notify(&client, &process.public, &issued, "/create", &broken).await;
        marketplace.until("it was read", |state| state.events[&format!("{round}-broken")].reads > 0).await;

        // What strangers try, and what the operator does.
        let stray = format!("{}/notifications/create?access_token={STRAY}&eventUrl=x", process.public);
        client.get(stray).bearer_auth(STRAY).send().await.expect("answers");
        let guess = client.post(format!("{}/oauth2/token", process.public)).basic_auth("marketplace", Some(GUESS));
        let guess = guess.header("content-type", "application/x-www-form-urlencoded");
        guess.body(format!("grant_type=client_credentials&client_secret={GUESS}")).send().await.expect("answers");
        let admin = |path: &str| client.get(format!("{}{path}", process.admin));
        admin("/api/v1/events").bearer_auth(STRAY).send().await.expect("answers");
        let events = body_of(admin("/api/v1/events").bearer_auth(ADMIN).send().await.expect("answers")).await;
        let id = events["events"][0]["id"].as_str().expect("an id").to_owned();
        admin(&format!("/api/v1/events/{id}")).bearer_auth(ADMIN).send().await.expect("answers");
        let rotate = client.post(format!("{}/api/v1/keys/rotate", process.admin)).bearer_auth(ADMIN);
        assert_eq!(rotate.send().await.expect("answers").status(), 200);
        let signature = issued.rsplit('.').next().expect("a signature");
        secrets
            .push(("the signature of an issued token".to_owned(), URL_SAFE_NO_PAD.decode(signature).expect("base64")));
        secrets.push(("an issued token".to_owned(), issued.clone().into_bytes()));

        log.extend(process.said.clone());
        let (status, lines) = process.terminate();
        assert!(status.success());
        log.extend(lines);
        secrets.extend(signing_keys(&data).await);
    }
    for token in marketplace.with(|state| state.valid_tokens.clone()) {
        secrets.push(("an inbound token".to_owned(), format!("Bearer {token}").into_bytes()));
    }
    for secret in ["outbound-secret", "inbound-secret", ADMIN, GUESS, STRAY, PERSON] {
        secrets.push((secret.to_owned(), secret.as_bytes().to_vec()));
    }
    (log.join("\n"), secrets)
}

/// The signing keys that are kept: as bytes, and as the text that stands for them.
async fn signing_keys(data: &Path) -> Vec<(String, Vec<u8>)> {
    let store: Arc<dyn EventStore> =
        Arc::new(RecoveringStore::open(data, false, Arc::new(SystemClock)).expect("opens"));
    let kept = store.get("issuer.keys").await.expect("read").expect("kept");
    let keys: Value = serde_json::from_slice(secrecy::ExposeSecret::expose_secret(&kept)).expect("JSON");
    let keys = keys.as_array().unwrap_or_else(|| keys["keys"].as_array().expect("keys")).clone();
    assert!(keys.len() > 1, "one is retired");
    let texts = keys.iter().map(|key| key["secret"].as_str().expect("a key").to_owned());
    texts
        .flat_map(|text| {
            let bytes = STANDARD.decode(&text).expect("base64");
            [("a signing key".to_owned(), bytes), ("a signing key as it is kept".to_owned(), text.into_bytes())]
        })
        .collect()
}

#[tokio::test]
async fn no_level_and_no_filter_prints_a_secret_or_a_body() {
    for (level, format) in [
        ("trace", "json"),
        ("trace", "text"),
        ("info,sled=trace,actix_http=trace,hyper=trace,hyper_util=trace,reqwest=trace,actix_web=debug", "json"),
        ("sled::pagecache=trace,doorbell=trace,sled[{x}]=trace", "text"),
        ("debug", "json"),
    ] {
        let (log, secrets) = a_day(level, format).await;
        assert!(log.contains("event done"), "{level} logs what happens: {log}");
        for (name, secret) in secrets {
            assert_eq!(found(&log, &secret), None, "{name} at {level}");
        }
    }
}
