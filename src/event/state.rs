//! How far an event got.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far an event got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Durable; its body is not read yet.
    Received,
    /// Its body is stored.
    Fetched,
    /// Its result is stored, and not confirmed by the marketplace yet.
    Handled,
    /// Finished.
    Done,
    /// The product answers later.
    Deferred,
    /// Given up; waits for an operator.
    Dead,
}

impl State {
    /// Whether a worker has something to do for it.
    #[must_use]
    pub const fn is_unfinished(self) -> bool {
        match self {
            Self::Received | Self::Fetched | Self::Handled => true,
            Self::Done | Self::Deferred | Self::Dead => false,
        }
    }

    /// The state's name, as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Fetched => "fetched",
            Self::Handled => "handled",
            Self::Done => "done",
            Self::Deferred => "deferred",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
