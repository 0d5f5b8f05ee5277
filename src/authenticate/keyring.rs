//! The keys our tokens are signed with: one that signs, and those before it until their tokens have ended.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::{Secrets, StoreError};

/// Name of the keys in the store.
const NAME: &str = "issuer.keys";
/// A key is kept this much longer than its tokens, for those that were being signed when it retired.
const MARGIN: Duration = Duration::from_mins(1);

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
}

/// The keys, as they are and as they change.
pub(super) struct Keyring {
    keys: RwLock<Arc<Keys>>,
    secrets: Arc<dyn Secrets>,
}

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
        Ok(Self { signing_kid, signing, verifying, stored, held })
    }

    fn read(held: SecretSlice<u8>) -> Result<Self, KeyringError> {
        let stored = serde_json::from_slice(held.expose_secret()).map_err(|_| KeyringError::Damaged)?;
        Self::of(stored, held)
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
    pub(super) async fn open(
        secrets: Arc<dyn Secrets>,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let fresh = sealed(&[StoredKey::fresh(lifetime, now)?]);
        let keys = Keys::read(secrets.create(NAME, fresh).await?)?;
        let keyring = Self { keys: RwLock::new(Arc::new(keys)), secrets };
        let mut stored = keyring.current().stored.clone();
        if let Some(signing) = stored.iter_mut().rfind(|key| key.retired.is_none())
            && signing.longest_lifetime < lifetime.as_secs()
        {
            signing.longest_lifetime = lifetime.as_secs();
            keyring.replace(stored).await?;
        }
        Ok(keyring)
    }

    pub(super) fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs with a new key from now on. The old ones verify until their tokens have ended, or no more if they are
    /// to be `revoked`.
    pub(super) async fn rotate(&self, lifetime: Duration, revoke: bool, now: Timestamp) -> Result<(), KeyringError> {
        let mut stored = self.current().stored.clone();
        for key in stored.iter_mut().filter(|key| key.retired.is_none()) {
            key.retired = Some(now);
        }
        stored.retain(|key| !revoke && key.verifies_until() > now);
        stored.push(StoredKey::fresh(lifetime, now)?);
        self.replace(stored).await
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

    /// Makes the keys durable, and then uses them.
    async fn replace(&self, stored: Vec<StoredKey>) -> Result<(), KeyringError> {
        let held = self.current();
        let fresh = sealed(&stored);
        if !self.secrets.replace(NAME, &held.held, fresh.clone()).await? {
            return Err(KeyringError::Changed);
        }
        let keys = Arc::new(Keys::of(stored, fresh)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }
}
