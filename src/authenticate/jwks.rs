//! Keys of an identity provider: fetched, kept, and fetched again when they change.
//!
//! A fetch is a task of its own, one at a time, and whoever needs its outcome waits for it as long as they can: keys that
//! came too late for one caller are there for the next, and an attempt that failed is known to have failed even if its
//! callers have gone.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http::Request;
use http::header::ACCEPT;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;

use super::admission::{Admission, Bounds};
use crate::clock::{Clock, Moment};
use crate::config::{self, Endpoint};
use crate::egress::{Egress, EgressError};
use crate::event::BaseUrl;
use crate::log_limiter::LogLimiter;

/// How often keys are fetched without anybody asking: how long a key that was withdrawn is still good here.
pub(super) const REFRESH_EVERY: Duration = Duration::from_mins(5);
/// Keys are fetched no sooner after the last time than this, whatever tokens strangers show.
const COOL_DOWN: Duration = Duration::from_secs(2);
/// How long a caller waits for keys: a marketplace waits 5 s for its answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Callers that wait for keys at once; more are turned away. A burst that follows a start comes from one network, which
/// is not known yet, so that has to fit; and all together leave most of the requests in flight to others.
const WAITING: Bounds = Bounds { total: 768, kept_for_known: 0, strangers: 384, of_stranger: 256, of_proven: 384 };
/// The largest document that is read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// Keys that are kept of one document.
const MAX_KEYS: usize = 100;

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NoKey {
    /// The provider has no such key.
    #[error("the identity provider has no such key")]
    Unknown,
    /// The provider cannot be asked.
    #[error("the identity provider cannot be asked for its keys")]
    Unavailable,
}

/// Why keys cannot be fetched.
#[derive(Debug, Error)]
enum FetchError {
    /// No answer.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// An answer that is none.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer's status.
        status: http::StatusCode,
    },
    /// An answer that cannot be used.
    #[error("{url} answered no usable {what}: {reason}")]
    Unusable {
        /// What was asked.
        url: String,
        /// What for.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where keys are found.
enum Whereabouts {
    Document(Endpoint),
    /// As the discovery document of the issuer says.
    Discovered {
        issuer: String,
        base: BaseUrl,
    },
}

/// The keys of one provider.
pub(super) struct KeySource {
    whereabouts: Whereabouts,
    egress: Egress,
    clock: Arc<dyn Clock>,
    known: RwLock<Arc<Known>>,
    /// How often fetching began.
    began: AtomicU64,
    /// The fetch that is on its way.
    fetching: Mutex<Option<watch::Receiver<Option<Outcome>>>>,
    waiting: Arc<Admission>,
    log: LogLimiter,
}

/// What a fetch came to, for all who wait for it.
type Outcome = Result<(), NoKey>;

/// What is known, and since when.
#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    /// Changes with the keys.
    version: u64,
    latest: Option<Attempt>,
}

/// The latest time that keys were fetched, or could not be.
#[derive(Clone, Copy)]
struct Attempt {
    /// Counted from 1.
    number: u64,
    ended: Moment,
    outcome: Outcome,
}

/// A key and what it is good for.
#[derive(Clone)]
struct Key {
    jwk: Jwk,
    decoding: DecodingKey,
}

impl Key {
    /// A key that signatures may be verified with; nothing for any other.
    fn of(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let is_for_signing = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        // A secret key has no place among public ones, and could be what a public key is mistaken for.
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let may_verify =
            jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if is_secret || !is_for_signing || !may_verify {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { jwk, decoding })
    }

    fn verifies(&self, algorithm: Algorithm) -> bool {
        let fits = match (&self.jwk.algorithm, algorithm) {
            (
                AlgorithmParameters::RSA(_),
                Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512,
            ) => true,
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES256) => curve.curve == EllipticCurve::P256,
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES384) => curve.curve == EllipticCurve::P384,
            (AlgorithmParameters::OctetKeyPair(pair), Algorithm::EdDSA) => pair.curve == EllipticCurve::Ed25519,
            _ => false,
        };
        fits && self.jwk.common.key_algorithm.is_none_or(|own| same_algorithm(own, algorithm))
    }
}

fn same_algorithm(own: KeyAlgorithm, algorithm: Algorithm) -> bool {
    own.to_string() == format!("{algorithm:?}")
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl KeySource {
    pub(super) fn new(jwt: &config::Jwt, egress: &config::Egress, clock: Arc<dyn Clock>) -> Result<Self, EgressError> {
        let (whereabouts, allowed) = if let Some(url) = &jwt.jwks_url {
            (Whereabouts::Document(url.clone()), url.base().clone())
        } else {
            let base =
                BaseUrl::parse(&jwt.issuer).map_err(|error| EgressError::Unsendable(format!("issuer {error}")))?;
            (Whereabouts::Discovered { issuer: jwt.issuer.clone(), base: base.clone() }, base)
        };
        Ok(Self {
            whereabouts,
            egress: Egress::new(egress, vec![allowed], MAX_DOCUMENT_BYTES)?,
            waiting: Admission::new(WAITING, Arc::clone(&clock)),
            log: LogLimiter::new(Arc::clone(&clock)),
            clock,
            known: RwLock::default(),
            began: AtomicU64::new(0),
            fetching: Mutex::default(),
        })
    }

    /// The key that `kid` names for `algorithm`; without a name, the only one there is for it.
    ///
    /// A key that is not known is looked for at the provider, though not sooner than a while after the last time:
    /// callers wait for that together, so that a key that has just come is found and strangers' inventions cost the
    /// provider next to nothing.
    pub(super) async fn key(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        address: IpAddr,
    ) -> Result<DecodingKey, NoKey> {
        let began = self.began.load(Ordering::Acquire);
        if let Some(key) = find(&self.known().keys, kid, algorithm) {
            return Ok(key);
        }
        let _waiting = self.waiting.enter(address, false).ok_or(NoKey::Unavailable)?;
        tokio::select! {
            found = self.look_for(kid, algorithm, began) => found,
            () = self.clock.sleep(PATIENCE) => Err(NoKey::Unavailable),
        }
    }

    /// Notes that `address` showed a token that one of these keys verifies.
    pub(super) fn proved(&self, address: IpAddr) {
        self.waiting.proved(address);
    }

    /// Looks for a key at the provider, unless others just did: what an attempt brought that began after the first
    /// `began` ones is as new as the token that is looked into.
    async fn look_for(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        began: u64,
    ) -> Result<DecodingKey, NoKey> {
        loop {
            let mut fetch = {
                let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
                let known = self.known();
                if let Some(key) = find(&known.keys, kid, algorithm) {
                    return Ok(key);
                }
                if let Some(Attempt { number, outcome, .. }) = known.latest
                    // What could not be asked a moment ago is not asked again at once.
                    && (number > began || outcome.is_err() && self.cools_down().is_some())
                {
                    return Err(outcome.err().unwrap_or(NoKey::Unknown));
                }
                self.join(&mut fetching)
            };
            // Nobody tells if it panicked.
            if fetch.wait_for(Option::is_some).await.is_err() {
                return Err(NoKey::Unavailable);
            }
        }
    }

    /// Fetches the keys now, or waits for those who do already.
    pub(super) async fn refresh(self: &Arc<Self>) -> Outcome {
        let mut fetch = self.join(&mut self.fetching.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = fetch.wait_for(Option::is_some).await.ok().and_then(|outcome| *outcome);
        outcome.unwrap_or(Err(NoKey::Unavailable))
    }

    /// The fetch that is on its way; one is sent on its way if there is none.
    fn join(
        self: &Arc<Self>,
        fetching: &mut Option<watch::Receiver<Option<Outcome>>>,
    ) -> watch::Receiver<Option<Outcome>> {
        // One whose sender is gone without a word has panicked.
        if let Some(fetch) = fetching.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return fetch.clone();
        }
        let (everybody, fetch) = watch::channel(None);
        *fetching = Some(fetch.clone());
        let source = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(end) = source.cools_down() {
                source.clock.sleep_until(end).await;
            }
            let outcome = source.fetch_and_keep().await;
            *source.fetching.lock().unwrap_or_else(PoisonError::into_inner) = None;
            everybody.send_replace(Some(outcome));
        });
        fetch
    }

    /// Until when the provider is left alone, if it is.
    fn cools_down(&self) -> Option<Moment> {
        let end = self.known().latest?.ended.plus(COOL_DOWN);
        (self.clock.monotonic() < end).then_some(end)
    }

    async fn fetch_and_keep(&self) -> Outcome {
        let number = self.began.fetch_add(1, Ordering::AcqRel) + 1;
        let fetched = self.fetch().await;
        let before = self.known();
        let (keys, outcome) = match fetched {
            Ok(keys) => (keys, Ok(())),
            Err(error) => {
                if let Some(times) = self.log.admit("keys_not_refreshed") {
                    let known = before.keys.len();
                    tracing::warn!(%error, known, times, "keys not refreshed; those that are known stay good");
                }
                (before.keys.clone(), Err(NoKey::Unavailable))
            }
        };
        let has_changed = keys.iter().map(|key| &key.jwk).ne(before.keys.iter().map(|key| &key.jwk));
        let version = before.version + u64::from(has_changed);
        let latest = Some(Attempt { number, ended: self.clock.monotonic(), outcome });
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Known { keys, version, latest });
        outcome
    }

    /// Changes with the keys: what was verified at another version may rest on a key that was withdrawn.
    pub(super) fn version(&self) -> u64 {
        self.known().version
    }

    /// Whether the provider has keys that can be used, and where.
    pub(super) async fn check(&self) -> Result<String, String> {
        let keys = self.fetch().await.map_err(|error| error.to_string())?;
        let place = match &self.whereabouts {
            Whereabouts::Document(url) => url.to_string(),
            Whereabouts::Discovered { issuer, .. } => issuer.clone(),
        };
        if keys.is_empty() {
            return Err(format!("{place} has no key that a token could be verified with"));
        }
        Ok(format!("{} keys at {place}", keys.len()))
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let url = match &self.whereabouts {
            Whereabouts::Document(url) => url.clone(),
            Whereabouts::Discovered { issuer, base } => self.discover(issuer, base).await?,
        };
        let document: Document = self.get(url.as_str(), "key set").await?;
        Ok(document.keys.into_iter().take(MAX_KEYS).filter_map(Key::of).collect())
    }

    /// Where the issuer says that its keys are (OpenID Connect Discovery 1.0 §4).
    async fn discover(&self, issuer: &str, base: &BaseUrl) -> Result<Endpoint, FetchError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery: Discovery = self.get(&url, "discovery document").await?;
        let unusable = |reason: String| FetchError::Unusable { url: url.clone(), what: "discovery document", reason };
        if discovery.issuer != issuer {
            return Err(unusable(format!("it is of the issuer {:?}, not {issuer:?}", discovery.issuer)));
        }
        let endpoint = Endpoint::parse(&discovery.jwks_uri).map_err(|error| unusable(format!("jwks_uri {error}")))?;
        if !base.shares_origin_with(endpoint.base()) {
            let jwks_uri = &discovery.jwks_uri;
            return Err(unusable(format!(
                "jwks_uri {jwks_uri:?} is not at the issuer, and only what is configured is called; if it is right, write \
                 jwks_url = {jwks_uri:?}"
            )));
        }
        Ok(endpoint)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str, what: &'static str) -> Result<T, FetchError> {
        let request = Request::get(url)
            .header(ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|error| EgressError::Unsendable(error.to_string()))?;
        let answer = self.egress.call(request).await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status { url: url.to_owned(), status: answer.status() });
        }
        serde_json::from_slice(answer.body()).map_err(|error| FetchError::Unusable {
            url: url.to_owned(),
            what,
            reason: error.to_string(),
        })
    }
}

fn find(keys: &[Key], kid: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
    let mut fitting = keys
        .iter()
        .filter(|key| key.verifies(algorithm) && kid.is_none_or(|kid| key.jwk.common.key_id.as_deref() == Some(kid)));
    let key = fitting.next()?;
    // Without a name, or with one that two keys have, there is no telling which key is meant.
    fitting.next().is_none().then(|| key.decoding.clone())
}
