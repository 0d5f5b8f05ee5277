//! What a client can have too much of, and how often it had.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::http::StatusCode;

/// What a request can have too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// Path and query are too long.
    Url,
    /// The headers are too large.
    Headers,
    /// The body is too large.
    Body,
    /// The request took too long to arrive.
    Slow,
    /// The connection is one too many of its network.
    ConnectionsOfAddress,
    /// The connection is one too many in total.
    Connections,
    /// The request is one too many at once.
    RequestsInFlight,
}

impl LimitExceeded {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Url,
        Self::Headers,
        Self::Body,
        Self::Slow,
        Self::ConnectionsOfAddress,
        Self::Connections,
        Self::RequestsInFlight,
    ];

    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Slow => "slow",
            Self::ConnectionsOfAddress => "connections_of_address",
            Self::Connections => "connections",
            Self::RequestsInFlight => "requests_in_flight",
        }
    }

    /// What it is answered.
    pub(crate) const fn status_code(self) -> StatusCode {
        match self {
            Self::Url => StatusCode::URI_TOO_LONG,
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectionsOfAddress => StatusCode::TOO_MANY_REQUESTS,
            Self::Connections | Self::RequestsInFlight => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "the request's path and query are longer than is taken here",
            Self::Headers => "the request's headers are larger than is taken here",
            Self::Body => "the request's body is larger than is taken here",
            Self::Slow => "the request took too long to arrive",
            Self::ConnectionsOfAddress => "too many connections from this network; close some",
            Self::Connections => "too many connections; try again",
            Self::RequestsInFlight => "too many requests at once; try again",
        })
    }
}

/// How often each exceeded limit was refused since the start.
#[derive(Debug, Default)]
pub struct LimitCounters {
    excesses: [AtomicU64; LimitExceeded::ALL.len()],
    malformed: AtomicU64,
}

impl LimitCounters {
    /// How often `exceeded limit` was refused.
    #[must_use]
    pub fn count(&self, exceeded: LimitExceeded) -> u64 {
        self.excesses[exceeded as usize].load(Ordering::Relaxed)
    }

    /// How often what arrived was no request.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    pub(super) fn note_malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, exceeded: LimitExceeded) {
        self.excesses[exceeded as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(exceeded = exceeded.name(), "refused");
    }
}
