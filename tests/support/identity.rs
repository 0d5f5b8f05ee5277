//! An identity provider whose every move a test decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use doorbell::clock::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// What an RSA key of 2048 bits has before it as PKCS #8 and not as PKCS #1.
const PKCS8_HEAD: usize = 26;

pub struct IdentityProvider {
    pub base_url: String,
    pub state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub struct State {
    /// The published keys.
    pub keys: Vec<Value>,
    /// What introspection says of tokens; of any other, that it is not active.
    pub tokens: HashMap<String, Value>,
    /// What introspection says of tokens, to the byte, and as what.
    pub raw_tokens: HashMap<String, (&'static str, Vec<u8>)>,
    /// Keys are not given out.
    pub withholds_keys: bool,
    /// Everything is answered so.
    pub out_of_service: Option<u16>,
    /// Everything is answered with a redirect to there.
    pub redirect: Option<String>,
    /// What the discovery document says.
    pub discovery: Value,
    pub discovered: usize,
    pub keys_fetched: usize,
    pub tokens_asked_about: usize,
    /// The same by token.
    pub asked_about: HashMap<String, usize>,
    /// Questions about tokens that are not in `tokens` are never answered.
    pub hangs_on_inventions: bool,
    /// No question about a token is answered.
    pub hangs: bool,
    /// How many such questions there are now.
    pub hanging: usize,
    /// Told when those that hang are to look again.
    pub looked_at: tokio::sync::watch::Sender<()>,
    /// The only credentials that introspection may be asked with, and what others are answered.
    pub wants: Option<(String, u16)>,
    /// Credentials that introspection was asked with.
    pub authorization: Vec<String>,
}

impl IdentityProvider {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/jwks", web::get().to(keys))
                .route("/.well-known/openid-configuration", web::get().to(discovery))
                .route("/introspect", web::post().to(introspect))
        })
        .workers(1)
        // Who hangs up is noticed.
        .h1_allow_half_closed(false)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
        let base_url = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());
        let provider = Self { base_url: base_url.clone(), state };
        provider.with(|state| {
            state.discovery = json!({"issuer": base_url, "jwks_uri": format!("{base_url}/jwks")});
        });
        provider
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("unpoisoned"))
    }

    /// Publishes exactly these keys.
    pub fn publish(&self, signers: &[&Signer]) {
        let keys = signers.iter().map(|signer| signer.jwk.clone()).collect();
        self.with(|state| state.keys = keys);
    }

    /// The claims of a token that is good for ten minutes.
    pub fn claims(&self, client: &str, now: Timestamp) -> Value {
        json!({
            "iss": self.base_url, "aud": "doorbell", "sub": "someone", "azp": client, "client_id": client,
            "iat": now.as_seconds(), "exp": now.as_seconds() + 600, "jti": uuid::Uuid::new_v4(),
        })
    }
}

fn out_of_service(state: &State) -> Option<HttpResponse> {
    if let Some(to) = &state.redirect {
        return Some(HttpResponse::TemporaryRedirect().insert_header(("location", to.as_str())).finish());
    }
    let status = actix_web::http::StatusCode::from_u16(state.out_of_service?).expect("a status");
    Some(HttpResponse::build(status).finish())
}

async fn keys(state: web::Data<Mutex<State>>) -> HttpResponse {
    let mut looked_at = {
        let mut state = state.lock().expect("unpoisoned");
        state.keys_fetched += 1;
        state.looked_at.subscribe()
    };
    let is_left_hanging = || state.lock().expect("unpoisoned").withholds_keys;
    if is_left_hanging() {
        let _hanging = Hanging::new(&state);
        while is_left_hanging() {
            looked_at.changed().await.expect("the provider lives");
        }
    }
    let state = state.lock().expect("unpoisoned");
    out_of_service(&state).unwrap_or_else(|| HttpResponse::Ok().json(json!({ "keys": state.keys })))
}

async fn discovery(state: web::Data<Mutex<State>>) -> HttpResponse {
    let mut state = state.lock().expect("unpoisoned");
    state.discovered += 1;
    out_of_service(&state).unwrap_or_else(|| HttpResponse::Ok().json(&state.discovery))
}

async fn introspect(
    state: web::Data<Mutex<State>>,
    request: HttpRequest,
    form: web::Form<HashMap<String, String>>,
) -> HttpResponse {
    let mut looked_at = {
        let mut state = state.lock().expect("unpoisoned");
        state.tokens_asked_about += 1;
        *state.asked_about.entry(form["token"].clone()).or_default() += 1;
        state.looked_at.subscribe()
    };
    let is_left_hanging = || {
        let state = state.lock().expect("unpoisoned");
        state.hangs || state.hangs_on_inventions && !state.tokens.contains_key(&form["token"])
    };
    if is_left_hanging() {
        let _hanging = Hanging::new(&state);
        while is_left_hanging() {
            looked_at.changed().await.expect("the provider lives");
        }
    }
    let mut state = state.lock().expect("unpoisoned");
    let authorization = request.headers().get("authorization").and_then(|header| header.to_str().ok());
    state.authorization.extend(authorization.map(str::to_owned));
    if let Some((wanted, status)) = &state.wants
        && Some(wanted.as_str()) != authorization
    {
        return HttpResponse::build(actix_web::http::StatusCode::from_u16(*status).expect("a status")).finish();
    }
    if let Some((content_type, body)) = state.raw_tokens.get(&form["token"]) {
        return HttpResponse::Ok().content_type(*content_type).body(body.clone());
    }
    out_of_service(&state).unwrap_or_else(|| {
        HttpResponse::Ok().json(state.tokens.get(&form["token"]).unwrap_or(&json!({"active": false})))
    })
}

/// A question that is never answered, counted until whoever asked hangs up.
struct Hanging<'a>(&'a Mutex<State>);

impl<'a> Hanging<'a> {
    fn new(state: &'a Mutex<State>) -> Self {
        state.lock().expect("unpoisoned").hanging += 1;
        Self(state)
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.lock().expect("unpoisoned").hanging -= 1;
    }
}

/// A key that tokens are signed with.
pub struct Signer {
    pub kid: String,
    pub algorithm: Algorithm,
    pub key: EncodingKey,
    pub jwk: Value,
}

impl Signer {
    pub fn new(kid: &str, algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                    .and_then(|pair| pair.to_pkcs8v1())
                    .expect("a key")
                    .as_ref(),
            ),
            Algorithm::ES384 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)
                    .and_then(|pair| pair.to_pkcs8v1())
                    .expect("a key")
                    .as_ref(),
            ),
            Algorithm::EdDSA => EncodingKey::from_ed_der(
                Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).expect("a key").as_ref(),
            ),
            _ => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
                EncodingKey::from_rsa_der(&pair.as_der().expect("DER").as_ref()[PKCS8_HEAD..])
            }
        };
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).expect("a public key");
        jwk.common.key_id = Some(kid.to_owned());
        Self { kid: kid.to_owned(), algorithm, key, jwk: serde_json::to_value(jwk).expect("JSON") }
    }

    pub fn header(&self) -> Header {
        Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) }
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).expect("signs")
    }
}
