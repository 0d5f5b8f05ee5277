use async_trait::async_trait;
use secrecy::SecretSlice;
use thiserror::Error;

use crate::clock::Timestamp;

/// What authentication has to keep, and to share with every replica: signing keys, and which signatures were used.
///
/// The store implements it; the two rooms do not know each other.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// The secret kept under `name`; keeps `fresh`, durably, if there is none yet.
    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, VaultError>;

    /// Keeps `fresh` under `name`, durably, if what is kept there is `held`; says whether it was.
    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, VaultError>;

    /// Notes, durably, that `nonce` was used; says whether this was the first time. It may be forgotten once `until`
    /// has come.
    async fn use_nonce(&self, nonce: Nonce, until: Timestamp) -> Result<bool, VaultError>;
}

/// A nonce with everything it is unique within, as the first half of a SHA-256 digest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

/// The vault could not be read or written.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct VaultError(pub Box<dyn std::error::Error + Send + Sync>);
