//! A listener that only known callers reach: operators, products, probes, and whoever develops against the sandbox.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionLimits, ConnectionTimes, Listener, Wording};
use crate::clock::Clock;
use crate::event::MAX_BODY_BYTES;

/// How many connections a private listener takes: its callers are few.
pub(crate) const PRIVATE_CONNECTIONS: usize = 128;
/// What a head has beside its URL and its headers' names and values: method, version, colons, line ends.
pub(crate) const HEAD_SLACK: usize = 1024;
const MAX_URL_AND_HEADER_BYTES: usize = 24 * 1024;

impl Listener {
    /// A private listener.
    pub(crate) fn private(keep_alive: Duration, clock: Arc<dyn Clock>, shutdown_timeout: Duration) -> Self {
        Self {
            times: ConnectionTimes {
                keep_alive,
                request: Duration::from_secs(10),
                answer: Duration::from_mins(1),
                max_head_bytes: MAX_URL_AND_HEADER_BYTES + HEAD_SLACK,
                max_body_bytes: MAX_BODY_BYTES,
            },
            connections: ConnectionLimits {
                total: PRIVATE_CONNECTIONS,
                of_network: PRIVATE_CONNECTIONS,
                surplus: surplus(PRIVATE_CONNECTIONS),
                exempt: Vec::new(),
            },
            limit_counters: Arc::default(),
            wording: Wording::Problem,
            clock,
            shutdown_timeout,
        }
    }
}

/// How many connections beyond `total` a listener takes to tell them that they are too many.
pub(crate) fn surplus(total: usize) -> usize {
    (total / 8).clamp(1, 512)
}
