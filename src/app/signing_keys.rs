//! The authenticator as the private listener sees it: the keys that tokens are signed with.

use async_trait::async_trait;

use crate::admin::api::Key;
use crate::admin::{RotationError, SigningKeys};
use crate::authenticate::{Authenticator, KeyInfo, KeyringError};

#[async_trait]
impl SigningKeys for Authenticator {
    fn list(&self) -> Vec<Key> {
        self.keys().into_iter().map(Key::from).collect()
    }

    async fn rotate(&self, revoke: bool) -> Result<Option<Vec<Key>>, RotationError> {
        let keys = self.rotate_keys(revoke).await?;
        Ok(keys.map(|keys| keys.into_iter().map(Key::from).collect()))
    }
}

impl From<KeyInfo> for Key {
    fn from(key: KeyInfo) -> Self {
        Self { kid: key.kid, created_at: key.created_at, verifies_until: key.verifies_until }
    }
}

impl From<KeyringError> for RotationError {
    fn from(error: KeyringError) -> Self {
        let reason = error.to_string();
        match error {
            KeyringError::Changed => Self::Conflict(reason),
            KeyringError::Store(_) => Self::Unavailable(reason),
            KeyringError::Damaged | KeyringError::Randomness(_) => Self::Failed(reason),
        }
    }
}
