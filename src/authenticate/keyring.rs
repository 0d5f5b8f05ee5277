//! The keys our tokens are signed with: one that signs, and those before it until their tokens have ended.
//!
//! They are kept in the store, where several processes share them: each reads them again when a token names a key that it
//! does not know, and from time to time. Such a reading is a task of its own, one at a time, and whoever needs its outcome
//! waits for it, so that no caller that goes away takes it along.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::{Clock, Moment, Timestamp};
use crate::store::{Secrets, StoreError};

/// Name of the keys in the store.
const NAME: &str = "issuer.keys";
/// A key is kept this much longer than its tokens, for those that were being signed when it retired.
const MARGIN: Duration = Duration::from_mins(1);
/// The keys are read again no sooner after the last time than this, whatever key names strangers invent.
const COOL_DOWN: Duration = Duration::from_millis(250);
/// How often a change is tried again that others were quicker with.
const MOST_TRIES: usize = 16;

/// Why the signing keys cannot be read or changed.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The store.
    #[error("the signing keys can be neither read nor kept: {0}")]
    Store(#[from] StoreError),
    /// What the store holds is no set of keys.
    #[error("the signing keys in the store cannot be read; restore the store from a backup")]
    Damaged,
    /// Somebody else changed them meanwhile.
    #[error("the signing keys were changed by somebody else meanwhile; try again")]
    Changed,
    /// The system's randomness.
    #[error("no signing key can be made: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// A signing key as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Names it in the tokens it signed.
    pub kid: String,
    /// When it was made, as RFC 3339.
    pub created_at: String,
    /// Until when it verifies tokens, as RFC 3339; nothing for the key that signs.
    pub verifies_until: Option<String>,
}

/// As the store keeps it.
#[derive(Clone, Serialize, Deserialize)]
struct StoredKey {
    kid: String,
    secret: String,
    created: Timestamp,
    /// The longest that a token it signed can be good, in seconds.
    longest_lifetime: u64,
    retired: Option<Timestamp>,
}

/// The keys of one moment.
pub(super) struct Keys {
    pub(super) signing_kid: String,
    pub(super) signing: EncodingKey,
    verifying: HashMap<String, (DecodingKey, Timestamp)>,
    stored: Vec<StoredKey>,
    /// As the store holds them.
    held: SecretSlice<u8>,
    /// Changes with the keys: what was verified at another version may rest on a key that was revoked.
    pub(super) version: u64,
}

/// The latest time that the keys were read again.
#[derive(Clone, Copy)]
struct Attempt {
    /// Counted from 1.
    number: u64,
    ended: Moment,
    is_read: bool,
}

/// The keys, as they are and as they change.
pub(super) struct Keyring {
    keys: RwLock<Arc<Keys>>,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    /// How often reading them again began.
    began: AtomicU64,
    latest: Mutex<Option<Attempt>>,
    /// The reading that is on its way.
    reading: Mutex<Option<watch::Receiver<bool>>>,
}

/// The keys could not be read in time, so it is not known whether there is such a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unavailable;

impl StoredKey {
    fn fresh(lifetime: Duration, now: Timestamp) -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self {
            kid: Uuid::new_v4().simple().to_string(),
            secret: STANDARD.encode(secret),
            created: now,
            longest_lifetime: lifetime.as_secs(),
            retired: None,
        })
    }

    fn verifies_until(&self) -> Timestamp {
        let last_token = |retired: Timestamp| retired.plus(Duration::from_secs(self.longest_lifetime)).plus(MARGIN);
        self.retired.map_or(Timestamp::MAX, last_token)
    }
}

impl Keys {
    fn of(stored: Vec<StoredKey>, held: SecretSlice<u8>) -> Result<Self, KeyringError> {
        let secret = |key: &StoredKey| STANDARD.decode(&key.secret).map_err(|_| KeyringError::Damaged);
        let current = stored.iter().rfind(|key| key.retired.is_none()).ok_or(KeyringError::Damaged)?;
        let (signing_kid, signing) = (current.kid.clone(), EncodingKey::from_secret(&secret(current)?));
        let mut verifying = HashMap::new();
        for key in &stored {
            verifying.insert(key.kid.clone(), (DecodingKey::from_secret(&secret(key)?), key.verifies_until()));
        }
        Ok(Self { signing_kid, signing, verifying, stored, held, version: 0 })
    }

    fn read(held: SecretSlice<u8>) -> Result<Self, KeyringError> {
        let stored = serde_json::from_slice(held.expose_secret()).map_err(|_| KeyringError::Damaged)?;
        Self::of(stored, held)
    }

    /// Whether a key of this name is known, its tokens ended or not.
    pub(super) fn has(&self, kid: &str) -> bool {
        self.verifying.contains_key(kid)
    }

    /// The key that `kid` names, unless its tokens have all ended.
    pub(super) fn verifying(&self, kid: &str, now: Timestamp) -> Option<&DecodingKey> {
        self.verifying.get(kid).filter(|(_, until)| *until > now).map(|(key, _)| key)
    }
}

fn sealed(stored: &[StoredKey]) -> SecretSlice<u8> {
    serde_json::to_vec(stored).unwrap_or_default().into()
}

impl Keyring {
    /// Opens the keys in `secrets`, making the first if there is none; tokens may be good for up to `lifetime`.
    ///
    /// Processes that open them at once agree: whoever is second goes on with what the first one left.
    pub(super) async fn open(
        secrets: Arc<dyn Secrets>,
        lifetime: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, KeyringError> {
        let fresh = sealed(&[StoredKey::fresh(lifetime, clock.now())?]);
        let keys = Keys::read(secrets.create(NAME, fresh).await?)?;
        let keyring = Self {
            keys: RwLock::new(Arc::new(keys)),
            secrets,
            clock,
            began: AtomicU64::new(0),
            latest: Mutex::default(),
            reading: Mutex::default(),
        };
        let is_long_enough = |key: &StoredKey| key.retired.is_some() || key.longest_lifetime >= lifetime.as_secs();
        if !keyring.current().stored.iter().all(is_long_enough) {
            let lengthen = |stored: &mut Vec<StoredKey>| {
                for key in stored.iter_mut().filter(|key| key.retired.is_none()) {
                    key.longest_lifetime = key.longest_lifetime.max(lifetime.as_secs());
                }
            };
            keyring.change(lengthen).await?;
        }
        Ok(keyring)
    }

    pub(super) fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often reading the keys again began: to be asked for before a key is looked up.
    pub(super) fn readings(&self) -> u64 {
        self.began.load(Ordering::Acquire)
    }

    /// Reads the keys again, unless others just did: what a reading brought that began after the first `began` ones is as
    /// new as the token that is looked into.
    ///
    /// They are read no sooner than a while after the last time, and callers wait for that together, so that a key which
    /// another process has just made is found and strangers' inventions cost next to nothing.
    pub(super) async fn read_again(self: &Arc<Self>, began: u64) -> Result<Arc<Keys>, Unavailable> {
        loop {
            let mut reading = {
                let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
                let latest = self.latest();
                if let Some(latest) = latest.filter(|latest| latest.number > began) {
                    return if latest.is_read { Ok(self.current()) } else { Err(Unavailable) };
                }
                self.join(&mut reading)
            };
            // Nobody tells if it panicked.
            if reading.wait_for(|is_over| *is_over).await.is_err() {
                return Err(Unavailable);
            }
        }
    }

    /// The reading that is on its way; one is sent on its way if there is none.
    fn join(self: &Arc<Self>, reading: &mut Option<watch::Receiver<bool>>) -> watch::Receiver<bool> {
        // One whose sender is gone without a word has panicked.
        if let Some(reading) = reading.as_ref().filter(|reading| reading.has_changed().is_ok()) {
            return reading.clone();
        }
        let (everybody, is_over) = watch::channel(false);
        *reading = Some(is_over.clone());
        let keyring = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(latest) = keyring.latest() {
                keyring.clock.sleep_until(latest.ended.plus(COOL_DOWN)).await;
            }
            let number = keyring.began.fetch_add(1, Ordering::AcqRel) + 1;
            let read = keyring.reload().await;
            if let Err(error) = &read {
                tracing::warn!(%error, "the signing keys cannot be read again; those that are known stay good");
            }
            let latest = Attempt { number, ended: keyring.clock.monotonic(), is_read: read.is_ok() };
            *keyring.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(latest);
            *keyring.reading.lock().unwrap_or_else(PoisonError::into_inner) = None;
            everybody.send_replace(true);
        });
        is_over
    }

    fn latest(&self) -> Option<Attempt> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the keys again.
    pub(super) async fn reload(&self) -> Result<(), KeyringError> {
        let known = self.current();
        // A plain read: a disk that takes no writes keeps no token from being looked into.
        let held = self.secrets.get(NAME).await?.ok_or(KeyringError::Damaged)?;
        if held.expose_secret() != known.held.expose_secret() {
            self.set(Keys::read(held)?);
        }
        Ok(())
    }

    /// Signs with a new key from now on. The old ones verify until their tokens have ended, or no more if they are
    /// to be `revoked`.
    pub(super) async fn rotate(&self, lifetime: Duration, revoke: bool, now: Timestamp) -> Result<(), KeyringError> {
        let fresh = StoredKey::fresh(lifetime, now)?;
        self.change(|stored| {
            for key in stored.iter_mut().filter(|key| key.retired.is_none()) {
                key.retired = Some(now);
            }
            stored.retain(|key| !revoke && key.verifies_until() > now);
            stored.push(fresh.clone());
        })
        .await
    }

    /// The keys as an operator sees them, the oldest first.
    pub(super) fn infos(&self) -> Vec<KeyInfo> {
        let info = |key: &StoredKey| KeyInfo {
            kid: key.kid.clone(),
            created_at: key.created.to_string(),
            verifies_until: key.retired.map(|_| key.verifies_until().to_string()),
        };
        self.current().stored.iter().map(info).collect()
    }

    /// Makes a change durable, and then uses it. It is made of the keys as they are, whoever else changes them.
    async fn change(&self, change: impl Fn(&mut Vec<StoredKey>)) -> Result<(), KeyringError> {
        for _ in 0..MOST_TRIES {
            let known = self.current();
            let mut stored = known.stored.clone();
            change(&mut stored);
            let fresh = sealed(&stored);
            if self.secrets.replace(NAME, &known.held, fresh.clone()).await? {
                self.set(Keys::of(stored, fresh)?);
                return Ok(());
            }
            self.reload().await?;
        }
        Err(KeyringError::Changed)
    }

    fn set(&self, keys: Keys) {
        let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Keys { version: current.version + 1, ..keys });
    }
}
