//! What sled's failures are to callers of the store.

use crate::store::error::StoreError;

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
pub(super) fn failed(error: sled::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

/// A value that cannot be written or read as JSON.
#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
pub(super) fn unreadable(error: serde_json::Error) -> StoreError {
    StoreError::Unreadable(error.to_string())
}
