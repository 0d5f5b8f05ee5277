//! Accounts as the events about them have left them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::event::AccountStatus;

/// Says how accounts stand.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// The status of an account as the latest event about it that succeeded has left it; nothing if none has told.
    ///
    /// An earlier event that is run again changes nothing.
    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError>;
}
