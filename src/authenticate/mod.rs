//! Stage 2: who is calling.
//!
//! Credentials become a [`Caller`] here and nowhere else.

mod issuer;

use subtle::ConstantTimeEq;
use thiserror::Error;

pub use issuer::{ClientRefused, IssuedToken, Issuer};

/// A caller that proved who it is, and the integration it may notify.
///
/// Only this module makes one, so nothing behind it can be reached without authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    integration: usize,
}

impl Caller {
    /// Place of the caller's integration in the configuration.
    #[must_use]
    pub const fn integration(&self) -> usize {
        self.integration
    }
}

/// Why a caller was not let in. What it says may be shown to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// No credentials at all.
    #[error("no bearer token; send the header Authorization: Bearer <token>")]
    Missing,
    /// Credentials that are not a bearer token.
    #[error("the Authorization header is not one bearer token")]
    Malformed,
    /// A token that is not one of ours, or was changed on the way.
    #[error("the bearer token is not valid here; ask the token endpoint for a new one")]
    Invalid,
    /// A token whose time is over.
    #[error("the bearer token has expired; ask the token endpoint for a new one")]
    Expired,
    /// A good token that is not for notifying us.
    #[error("the bearer token has not the scope for notifications")]
    Scope,
}

/// Compares two secrets in a time that does not depend on where they differ.
fn same_secret(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}
