//! What strangers try at the public listener: each line is answered as it says, and records nothing.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use doorbell::app::authenticator;
use doorbell::authenticate::RequestCredentials;
use doorbell::clock::{Clock, SystemClock};
use doorbell::config::Config;
use doorbell::handler::Accept;
use doorbell::store::EventStore;
use doorbell::store::memory::MemoryStore;
use jsonwebtoken::{Algorithm, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::identity::{IdentityProvider, Signer};
use crate::support::marketplace::Marketplace;
use crate::support::receiver::{Receiver, json as body_of};
use crate::support::signature::{Request as Signed, SECRET};

/// The address marketplaces know the receiver by: what OAuth 1.0 signatures are made for.
const PUBLIC_URL: &str = "http://127.0.0.1:8080";

/// One integration that takes every kind of credentials, and another of the same identity provider.
fn every_kind(marketplace: &str, other_marketplace: &str, provider: &str) -> String {
    let inbound = "[integrations.marketplaces.inbound]\nclient_id = \"vendor\"\nclient_secret = \"inbound-secret\"";
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        public_url = "{PUBLIC_URL}"
        # The guard against guessing has tests of its own, and would answer most of these.
        trusted_proxies = ["127.0.0.1"]
        [admin]
        listen = "127.0.0.1:0"
        [store]
        url = "memory:"
        [[integrations]]
        name = "a"
        [[integrations.outbound]]
        kind = "oauth2"
        client_id = "marketplace"
        client_secret = "outbound-secret"
        scope = "notifications profile"
        [[integrations.outbound]]
        kind = "jwt"
        client_id = "market-a"
        issuer = "{provider}"
        audience = "doorbell"
        algorithms = ["RS256", "ES256"]
        scope = "notify"
        [[integrations.outbound]]
        kind = "introspection"
        client_id = "market-a"
        introspection_url = "{provider}/introspect"
        introspection_client_id = "doorbell"
        introspection_client_secret = "introspection-secret"
        audience = "doorbell"
        scope = "notify"
        [[integrations.outbound]]
        kind = "basic"
        client_id = "basic-a"
        client_secret = "pässword:with:colons"
        [[integrations.outbound]]
        kind = "oauth1"
        client_id = "legacy"
        client_secret = "{SECRET}"
        [[integrations.marketplaces]]
        base_url = "{marketplace}"
        {inbound}
        [[integrations]]
        name = "b"
        [integrations.outbound]
        kind = "jwt"
        client_id = "market-b"
        issuer = "{provider}"
        audience = "doorbell"
        [[integrations.marketplaces]]
        base_url = "{other_marketplace}"
        {inbound}
        "#
    )
}

/// A case: what it is, its `Authorization` headers, what follows the event URL in the query, and the answer.
struct Case {
    name: String,
    authorization: Vec<Vec<u8>>,
    query: String,
    status: u16,
    code: &'static str,
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: &str, authorization: &[&[u8]], query: &str, status: u16, code: &'static str) {
        let authorization = authorization.iter().map(|header| header.to_vec()).collect();
        self.0.push(Case { name: name.to_owned(), authorization, query: query.to_owned(), status, code });
    }

    fn refused(&mut self, name: &str, authorization: impl AsRef<[u8]>) {
        self.add(name, &[authorization.as_ref()], "", 401, "UNAUTHORIZED");
    }

    fn refused_token(&mut self, name: &str, token: &str) {
        self.refused(name, format!("Bearer {token}"));
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn with(claims: &Value, change: Value) -> Value {
    let mut claims = claims.clone();
    let Value::Object(change) = change else { panic!("an object") };
    for (name, value) in change {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(&name)),
            value => claims[name] = value,
        }
    }
    claims
}

#[tokio::test]
async fn whatever_is_tried_at_the_door_is_answered_as_it_should_be_and_records_nothing() {
    let (market, other_market) = (Marketplace::start().await, Marketplace::start().await);
    let provider = IdentityProvider::start().await;
    let (rsa, unpublished, curve) = (
        Signer::new("rsa", Algorithm::RS256),
        Signer::new("rsa", Algorithm::RS256),
        Signer::new("curve", Algorithm::ES256),
    );
    let mut for_encryption = Signer::new("for-encryption", Algorithm::RS256);
    for_encryption.jwk["use"] = json!("enc");
    let mut other_algorithm = Signer::new("other-algorithm", Algorithm::RS256);
    other_algorithm.jwk["alg"] = json!("PS256");
    provider.publish(&[&rsa, &curve, &for_encryption, &other_algorithm]);
    let secret_key =
        json!({"kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode("published secret"), "alg": "HS256"});
    provider.with(|state| state.keys.push(secret_key));

    let configuration = every_kind(&market.base_url, &other_market.base_url, &provider.base_url);
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, Accept, Arc::new(SystemClock)).await;
    let now = SystemClock.now();
    let event_url = market.order("1");

    let ours = receiver.token().await;
    let narrow = {
        let request = receiver.client.post(format!("{}/oauth2/token", receiver.public));
        let request = request.basic_auth("marketplace", Some("outbound-secret"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body("grant_type=client_credentials&scope=profile").send().await.expect("answers");
        body_of(answer).await["access_token"].as_str().expect("a token").to_owned()
    };
    let (header, claims, signature) = {
        let parts: Vec<&str> = ours.split('.').collect();
        (parts[0], parts[1], parts[2])
    };
    let read =
        |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON") };
    let forge = |header: Value, claims: &Value, key: &[u8]| {
        let message = format!("{}.{}", part(&header), part(claims));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
        let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };

    let mut cases = Cases::default();

    // What is no credential.
    cases.add("no header", &[], "", 401, "UNAUTHORIZED");
    cases.refused("an empty header", "");
    cases.refused("a scheme alone", "Bearer");
    cases.refused("a scheme and a space", "Bearer ");
    cases.refused("a token alone", &ours);
    cases.refused("an unknown scheme", format!("Digest {ours}"));
    cases.refused("a longer scheme", format!("Bearerx {ours}"));
    cases.refused("a tab after the scheme", format!("Bearer\t{ours}"));
    cases.refused("two tokens in one header", format!("Bearer {ours} {ours}"));
    cases.refused("two tokens and a comma", format!("Bearer {ours}, Bearer {ours}"));
    cases.refused("a quoted token", format!("Bearer \"{ours}\""));
    cases.refused("bytes that are no UTF-8", b"Bearer \xff\xfe".as_slice());
    let good = format!("Bearer {ours}");
    cases.add("the same header twice", &[good.as_bytes(), good.as_bytes()], "", 401, "UNAUTHORIZED");
    cases.add("a good header and a bad one", &[good.as_bytes(), b"Bearer x"], "", 401, "UNAUTHORIZED");
    cases.add("a bad header and a good one", &[b"Bearer x", good.as_bytes()], "", 401, "UNAUTHORIZED");
    cases.add("two kinds at once", &[good.as_bytes(), b"Basic YTpi"], "", 401, "UNAUTHORIZED");
    cases.add("a token in the query", &[], &format!("&access_token={ours}"), 401, "UNAUTHORIZED");
    cases.add("a token in the query by another name", &[], &format!("&token={ours}"), 401, "UNAUTHORIZED");

    // Tokens of ours that are not.
    cases.refused_token("garbage", "a.b.c");
    cases.refused_token("a truncated token", &ours[..ours.len() - 1]);
    cases.refused_token("a token and a bit", &format!("{ours}A"));
    cases.refused_token("two parts", &format!("{header}.{claims}"));
    cases.refused_token("four parts", &format!("{ours}.x"));
    cases.refused_token("five parts, as if encrypted", &format!("{ours}.x.y"));
    cases.refused_token("no signature", &format!("{header}.{claims}."));
    cases.refused_token("a token of 5,000 bytes", &"a".repeat(5000));
    cases.add(
        "a token of 20,000 bytes",
        &[format!("Bearer {}", "a".repeat(20_000)).as_bytes()],
        "",
        431,
        "INVALID_RESPONSE",
    );
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let none_header = part(&json!({"alg": none, "typ": "JWT", "kid": read(header)["kid"]}));
        cases.refused_token(&format!("alg {none:?}"), &format!("{none_header}.{claims}."));
        cases.refused_token(&format!("alg {none:?}, signature kept"), &format!("{none_header}.{claims}.{signature}"));
    }
    let own = read(claims);
    cases.refused_token("a guessed key", &forge(read(header), &own, b"guess"));
    cases.refused_token("an empty key", &forge(read(header), &own, b""));
    cases.refused_token("the client's secret as key", &forge(read(header), &own, b"outbound-secret"));
    for kid in
        ["../../../../dev/null", "/dev/null", "x' UNION SELECT 'key", "", "file:///etc/passwd", "http://127.0.0.1/key"]
    {
        for key in [b"".as_slice(), b"key"] {
            let header = json!({"alg": "HS256", "typ": "JWT", "kid": kid});
            cases.refused_token(&format!("kid {kid:?}"), &forge(header, &own, key));
        }
    }
    cases.refused_token("a kid that is no text", &forge(json!({"alg": "HS256", "kid": 7}), &own, b""));
    cases.refused_token(
        "our header, the provider's claims",
        &format!("{header}.{}.{signature}", part(&provider.claims("market-a", now))),
    );

    // Tokens of the identity provider that are not.
    let theirs = with(&provider.claims("market-a", now), json!({"scope": "openid notify"}));
    let public = rsa.jwk["n"].as_str().expect("a modulus");
    let public_der = URL_SAFE_NO_PAD.decode(public).expect("base64");
    cases.refused_token(
        "HMAC by the public modulus",
        &forge(json!({"alg": "HS256", "kid": "rsa"}), &theirs, &public_der),
    );
    cases.refused_token(
        "HMAC by the public modulus as text",
        &forge(json!({"alg": "HS256", "kid": "rsa"}), &theirs, public.as_bytes()),
    );
    cases.refused_token(
        "HMAC by the public key as JSON",
        &forge(json!({"alg": "HS256", "kid": "rsa"}), &theirs, rsa.jwk.to_string().as_bytes()),
    );
    cases.refused_token(
        "HMAC by a secret that is published",
        &forge(json!({"alg": "HS256", "kid": "secret"}), &theirs, b"published secret"),
    );
    cases
        .refused_token("RS256 named over an HMAC", &forge(json!({"alg": "RS256", "kid": "rsa"}), &theirs, &public_der));
    cases.refused_token("another key of the same name", &unpublished.sign(&theirs));
    cases.refused_token("a key that is for encryption", &for_encryption.sign(&theirs));
    cases.refused_token("a key that is for another algorithm", &other_algorithm.sign(&theirs));
    cases.refused_token(
        "an algorithm that is not allowed",
        &rsa.sign_as(&Header { alg: Algorithm::RS512, ..rsa.header() }, &theirs),
    );
    cases.refused_token(
        "the name of a key of another family",
        &curve.sign_as(&Header { kid: Some("rsa".into()), ..curve.header() }, &theirs),
    );
    let embedded = Header { jwk: serde_json::from_value(unpublished.jwk.clone()).ok(), ..unpublished.header() };
    assert!(embedded.jwk.is_some());
    cases.refused_token("a key that is embedded", &unpublished.sign_as(&embedded, &theirs));
    let trap = IdentityProvider::start().await;
    trap.publish(&[&unpublished]);
    let pointed = |header: Header| unpublished.sign_as(&Header { kid: Some("rsa".into()), ..header }, &theirs);
    cases.refused_token(
        "a key that is pointed to by jku",
        &pointed(Header { jku: Some(format!("{}/jwks", trap.base_url)), ..unpublished.header() }),
    );
    cases.refused_token(
        "a key that is pointed to by x5u",
        &pointed(Header { x5u: Some(format!("{}/jwks", trap.base_url)), ..unpublished.header() }),
    );
    cases.refused_token(
        "a certificate that is brought along",
        &pointed(Header { x5c: Some(vec![STANDARD.encode("certificate")]), ..unpublished.header() }),
    );
    cases.refused_token(
        "something critical",
        &rsa.sign_as(&Header { crit: Some(vec!["exp".into()]), ..rsa.header() }, &theirs),
    );
    cases.refused_token(
        "a token for another purpose",
        &rsa.sign_as(&Header { typ: Some("logout+jwt".into()), ..rsa.header() }, &theirs),
    );
    for (name, change) in [
        ("expired", json!({"exp": now.as_seconds() - 1})),
        ("expired long ago", json!({"exp": 1})),
        ("expired before the epoch", json!({"exp": -1})),
        ("without an end", json!({"exp": null})),
        ("an end that is text", json!({"exp": "9999999999"})),
        ("not valid yet", json!({"nbf": now.as_seconds() + 120})),
        ("another audience", json!({"aud": "other"})),
        ("no audience", json!({"aud": null})),
        ("an audience that begins like ours", json!({"aud": "doorbell.evil"})),
        ("audiences, none of them ours", json!({"aud": ["other", "third"]})),
        ("no issuer", json!({"iss": null})),
        ("an issuer with a slash more", json!({"iss": format!("{}/", provider.base_url)})),
        ("another issuer, whose keys are served there", json!({"iss": trap.base_url})),
        ("our own issuer", json!({"iss": PUBLIC_URL})),
        ("another client", json!({"azp": "stranger"})),
        ("no client", json!({"azp": null})),
        ("a client that is a list", json!({"azp": ["market-a"]})),
        ("the client in another claim", json!({"azp": null, "sub": "market-a"})),
        ("bound to a certificate", json!({"cnf": {"x5t#S256": "abc"}})),
    ] {
        cases.refused_token(&format!("jwt: {name}"), &rsa.sign(&with(&theirs, change)));
    }
    for (name, change) in [("no scope", json!({"scope": null})), ("another scope", json!({"scope": "notifyx read"}))] {
        let token = format!("Bearer {}", rsa.sign(&with(&theirs, change)));
        cases.add(&format!("jwt: {name}"), &[token.as_bytes()], "", 403, "FORBIDDEN");
    }
    cases.add("a token of ours with half of the scope", &[format!("Bearer {narrow}").as_bytes()], "", 403, "FORBIDDEN");
    let of_b = format!("Bearer {}", rsa.sign(&provider.claims("market-b", now)));
    cases.add("a token of another integration", &[of_b.as_bytes()], "", 403, "FORBIDDEN");

    // Opaque tokens.
    let active = json!({"active": true, "client_id": "market-a", "aud": "doorbell", "scope": "notify", "exp": now.as_seconds() + 600});
    for (name, answer) in [
        ("not active", json!({"active": false, "client_id": "market-a", "aud": "doorbell", "scope": "notify"})),
        ("of another client", with(&active, json!({"client_id": "stranger"}))),
        ("of no client", with(&active, json!({"client_id": null}))),
        ("for another audience", with(&active, json!({"aud": "other"}))),
        ("expired", with(&active, json!({"exp": now.as_seconds() - 1}))),
        ("not valid yet", with(&active, json!({"nbf": now.as_seconds() + 120}))),
        ("of another type", with(&active, json!({"token_type": "DPoP"}))),
    ] {
        let token = format!("opaque-{}", name.replace(' ', "-"));
        provider.with(|state| state.tokens.insert(token.clone(), answer));
        cases.refused_token(&format!("introspection: {name}"), &token);
    }
    cases.refused_token("introspection: unknown", "opaque-unknown");
    provider.with(|state| state.tokens.insert("opaque-narrow".into(), with(&active, json!({"scope": "read"}))));
    cases.add("introspection: another scope", &[b"Bearer opaque-narrow"], "", 403, "FORBIDDEN");
    provider
        .with(|state| state.tokens.insert("opaque-odd".into(), json!({"active": "perhaps", "client_id": "market-a"})));
    cases.add("introspection: an answer that is none", &[b"Bearer opaque-odd"], "", 503, "TRANSPORT_ERROR");

    // Names and passwords.
    let basic = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
    cases.refused("basic: nothing", "Basic ");
    cases.refused("basic: not base64", "Basic %%%");
    cases.refused("basic: no colon", basic(b"basic-a"));
    cases.refused("basic: no password", basic(b"basic-a:"));
    cases.refused("basic: no name", basic(":pässword:with:colons".as_bytes()));
    cases.refused("basic: the password up to its first colon", basic("basic-a:pässword".as_bytes()));
    cases.refused("basic: the password from its first colon", basic("basic-a:with:colons".as_bytes()));
    cases.refused("basic: a colon in the name", basic("basic:a:pässword:with:colons".as_bytes()));
    cases.refused("basic: other case", basic("Basic-A:pässword:with:colons".as_bytes()));
    cases.refused("basic: decomposed letters", basic("basic-a:pa\u{308}ssword:with:colons".as_bytes()));
    cases.refused("basic: bytes that are neither UTF-8 nor Latin-1", basic(b"basic-a:p\xc3ssword:with:colons"));
    cases.refused("basic: a null within", basic("basic-a:pässword:with:colons\0".as_bytes()));
    cases.refused("basic: a line end within", basic("basic-a:pässword:with:colons\n".as_bytes()));
    cases.refused("basic: another integration's kind", basic(b"marketplace:outbound-secret"));
    cases.refused("basic: form-encoded", basic(b"basic-a:p%C3%A4ssword%3Awith%3Acolons"));

    // Signatures.
    let signed = || Signed::new(PUBLIC_URL, "/notifications/create", &event_url, now.as_seconds());
    let replayed = signed().nonce("once").header();
    for (name, header) in [
        ("no parameters", "OAuth ".to_owned()),
        ("a signature that is changed", signed().header().replace("oauth_signature=\"", "oauth_signature=\"A")),
        ("an empty signature", signed().signature("").header()),
        ("another secret", signed().secret("guess").header()),
        ("an empty secret", signed().secret("").header()),
        ("an unknown client", signed().client("stranger").header()),
        ("signed for another host", signed().origin("http://evil.example").header()),
        ("signed for https", signed().origin("https://127.0.0.1:8080").header()),
        ("signed for another path", signed().path("/notifications/cancel").header()),
        ("signed for another event", signed().event(&market.order("2")).header()),
        ("signed for POST", signed().verb("POST").header()),
        ("ten minutes old", signed().timestamp(&(now.as_seconds() - 600).to_string()).header()),
        ("from ten minutes ahead", signed().timestamp(&(now.as_seconds() + 600).to_string()).header()),
        ("no time", signed().timestamp("").header()),
        ("a time with a sign", signed().timestamp(&format!("+{}", now.as_seconds())).header()),
        ("a time that is none", signed().timestamp("soon").header()),
        ("a time beyond all time", signed().timestamp("99999999999999999999").header()),
        ("no nonce", signed().nonce("").header()),
        ("a nonce of 300 bytes", signed().nonce(&"n".repeat(300)).header()),
        ("PLAINTEXT", signed().method("PLAINTEXT").signature(&format!("{SECRET}&")).header()),
        ("RSA-SHA1", signed().method("RSA-SHA1").header()),
        ("HMAC-SHA256 named over an HMAC-SHA1", signed().header().replace("HMAC-SHA1", "HMAC-SHA256")),
        ("an unknown version", signed().extra("oauth_version", "2.0").header()),
        ("with a token", signed().extra("oauth_token", "x").header()),
        ("a parameter twice", signed().header() + ", oauth_nonce=\"other\""),
        ("a parameter without quotes", signed().header().replace("oauth_version=\"1.0\"", "oauth_version=1.0")),
    ] {
        cases.refused(&format!("oauth1: {name}"), header);
    }
    cases.add(
        "oauth1: in the header and in the query",
        &[signed().header().as_bytes()],
        "&oauth_nonce=x",
        401,
        "UNAUTHORIZED",
    );
    cases.add(
        "oauth1: a parameter that was not signed",
        &[signed().header().as_bytes()],
        "&plan=free",
        401,
        "UNAUTHORIZED",
    );
    cases.add(
        "oauth1: the event URL a second time",
        &[signed().header().as_bytes()],
        "&eventUrl=x",
        401,
        "UNAUTHORIZED",
    );
    let in_query = signed().secret("guess").query();
    cases.add("oauth1: a wrong signature in the query", &[], &format!("&{in_query}"), 401, "UNAUTHORIZED");

    assert!(cases.0.len() >= 60, "{} lines", cases.0.len());
    let send = async |address: usize, authorization: &[Vec<u8>], query: &str, market: &str| {
        let request = [
            format!(
                "GET /notifications/create?eventUrl={}{query} HTTP/1.1\r\nHost: x\r\n",
                market.replace(':', "%3A").replace('/', "%2F")
            )
            .into_bytes(),
            // Each comes from an address of its own.
            format!("X-Forwarded-For: 10.0.{}.{}\r\n", address / 250, address % 250).into_bytes(),
            authorization.iter().flat_map(|header| [b"Authorization: ", header.as_slice(), b"\r\n"].concat()).collect(),
            b"Connection: close\r\n\r\n".to_vec(),
        ]
        .concat();
        crate::support::raw::exchange(&receiver.public, &request).await
    };
    for (number, case) in cases.0.iter().enumerate() {
        let (status, head, body) = send(number, &case.authorization, &case.query, &event_url).await;
        assert_eq!(status, case.status, "{}: {body}", case.name);
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{}: {error}: {body}", case.name));
        assert_eq!((&answer["success"], &answer["errorCode"]), (&json!(false), &json!(case.code)), "{}", case.name);
        let challenge = head.contains("www-authenticate: Bearer error=\"invalid_token\", Basic realm");
        assert_eq!(challenge, status == 401, "{}: {head}", case.name);
        for secret in ["outbound-secret", "pässword", SECRET, "introspection-secret"] {
            assert!(!body.contains(secret), "{}: {body}", case.name);
        }
    }
    assert!(receiver.events().await.is_empty());
    assert_eq!(trap.with(|state| state.keys_fetched), 0, "nobody went where a token pointed");

    // What each of these was tried beside passes.
    provider.with(|state| state.tokens.insert("opaque-good".into(), active.clone()));
    let good = [
        format!("Bearer {ours}"),
        format!("bEaReR  {ours}"),
        format!("Bearer {}", rsa.sign(&theirs)),
        format!("Bearer {}", curve.sign(&theirs)),
        format!(
            "Bearer {}",
            rsa.sign(&with(&theirs, json!({"aud": ["other", "doorbell"], "nbf": now.as_seconds() + 5})))
        ),
        format!("Bearer {}", rsa.sign(&with(&theirs, json!({"scope": null, "scp": ["notify"]})))),
        format!("Bearer {}", rsa.sign_as(&Header { typ: Some("at+jwt".into()), ..rsa.header() }, &theirs)),
        "Bearer opaque-good".to_owned(),
        basic("basic-a:pässword:with:colons".as_bytes()),
        basic(b"basic-a:p\xe4ssword:with:colons"),
        basic("basic-a:pässword:with:colons".as_bytes()).trim_end_matches('=').to_owned(),
        signed().header(),
        signed().hmac_sha256().header(),
        replayed.clone(),
    ];
    for (number, header) in good.iter().enumerate() {
        let (status, _, body) = send(1000 + number, &[header.as_bytes().to_vec()], "", &event_url).await;
        assert!(matches!(status, 200 | 202), "{header}: {status} {body}");
    }
    let (status, _, body) = send(2000, &[], &format!("&{}", signed().query()), &event_url).await;
    assert!(matches!(status, 200 | 202), "signed in the query: {status} {body}");
    let (status, _, body) = send(2001, &[replayed.into_bytes()], "", &event_url).await;
    assert_eq!(status, 401, "a replay: {body}");
    assert!(body.contains("nonce was used before"), "{body}");
    let (status, ..) = send(2002, &[of_b.into_bytes()], "", &other_market.order("1")).await;
    assert_eq!(status, 202, "the other integration's token, in its own marketplace");
    assert_eq!(receiver.events().await.len(), 2);
}

/// The short form of the fuzz target `credentials`.
#[test]
fn no_header_and_no_query_whatever_authenticates_anybody_who_knows_no_secret() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let text = every_kind("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
    let config = Config::from_toml(&text).expect("valid");
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authenticator = runtime.block_on(authenticator(&config, &store, &clock)).expect("sets up");
    let number = std::sync::atomic::AtomicU32::new(0);
    // Mostly near what is understood: a scheme, and then parameters or something in base64.
    let header = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        "(Basic|basic|OAuth|OAUTH) [ -~]{0,200}".prop_map(String::into_bytes),
        "OAuth (oauth_(consumer_key|nonce|timestamp|signature|signature_method|version|token)=\"[0-9a-zA-Z%-]{0,20}\", ?){0,9}"
            .prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| format!("Basic {}", STANDARD.encode(bytes)).into_bytes()),
    ];
    let query = "(eventUrl=[a-z%0-9]{0,20})?(&(oauth_[a-z_]{0,12}|[a-z]{0,5})=[ -~]{0,20}){0,6}";
    let cases = (proptest::option::of(header), query);
    proptest!(ProptestConfig::with_cases(2000), |((header, query) in cases)| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let presented = RequestCredentials {
            method: "GET",
            authorization: header.iter().map(Vec::as_slice).collect(),
            path: "/notifications/create",
            query: &query,
            address: std::net::Ipv4Addr::from(number).into(),
        };
        prop_assert!(runtime.block_on(authenticator.authenticate(&presented)).is_err());
    });
}
