//! Why a call to a marketplace came to nothing.

use std::time::{Duration, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::egress::EgressError;

/// Why a call came to nothing. Every one of these may pass.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// No token to call with.
    #[error("no token: {reason}")]
    Token {
        /// What the token endpoint did.
        reason: String,
        /// How long it asks us to wait, or how long it is left alone.
        retry_after: Option<Duration>,
    },
    /// No answer.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// An answer that neither does nor settles it.
    #[error("the marketplace answered {status}")]
    Status {
        /// The answer's status.
        status: StatusCode,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
}

impl CallError {
    /// Whether an answer came that is larger than is read.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        matches!(self, Self::Egress(EgressError::TooLarge { .. }))
    }

    /// The answer that came and was of no use as it is, if one did.
    #[must_use]
    pub fn into_received(self) -> Option<Vec<u8>> {
        match self {
            Self::Egress(EgressError::TooLarge { received, .. } | EgressError::Encoding { received, .. }) => {
                Some(received.0)
            }
            Self::Token { .. } | Self::Egress(_) | Self::Status { .. } => None,
        }
    }

    pub(super) const fn token(reason: String, retry_after: Option<Duration>) -> Self {
        Self::Token { reason, retry_after }
    }

    /// How long to wait before the next try at least, if there is a reason to.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Token { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Egress(_) => None,
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 §10.2.3).
///
/// As it was asked for: how much of it is honoured is for whoever waits to decide.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a wait that outlasts everything.
        return Some(Duration::from_secs(text.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let moment = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(moment.as_millis()).ok()?).since(now))
}
