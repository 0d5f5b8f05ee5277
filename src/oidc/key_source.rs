//! Keys of an identity provider: fetched, kept, and fetched again when they change.
//!
//! A fetch is a task of its own, one at a time, and whoever needs its outcome waits for it as long as they can: keys that
//! came too late for one caller are there for the next, and an attempt that failed is known to have failed even if its
//! callers have gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;
use tokio::sync::watch;

use super::documents::Documents;
use super::jwk::{Key, find};
use crate::clock::{Clock, Moment};
use crate::config;
use crate::egress::EgressError;
use crate::log_limiter::LogLimiter;

/// How often keys are fetched without anybody asking: how long a key that was withdrawn is still good here.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_mins(5);
/// Keys are fetched no sooner after the last time than this, whatever tokens strangers show.
const COOL_DOWN: Duration = Duration::from_secs(2);

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum KeyLookupError {
    /// The provider has no such key.
    #[error("the identity provider has no such key")]
    Unknown,
    /// The provider cannot be asked.
    #[error("the identity provider cannot be asked for its keys")]
    Unavailable,
}

/// The keys of one provider.
pub(crate) struct KeySource {
    documents: Documents,
    clock: Arc<dyn Clock>,
    known: RwLock<Arc<Known>>,
    /// How often fetching began.
    began: AtomicU64,
    /// The fetch that is on its way.
    fetching: Mutex<Option<watch::Receiver<Option<Outcome>>>>,
    log: LogLimiter,
}

/// What a fetch came to, for all who wait for it.
type Outcome = Result<(), KeyLookupError>;

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

impl KeySource {
    pub(crate) fn new(jwt: &config::Jwt, egress: &config::Egress, clock: Arc<dyn Clock>) -> Result<Self, EgressError> {
        Ok(Self {
            documents: Documents::new(jwt, egress)?,
            log: LogLimiter::new(Arc::clone(&clock)),
            clock,
            known: RwLock::default(),
            began: AtomicU64::new(0),
            fetching: Mutex::default(),
        })
    }

    /// The key that `kid` names for `algorithm`, if it is known; without a name, the only one there is for it.
    pub(crate) fn known_key(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        find(&self.known().keys, kid, algorithm)
    }

    /// How often fetching began: to be asked for before a key is looked up.
    pub(crate) fn fetches(&self) -> u64 {
        self.began.load(Ordering::Acquire)
    }

    /// Looks for a key at the provider, unless others just did: what an attempt brought that began after the first
    /// `began` ones is as new as the token that is looked into.
    ///
    /// The provider is asked no sooner than a while after the last time, and callers wait for that together, so that a key
    /// that has just come is found and strangers' inventions cost the provider next to nothing.
    pub(crate) async fn look_for(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        began: u64,
    ) -> Result<DecodingKey, KeyLookupError> {
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
                    return Err(outcome.err().unwrap_or(KeyLookupError::Unknown));
                }
                self.join(&mut fetching)
            };
            // Nobody tells if it panicked.
            if fetch.wait_for(Option::is_some).await.is_err() {
                return Err(KeyLookupError::Unavailable);
            }
        }
    }

    /// Fetches the keys now, or waits for those who do already.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Outcome {
        let mut fetch = self.join(&mut self.fetching.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = fetch.wait_for(Option::is_some).await.ok().and_then(|outcome| *outcome);
        outcome.unwrap_or(Err(KeyLookupError::Unavailable))
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
        let fetched = self.documents.fetch().await;
        let before = self.known();
        let (keys, outcome) = match fetched {
            Ok(keys) => (keys, Ok(())),
            Err(error) => {
                if let Some(times) = self.log.admit("keys_not_refreshed") {
                    let known = before.keys.len();
                    tracing::warn!(%error, known, times, "keys not refreshed; those that are known stay good");
                }
                (before.keys.clone(), Err(KeyLookupError::Unavailable))
            }
        };
        let has_changed = keys.iter().map(|key| &key.jwk).ne(before.keys.iter().map(|key| &key.jwk));
        let version = before.version + u64::from(has_changed);
        let latest = Some(Attempt { number, ended: self.clock.monotonic(), outcome });
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Known { keys, version, latest });
        outcome
    }

    /// Changes with the keys: what was verified at another version may rest on a key that was withdrawn.
    pub(crate) fn version(&self) -> u64 {
        self.known().version
    }

    /// Whether the provider has keys that can be used, and where.
    pub(crate) async fn check(&self) -> Result<String, String> {
        let keys = self.documents.fetch().await.map_err(|error| error.to_string())?;
        let place = self.documents.place();
        if keys.is_empty() {
            return Err(format!("{place} has no key that a token could be verified with"));
        }
        Ok(format!("{} keys at {place}", keys.len()))
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}
