//! Why a store does not do what it is asked.

use thiserror::Error;

use crate::event::{ChangeError, IllegalChange, UnfitResult};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// More writes wait than the store takes on.
    #[error("the store has too many writes waiting")]
    Overloaded,
    /// The medium failed; nothing is acknowledged.
    #[error("the store cannot write or read: {0}")]
    Unavailable(String),
    /// The claim is not that of the event's holder.
    #[error("the claim on the event was lost")]
    ClaimLost,
    /// A worker holds the event.
    #[error("the event is being worked on")]
    Locked,
    /// The step does not follow from the event's state.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
    /// The result is not one that the event can have.
    #[error(transparent)]
    Unfit(#[from] UnfitResult),
    /// There is no such event.
    #[error("there is no event with this id")]
    NotFound,
    /// A record that is longer than is kept in one piece.
    #[error("a record of {0} bytes is longer than is kept")]
    TooLong(usize),
    /// A stored value cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded | Self::Unavailable(_) => true,
            Self::ClaimLost
            | Self::Locked
            | Self::Illegal(_)
            | Self::Unfit(_)
            | Self::NotFound
            | Self::TooLong(_)
            | Self::Unreadable(_) => false,
        }
    }
}

impl From<ChangeError> for StoreError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Illegal(error) => error.into(),
            ChangeError::Unfit(error) => error.into(),
        }
    }
}
