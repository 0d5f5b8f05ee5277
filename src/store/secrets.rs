//! What authentication keeps, and shares with every replica.

use async_trait::async_trait;
use secrecy::SecretSlice;

use super::error::StoreError;
use crate::clock::Timestamp;

/// The longest value that [`Secrets::put`] keeps, in bytes.
pub(super) const MAX_EXPIRING_BYTES: usize = 4096;

/// Keeps secrets: signing keys by name, and what is used once, such as nonces, for a time.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// The secret kept under `name`.
    async fn get(&self, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError>;

    /// The secret kept under `name`; keeps `fresh`, durably, if there is none yet.
    ///
    /// Of callers that do this at once, on any number of replicas, all are given the same.
    async fn create(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError>;

    /// Keeps `fresh` under `name`, durably, if what is kept there is `held`; says whether it was.
    async fn replace(&self, name: &str, held: &SecretSlice<u8>, fresh: SecretSlice<u8>) -> Result<bool, StoreError>;

    /// Keeps `value` under `key`, durably, until `until` has come; says whether nothing was kept there.
    ///
    /// Of callers that do this at once exactly one is told so. `until` is part of the name: it must be the same each
    /// time the key is used, so that a store can forget by it.
    async fn put(
        &self,
        key: [u8; 16],
        until: Timestamp,
        value: SecretSlice<u8>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Takes what [`put`](Secrets::put) kept under `key` with the same `until`, unless that has come.
    ///
    /// Of callers that do this at once exactly one is given it.
    async fn take(
        &self,
        key: [u8; 16],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<SecretSlice<u8>>, StoreError>;
}
