//! Two-legged OAuth 1.0 (RFC 5849): every notification signed with a secret that both sides know.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use subtle::{Choice, ConstantTimeEq};
use url::form_urlencoded;

use super::credentials::RequestCredentials;
use super::login_throttle::{LoginThrottle, Refused};
use super::shared_secret::Client;
use super::{AuthenticationError, Caller};
use crate::clock::Timestamp;
use crate::config::{Config, Outbound};
use crate::event::BaseUrl;
use crate::store::Secrets;

/// How far a request's timestamp may be from ours.
const WINDOW: Duration = Duration::from_mins(5);
/// The longest nonce that is looked at, in bytes.
const MAX_NONCE_BYTES: usize = 256;
/// The characters that stay as they are (RFC 5849 §3.6).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Verifies signed notifications.
pub(super) struct SignatureVerifier {
    clients: Vec<Client>,
    /// Scheme and authority as the marketplace calls us.
    origin: String,
    secrets: Arc<dyn Secrets>,
}

/// Where a request's OAuth parameters are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carried<'a> {
    /// In the `Authorization` header, after its scheme.
    Header(&'a str),
    /// In the query.
    Query,
}

/// A request's OAuth parameters, decoded, each given once.
#[derive(Debug, Default)]
struct Protocol {
    consumer_key: String,
    method: String,
    timestamp: String,
    nonce: String,
    signature: String,
}

/// How a request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    HmacSha1,
    HmacSha256,
}

impl SignatureVerifier {
    /// A verifier for the integrations with the kind `oauth1`; none, if there are none.
    pub(super) fn new(config: &Config, secrets: Arc<dyn Secrets>) -> Option<Self> {
        let mut clients = Vec::new();
        for integration in &config.integrations {
            for outbound in integration.outbound.iter() {
                if let Outbound::Oauth1(client) = outbound {
                    clients.push(Client::new(integration.name.as_str().into(), client));
                }
            }
        }
        let origin = origin(&config.server.public_url);
        if clients.is_empty() { None } else { Some(Self { clients, origin, secrets }) }
    }

    /// The caller that signed the request.
    pub(super) async fn verify(
        &self,
        request: &RequestCredentials<'_>,
        carried: Carried<'_>,
        throttle: &LoginThrottle,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        let mut parameters = query_parameters(request.query);
        match carried {
            Carried::Header(header) => {
                // In both places, two readers could take it from either (RFC 5849 §3.1: one of them).
                if parameters.iter().any(|(name, _)| name.starts_with("oauth_")) {
                    return Err(AuthenticationError::Malformed);
                }
                parameters.extend(header_parameters(header)?);
            }
            Carried::Query => {}
        }
        let protocol = Protocol::read(&parameters)?;
        let method = match protocol.method.as_str() {
            "HMAC-SHA1" => Method::HmacSha1,
            "HMAC-SHA256" => Method::HmacSha256,
            _ => return Err(AuthenticationError::Malformed),
        };
        let sent_at = protocol.sent_at()?;
        if now.since(sent_at) > WINDOW || sent_at.since(now) > WINDOW {
            return Err(AuthenticationError::Expired);
        }
        let base = base_string(request.method, &format!("{}{}", self.origin, request.path), &parameters);
        let signature = STANDARD.decode(&protocol.signature).unwrap_or_default();
        let name = protocol.consumer_key.as_bytes();
        let proof = self.signer(name, method, base.as_bytes(), &signature).map(|client| (client.id.as_str(), client));
        let signer = throttle.judge(request.address, name, proof).map_err(|refused| match refused {
            Refused::Wrong => AuthenticationError::Signature,
            Refused::TooManyFailures { retry_after } => AuthenticationError::TooManyFailures { retry_after },
        })?;
        // Only what is signed is noted, so that strangers can use up no nonce.
        let nonce = nonce_of(&protocol);
        let until = sent_at.plus(WINDOW + WINDOW);
        let first_use = self.secrets.put(nonce, until, Vec::new().into(), now).await.map_err(|error| {
            tracing::error!(%error, "a nonce cannot be noted, so the notification is not taken");
            AuthenticationError::Unavailable
        })?;
        if first_use {
            Ok(Caller { integration: Arc::clone(&signer.integration) })
        } else {
            Err(AuthenticationError::Replayed)
        }
    }
}

impl SignatureVerifier {
    /// The client that `name` names, if it signed `base`. The signatures of all are compared, so that the time taken
    /// does not tell which exist.
    fn signer(&self, name: &[u8], method: Method, base: &[u8], signature: &[u8]) -> Option<&Client> {
        let mut signer = None;
        for client in &self.clients {
            let mut is_its_own = Choice::from(0);
            for secret in client.secrets() {
                is_its_own |= Choice::from(u8::from(is_signed(method, &signing_key(secret), base, signature)));
            }
            if (client.id.as_bytes().ct_eq(name) & is_its_own).into() {
                signer = Some(client);
            }
        }
        signer
    }
}

impl Protocol {
    fn read(parameters: &[(String, String)]) -> Result<Self, AuthenticationError> {
        let malformed = AuthenticationError::Malformed;
        let mut protocol = Self::default();
        let (mut version, mut token) = (String::new(), String::new());
        let mut seen = Vec::new();
        for (name, value) in parameters.iter().filter(|(name, _)| name.starts_with("oauth_")) {
            if seen.contains(&name.as_str()) {
                return Err(malformed);
            }
            seen.push(name.as_str());
            let field = match name.as_str() {
                "oauth_consumer_key" => &mut protocol.consumer_key,
                "oauth_signature_method" => &mut protocol.method,
                "oauth_timestamp" => &mut protocol.timestamp,
                "oauth_nonce" => &mut protocol.nonce,
                "oauth_signature" => &mut protocol.signature,
                "oauth_version" => &mut version,
                "oauth_token" => &mut token,
                _ => continue,
            };
            field.clone_from(value);
        }
        let needed =
            [&protocol.consumer_key, &protocol.method, &protocol.timestamp, &protocol.nonce, &protocol.signature];
        // Two-legged: there is no token, or an empty one.
        let is_whole = needed.iter().all(|field| !field.is_empty()) && token.is_empty();
        if !is_whole || !matches!(version.as_str(), "" | "1.0") || protocol.nonce.len() > MAX_NONCE_BYTES {
            return Err(malformed);
        }
        Ok(protocol)
    }

    fn sent_at(&self) -> Result<Timestamp, AuthenticationError> {
        let is_plain = self.timestamp.len() <= 12 && self.timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds: i64 = self.timestamp.parse().ok().filter(|_| is_plain).ok_or(AuthenticationError::Malformed)?;
        Ok(Timestamp::from_millis(seconds * 1000))
    }
}

/// What is signed (RFC 5849 §3.4.1).
fn base_string(verb: &str, uri: &str, parameters: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> = parameters
        .iter()
        .filter(|(name, _)| name != "oauth_signature")
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort_unstable();
    let joined: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{verb}&{}&{}", encoded(uri), encoded(&joined.join("&")))
}

/// The key of a client's signatures: its secret alone, there being no token (RFC 5849 §3.4.2).
fn signing_key(secret: &[u8]) -> String {
    format!("{}&", percent_encoding::percent_encode(secret, ENCODED))
}

/// Whether `signature` is that of `base`. Compared in constant time.
fn is_signed(method: Method, key: &str, base: &[u8], signature: &[u8]) -> bool {
    let algorithm = match method {
        Method::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Method::HmacSha256 => hmac::HMAC_SHA256,
    };
    hmac::verify(&hmac::Key::new(algorithm, key.as_bytes()), base, signature).is_ok()
}

/// A nonce is unique among the requests of one client with one timestamp (RFC 5849 §3.3).
fn nonce_of(protocol: &Protocol) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&protocol.consumer_key, &protocol.timestamp, &protocol.nonce] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&context.finish().as_ref()[..16]);
    nonce
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn query_parameters(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The parameters of an `Authorization: OAuth` header, without its realm (RFC 5849 §3.5.1).
fn header_parameters(header: &str) -> Result<Vec<(String, String)>, AuthenticationError> {
    let malformed = AuthenticationError::Malformed;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned);
    let mut parameters = Vec::new();
    for part in header.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or(malformed)?;
        let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or(malformed)?;
        let name = decoded(name.trim()).map_err(|_| malformed)?;
        if name.eq_ignore_ascii_case("realm") {
            continue;
        }
        parameters.push((name, decoded(value).map_err(|_| malformed)?));
    }
    Ok(parameters)
}

/// Scheme and authority, in lower case and without a default port (RFC 5849 §3.4.1.2).
fn origin(public_url: &BaseUrl) -> String {
    public_url.as_str().strip_suffix(public_url.path()).unwrap_or(public_url.as_str()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// RFC 5849 §3.4.1.1 and §3.4.1.3: form parameters stand among the others there.
    #[test]
    fn the_base_string_is_that_of_rfc_5849() {
        let mut parameters = query_parameters("b5=%3D%253D&a3=a&c%40=&a2=r%20b");
        parameters.extend(query_parameters("c2&a3=2+q"));
        let header = concat!(
            r#"realm="Example", oauth_consumer_key="9djdj82h48djs9d2", oauth_token="kkk9d7dh3k39sjv7", "#,
            r#"oauth_signature_method="HMAC-SHA1", oauth_timestamp="137131201", oauth_nonce="7d8f3e4a", "#,
            r#"oauth_signature="bYT5CMsGcbgUdFHObYMEfcx6bsw%3D""#
        );
        parameters.extend(header_parameters(header).expect("well-formed"));
        assert_eq!(
            base_string("POST", "http://example.com/request", &parameters),
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%\
             26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1\
             %26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
    }

    /// The requests of RFC 5849 §1.2 that are signed with a token's secret too, which ours have none of.
    #[test]
    fn the_signatures_of_rfc_5849_are_accepted_and_any_other_is_not() {
        let base = |verb: &str, uri: &str, of: &[(&str, &str)]| {
            let mut parameters = pairs(of);
            parameters
                .extend(pairs(&[("oauth_consumer_key", "dpf43f3p2l4k3l03"), ("oauth_signature_method", "HMAC-SHA1")]));
            base_string(verb, uri, &parameters)
        };
        let token = base(
            "POST",
            "https://photos.example.net/token",
            &[
                ("oauth_token", "hh5s93j4hdidpola"),
                ("oauth_timestamp", "137131201"),
                ("oauth_nonce", "walatlh"),
                ("oauth_verifier", "hfdp7dh39dks9884"),
            ],
        );
        let photo = base(
            "GET",
            "http://photos.example.net/photos",
            &[
                ("file", "vacation.jpg"),
                ("size", "original"),
                ("oauth_token", "nnch734d00sl2jdk"),
                ("oauth_timestamp", "137131202"),
                ("oauth_nonce", "chapoH"),
                ("oauth_signature", "MdpQcU8iPSUjWoN/UDMsK2sui9I="),
            ],
        );
        for (base, key, signature) in [
            (token, "kd94hf93k423kf44&hdhd0244k9j7ao03", "gKgrFCywp7rO0OXSjdot/IHF7IU="),
            (photo, "kd94hf93k423kf44&pfkkdhi9sl3r4s00", "MdpQcU8iPSUjWoN/UDMsK2sui9I="),
        ] {
            let signature = STANDARD.decode(signature).expect("base64");
            let is_signed = |method, key: &str, base: &str| is_signed(method, key, base.as_bytes(), &signature);
            assert!(is_signed(Method::HmacSha1, key, &base));
            assert!(!is_signed(Method::HmacSha1, "kd94hf93k423kf44&", &base));
            assert!(!is_signed(Method::HmacSha256, key, &base));
            assert!(!is_signed(Method::HmacSha1, key, &base.replace("photos.example", "other.example")));
        }
    }

    #[test]
    fn the_origin_is_scheme_and_authority() {
        for (public_url, expected) in [
            ("https://product.example", "https://product.example"),
            ("https://product.example/", "https://product.example"),
            ("https://Product.Example:443/market", "https://product.example"),
            ("http://127.0.0.1:8080/a/b", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(origin(&BaseUrl::parse(public_url).expect("a base URL")), expected);
        }
    }
}
