//! Notifications signed by OAuth 1.0, and ways to sign them wrongly. Written against RFC 5849 and not against the code
//! it tests; another library's signatures are tried too.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The secret of the client `legacy`.
pub const SECRET: &str = "oauth1&secret";

#[derive(Clone)]
pub struct Request {
    origin: String,
    path: String,
    verb: String,
    event_url: String,
    client: String,
    secret: String,
    method: String,
    timestamp: String,
    nonce: String,
    extra: Option<(String, String)>,
    signature: Option<String>,
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

macro_rules! setters {
    ($($name:ident: $field:ident),*) => {
        $(pub fn $name(mut self, value: &str) -> Self {
            self.$field = value.to_owned();
            self
        })*
    };
}

impl Request {
    pub fn new(origin: &str, path: &str, event_url: &str, seconds: i64) -> Self {
        Self {
            origin: origin.into(),
            path: path.into(),
            verb: "GET".into(),
            event_url: event_url.into(),
            client: "legacy".into(),
            secret: SECRET.into(),
            method: "HMAC-SHA1".into(),
            timestamp: seconds.to_string(),
            nonce: uuid::Uuid::new_v4().to_string(),
            extra: None,
            signature: None,
        }
    }

    setters!(
        origin: origin, path: path, verb: verb, event: event_url, client: client, secret: secret, method: method,
        timestamp: timestamp, nonce: nonce
    );

    pub fn hmac_sha256(self) -> Self {
        self.method("HMAC-SHA256")
    }

    pub fn extra(mut self, name: &str, value: &str) -> Self {
        self.extra = Some((name.into(), value.into()));
        self
    }

    pub fn signature(mut self, signature: &str) -> Self {
        self.signature = Some(signature.into());
        self
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters: BTreeMap<String, String> = [
            ("oauth_consumer_key", &self.client),
            ("oauth_signature_method", &self.method),
            ("oauth_timestamp", &self.timestamp),
            ("oauth_nonce", &self.nonce),
            ("oauth_version", &"1.0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into();
        parameters.extend(self.extra.clone());
        let mut signed = parameters.clone();
        signed.insert("eventUrl".into(), self.event_url.clone());
        // The names are in the order of their encoded forms: none of them needs encoding.
        let pairs: Vec<_> = signed.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let uri = format!("{}{}", self.origin, self.path);
        let base = format!("{}&{}&{}", self.verb, encoded(&uri), encoded(&pairs.join("&")));
        let algorithm =
            if self.method == "HMAC-SHA256" { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY };
        let key = hmac::Key::new(algorithm, format!("{}&", encoded(&self.secret)).as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, base.as_bytes()));
        parameters.insert("oauth_signature".into(), self.signature.clone().unwrap_or(signature));
        parameters
    }

    /// As the value of an `Authorization` header.
    pub fn header(&self) -> String {
        let pairs = self.parameters().into_iter().map(|(name, value)| format!("{name}=\"{}\"", encoded(&value)));
        format!("OAuth realm=\"doorbell\", {}", pairs.collect::<Vec<_>>().join(", "))
    }

    /// As parameters of the query.
    pub fn query(&self) -> String {
        let pairs = self.parameters().into_iter().map(|(name, value)| format!("{name}={}", encoded(&value)));
        pairs.collect::<Vec<_>>().join("&")
    }
}
