//! Keeping secrets.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};

use super::store::SledStore;
use super::writer::Write;
use crate::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::secrets::{MAX_EXPIRING_BYTES, Secrets};

#[async_trait]
impl Secrets for SledStore {
    async fn get(&self, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
        Ok(self.lookup.secret(name)?.map(Into::into))
    }

    async fn create(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        self.write(|reply| Write::CreateSecret(name.to_owned(), fresh, reply)).await
    }

    async fn replace(&self, name: &str, held: &SecretSlice<u8>, fresh: SecretSlice<u8>) -> Result<bool, StoreError> {
        let held = held.clone();
        self.write(|reply| Write::ReplaceSecret(name.to_owned(), held, fresh, reply)).await
    }

    async fn put(
        &self,
        key: [u8; 16],
        until: Timestamp,
        value: SecretSlice<u8>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let bytes = value.expose_secret().len();
        if bytes > MAX_EXPIRING_BYTES {
            return Err(StoreError::TooLong(bytes));
        }
        self.write(|reply| Write::PutExpiring((key, until), value, now, reply)).await
    }

    async fn take(
        &self,
        key: [u8; 16],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<SecretSlice<u8>>, StoreError> {
        self.write(|reply| Write::TakeExpiring((key, until), now, reply)).await
    }
}
