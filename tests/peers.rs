//! Doorbell against what others made: an identity provider from npm, an OAuth 1.0 client from `PyPI`.
//!
//! `tests/peers/install` gets them. Where they are not there these tests are skipped, and say so; with
//! `DOORBELL_PEERS=required` they fail.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use doorbell::handler::Accept;
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::raw::exchange;
use crate::support::receiver::{Receiver, json as body_of, notify};
use crate::support::signature::SECRET;

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// Says that a test is skipped where everybody sees it, or fails it where it may not be.
fn skip(reason: &str) {
    let reason = format!("{reason}; run tests/peers/install");
    assert!(std::env::var_os("DOORBELL_PEERS").is_none_or(|value| value != "required"), "{reason}");
    // The test harness hides what the macros print.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

struct Provider {
    process: Child,
    base_url: String,
    /// Kept open: it would end of writing to nobody.
    _output: BufReader<ChildStdout>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Provider {
    fn start() -> Option<Self> {
        if !peers().join("node_modules/oidc-provider").exists() {
            skip("oidc-provider is not installed");
            return None;
        }
        let started =
            Command::new("node").arg(peers().join("provider.mjs")).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut process) = started else {
            skip("there is no node");
            return None;
        };
        let mut base_url = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        output.read_line(&mut base_url).expect("a line");
        assert!(base_url.starts_with("http://"), "the provider did not start: {base_url:?}");
        Some(Self { process, base_url: base_url.trim_end().to_owned(), _output: output })
    }

    async fn token(&self, receiver: &Receiver, client: &str, resource: &str, scope: &str) -> String {
        let request = receiver.client.post(format!("{}/token", self.base_url));
        let request = request.basic_auth(client, Some(format!("{client}-secret")));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let form = format!("grant_type=client_credentials&resource=urn:{resource}&scope={scope}");
        let answer = body_of(request.body(form).send().await.expect("answers")).await;
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }

    async fn post(&self, receiver: &Receiver, path: &str, form: String) {
        let request = receiver.client.post(format!("{}{path}", self.base_url));
        let request = request.basic_auth("market", Some("market-secret"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        assert!(request.body(form).send().await.expect("answers").status().is_success());
    }
}

/// A configuration whose marketplace authenticates as `outbound` says.
fn with_outbound(marketplace: &Marketplace, outbound: &str) -> String {
    let text = configuration(&marketplace.base_url, "memory:");
    let (before, rest) = text.split_once("[integrations.outbound]").expect("a table");
    let (_, after) = rest.split_once("[[integrations.marketplaces]]").expect("marketplaces");
    format!("{before}{outbound}\n[[integrations.marketplaces]]{after}")
}

#[tokio::test]
async fn tokens_of_a_real_identity_provider_are_verified_asked_about_and_outlive_a_change_of_its_keys() {
    let Some(provider) = Provider::start() else { return };
    let market = Marketplace::start().await;
    let issuer = &provider.base_url;
    let outbound = format!(
        "[[integrations.outbound]]\nkind = \"jwt\"\nclient_id = \"market\"\nclient_id_claim = \"client_id\"\n\
         issuer = \"{issuer}\"\naudience = \"doorbell\"\nscope = \"notify\"\n\
         [[integrations.outbound]]\nkind = \"introspection\"\nclient_id = \"market\"\n\
         introspection_url = \"{issuer}/token/introspection\"\nintrospection_client_id = \"doorbell\"\n\
         introspection_client_secret = \"doorbell-secret\"\nissuer = \"{issuer}\"\naudience = \"doorbell\"\n\
         scope = \"notify\""
    );
    let receiver = Receiver::start(&with_outbound(&market, &outbound), Accept).await;
    let event = market.order("1");
    let show = async |token: &str| {
        notify(&receiver.client, &receiver.public, token, "/create", &event).await.status().as_u16()
    };
    let token =
        async |client: &str, resource: &str, scope: &str| provider.token(&receiver, client, resource, scope).await;

    for (client, resource, scope, status) in [
        ("stranger", "doorbell:jwt", "notify", 401),
        ("market", "other:jwt", "notify", 401),
        ("market", "doorbell:jwt", "read", 403),
        ("stranger", "doorbell:opaque", "notify", 401),
        ("market", "doorbell:opaque", "read", 403),
    ] {
        assert_eq!(show(&token(client, resource, scope).await).await, status, "{client} {resource} {scope}");
    }
    let revoked = token("market", "doorbell:opaque", "notify").await;
    provider.post(&receiver, "/token/revocation", format!("token={revoked}")).await;
    assert_eq!(show(&revoked).await, 401);
    assert!(receiver.events().await.is_empty());

    let (signed, opaque) =
        (token("market", "doorbell:jwt", "notify").await, token("market", "doorbell:opaque", "notify").await);
    assert!(matches!(show(&signed).await, 200 | 202));
    assert!(matches!(show(&opaque).await, 200 | 202));
    provider.post(&receiver, "/change-keys", String::new()).await;
    let newly_signed = token("market", "doorbell:jwt", "notify").await;
    assert!(matches!(show(&newly_signed).await, 200 | 202), "signed with a key that has just come");
    assert!(matches!(show(&signed).await, 200 | 202), "signed with the key before");

    let (late, unasked) =
        (token("market", "doorbell:jwt", "notify").await, token("market", "doorbell:opaque", "notify").await);
    drop(provider);
    assert!(matches!(show(&late).await, 200 | 202), "its key is known, though the provider is gone");
    assert_eq!(show(&unasked).await, 503);
}

#[tokio::test]
async fn signatures_of_another_library_are_accepted() {
    let python = peers().join("python/bin/python");
    if !python.exists() {
        skip("oauthlib is not installed");
        return;
    }
    let market = Marketplace::start().await;
    let outbound = format!(
        "[integrations.outbound]\nkind = \"oauth1\"\nclient_id = \"legacy client\"\nclient_secret = \"{SECRET}\""
    );
    let text =
        with_outbound(&market, &outbound).replace("[admin]", "public_url = \"http://127.0.0.1:8080/market\"\n[admin]");
    let receiver = Receiver::start(&text, Accept).await;
    let public_url = "http://127.0.0.1:8080/market";
    let mut requests = Vec::new();
    for (number, more) in
        ["", "&plan=b&plan=a", "&empty=&a", "&odd=%7E%2B%20+%3D%26%25", "&%C3%A4=%E2%82%AC", "&A=1&a=1&B=2"]
            .into_iter()
            .enumerate()
    {
        for method in ["HMAC-SHA1", "HMAC-SHA256"] {
            for (in_query, realm) in [(false, false), (false, true), (true, false)] {
                let event: String = byte_serialize(market.order(&number.to_string()).as_bytes()).collect();
                requests.push(json!({
                    "client": "legacy client", "secret": SECRET, "method": method, "in_query": in_query, "realm": realm,
                    "url": format!("{public_url}/notifications/create?eventUrl={event}{more}"),
                }));
            }
        }
    }
    let mut signer = Command::new(python)
        .arg(peers().join("sign.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let written = signer.stdin.take().expect("piped").write_all(json!(requests).to_string().as_bytes());
    written.expect("written");
    let output = signer.wait_with_output().expect("ends");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answers.len(), requests.len());
    for request in &answers {
        let url = request["url"].as_str().expect("an address");
        let path = url.strip_prefix("http://127.0.0.1:8080").expect("our own");
        let authorization = request["authorization"].as_str().map(|header| format!("Authorization: {header}\r\n"));
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n", authorization.unwrap_or_default());
        let origin = receiver.public.trim_end_matches("/market");
        let (status, _, body) = exchange(origin, head.as_bytes()).await;
        assert!(matches!(status, 200 | 202), "{head}: {status} {body}");
        let (status, _, body) = exchange(origin, head.as_bytes()).await;
        assert_eq!(status, 401, "the same once more: {body}");
    }
    let kept = receiver.events().await;
    assert_eq!(kept.len(), 6);
    assert!(kept.iter().all(|event| !event.to_string().contains("oauth_")), "no credential is kept: {kept:?}");
}
