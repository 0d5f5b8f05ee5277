//! The built-in issuer: tokens a marketplace gets from us, and shows us again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{AuthenticationError, Caller, same_secret};
use crate::clock::Timestamp;
use crate::config::{Config, Secret};
use crate::event::BaseUrl;

/// The scope every token carries and every notification needs.
const SCOPE: &str = "notifications";
/// The one algorithm tokens are signed with and accepted in.
const ALGORITHM: Algorithm = Algorithm::HS256;
/// The longest token that is looked at, in bytes; ours have about 500.
const MAX_TOKEN_BYTES: usize = 4096;
/// Tokens that are remembered as verified. A marketplace uses one at a time.
const REMEMBERED: usize = 256;

/// Issues and verifies bearer tokens.
pub struct Issuer {
    /// Who issues, and for whom: our own address, so that a token of another receiver is none here.
    identity: String,
    clients: Vec<Client>,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// Tokens whose signature and claims were found good, so that each is verified once and not at every
    /// notification. Their end is looked at every time.
    verified: Mutex<HashMap<String, Verified>>,
}

/// What a token that was verified is good for.
#[derive(Debug, Clone, Copy)]
struct Verified {
    integration: usize,
    expires: i64,
}

struct Client {
    id: String,
    secret: Secret,
    lifetime: Duration,
}

/// A token fresh from the issuer.
pub struct IssuedToken {
    /// The token itself.
    pub access_token: String,
    /// How long it is good.
    pub lifetime: Duration,
    /// What it is good for.
    pub scope: &'static str,
}

/// The client is unknown, or its secret wrong; which of the two is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unknown client or wrong secret")]
pub struct ClientRefused;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    scope: String,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

impl Issuer {
    /// An issuer for the configured integrations that signs with `key`.
    #[must_use]
    pub fn new(config: &Config, key: &SecretSlice<u8>) -> Self {
        let identity = identity(&config.server.public_url);
        let mut validation = Validation::new(ALGORITHM);
        validation.set_issuer(&[&identity]);
        validation.set_audience(&[&identity]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Expiry is compared with the clock we are given, in `verify`.
        validation.validate_exp = false;
        let clients = config.integrations.iter().map(|integration| Client {
            id: integration.outbound.client_id.clone(),
            secret: integration.outbound.client_secret.clone(),
            lifetime: integration.outbound.token_lifetime,
        });
        Self {
            identity,
            clients: clients.collect(),
            encoding: EncodingKey::from_secret(key.expose_secret()),
            decoding: DecodingKey::from_secret(key.expose_secret()),
            validation,
            verified: Mutex::default(),
        }
    }

    /// A signing key to start with.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn fresh_key() -> Result<SecretSlice<u8>, getrandom::Error> {
        let mut key = vec![0; 32];
        getrandom::fill(&mut key)?;
        Ok(key.into())
    }

    /// Issues a token to a client that knows its secret.
    ///
    /// # Errors
    /// If it does not.
    pub fn issue(&self, client_id: &str, client_secret: &str, now: Timestamp) -> Result<IssuedToken, ClientRefused> {
        let mut client = None;
        // Every client is compared, so that the time taken does not tell which id exists.
        for candidate in &self.clients {
            let id_matches = same_secret(client_id, &candidate.id);
            let secret_matches = same_secret(client_secret, candidate.secret.expose());
            if id_matches & secret_matches {
                client = Some(candidate);
            }
        }
        let client = client.ok_or(ClientRefused)?;
        let claims = Claims {
            iss: self.identity.clone(),
            aud: self.identity.clone(),
            sub: client.id.clone(),
            scope: SCOPE.to_owned(),
            iat: now.as_seconds(),
            exp: now.plus(client.lifetime).as_seconds(),
            jti: Uuid::new_v4(),
        };
        let access_token = encode(&Header::new(ALGORITHM), &claims, &self.encoding).map_err(|_| ClientRefused)?;
        Ok(IssuedToken { access_token, lifetime: client.lifetime, scope: SCOPE })
    }

    /// The caller that shows `token`.
    ///
    /// # Errors
    /// If the token was not signed by us with the pinned algorithm for this address, has expired, or names a
    /// client that is configured no more.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Caller, AuthenticationError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthenticationError::Invalid);
        }
        let remembered = self.verified().get(token).copied();
        let verified = match remembered {
            Some(verified) => verified,
            None => self.examine(token)?,
        };
        if verified.expires <= now.as_seconds() {
            self.verified().remove(token);
            return Err(AuthenticationError::Expired);
        }
        if remembered.is_none() {
            let mut known = self.verified();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(token.to_owned(), verified);
        }
        Ok(Caller { integration: verified.integration })
    }

    /// Everything about a token that time does not change.
    fn examine(&self, token: &str) -> Result<Verified, AuthenticationError> {
        let claims =
            decode::<Claims>(token, &self.decoding, &self.validation).map_err(|_| AuthenticationError::Invalid)?.claims;
        let integration = self.clients.iter().position(|client| client.id == claims.sub);
        let integration = integration.ok_or(AuthenticationError::Invalid)?;
        if !claims.scope.split(' ').any(|scope| scope == SCOPE) {
            return Err(AuthenticationError::Scope);
        }
        Ok(Verified { integration, expires: claims.exp })
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<String, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn identity(public_url: &BaseUrl) -> String {
    public_url.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn issuer() -> Issuer {
        Issuer::new(&Config::defaults(), &vec![7; 32].into())
    }

    fn claims() -> Claims {
        let identity = "http://127.0.0.1:8080".to_owned();
        Claims {
            iss: identity.clone(),
            aud: identity,
            sub: "marketplace".into(),
            scope: SCOPE.into(),
            iat: NOW.as_seconds(),
            exp: NOW.as_seconds() + 60,
            jti: Uuid::nil(),
        }
    }

    fn signed(algorithm: Algorithm, claims: &Claims, key: &[u8]) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key)).expect("signs")
    }

    #[test]
    fn a_token_is_good_until_its_end_and_not_a_second_longer() {
        let issuer = issuer();
        let token = issuer.issue("marketplace", "change-me", NOW).expect("issued").access_token;
        assert_eq!(issuer.verify(&token, NOW), Ok(Caller { integration: 0 }));
        let last = NOW.plus(Duration::from_secs(3599));
        assert!(issuer.verify(&token, last).is_ok());
        assert_eq!(issuer.verify(&token, last.plus(Duration::from_secs(1))), Err(AuthenticationError::Expired));
    }

    #[test]
    fn a_client_without_its_secret_gets_no_token() {
        for (id, secret) in [("marketplace", "wrong"), ("nobody", "change-me"), ("", ""), ("marketplace", "")] {
            assert_eq!(issuer().issue(id, secret, NOW).err(), Some(ClientRefused), "{id}:{secret}");
        }
    }

    #[test]
    fn a_token_that_is_not_ours_in_every_respect_is_refused() {
        let key = [7; 32];
        let good = signed(ALGORITHM, &claims(), &key);
        assert!(issuer().verify(&good, NOW).is_ok());
        let part = |index: usize| good.split('.').nth(index).expect("three parts").to_owned();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        for (case, token) in [
            ("empty", String::new()),
            ("no token at all", "abc".into()),
            ("another key", signed(ALGORITHM, &claims(), &[8; 32])),
            ("another algorithm", signed(Algorithm::HS512, &claims(), &key)),
            ("another issuer", signed(ALGORITHM, &Claims { iss: "http://other".into(), ..claims() }, &key)),
            ("another audience", signed(ALGORITHM, &Claims { aud: "http://other".into(), ..claims() }, &key)),
            ("an unknown client", signed(ALGORITHM, &Claims { sub: "stranger".into(), ..claims() }, &key)),
            ("no signature", format!("{}.{}.", part(0), part(1))),
            ("alg none", format!("{none}.{}.", part(1))),
            ("alg none, signature kept", format!("{none}.{}.{}", part(1), part(2))),
            ("too long", "a".repeat(MAX_TOKEN_BYTES + 1)),
        ] {
            assert_eq!(issuer().verify(&token, NOW), Err(AuthenticationError::Invalid), "{case}");
        }
        let scope = signed(ALGORITHM, &Claims { scope: "other".into(), ..claims() }, &key);
        assert_eq!(issuer().verify(&scope, NOW), Err(AuthenticationError::Scope));
    }
}
