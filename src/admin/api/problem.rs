//! The document of every error.

use serde::{Deserialize, Serialize};

/// Why the receiver does not do what it was asked (RFC 9457).
///
/// Every member is optional when it is read: what answers may be something else than a receiver.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) title: Option<String>,
    pub(crate) status: u16,
    pub(crate) detail: String,
    /// The `Allow` header of a 405.
    #[serde(skip)]
    pub(crate) allowed: Option<&'static str>,
}
