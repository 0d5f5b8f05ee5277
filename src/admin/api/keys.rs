//! The documents of the key routes.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/keys`, and the answer to `POST /api/v1/keys/rotate?revoke=`: the oldest key first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyList {
    pub(crate) keys: Vec<Key>,
}

/// A key that tokens are signed with, by name: the key itself is never shown. Moments are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) created_at: String,
    /// Until when tokens that it has signed are taken; nothing for the key that signs.
    pub(crate) verifies_until: Option<String>,
}
