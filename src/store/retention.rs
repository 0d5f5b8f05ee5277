//! Up to when events are old, and when that is to be believed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How far retention has come: the time by which events are old, which the wall clock moves on but cannot make leap.
///
/// A wall clock that is ahead by a year would have everything forgotten, and one that was wrong before and is right now
/// looks the same. So time goes on as fast as it really passes, by the monotonic clock. What the wall clock is ahead
/// of that is believed if it is little, as after a restart, or if the clock has stood by it for as long as events are
/// kept: by then all that was recorded before is old by any clock. A clock that goes back is believed at once, since
/// that forgets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The time by which events are old.
    pub(super) reached: Timestamp,
    /// What the wall clock was ahead of that.
    pub(super) lead: Duration,
    /// For how long it has been so.
    pub(super) stood: Duration,
}

impl Retention {
    /// Up to when the store's time has come.
    pub(super) const fn reached(&self) -> Timestamp {
        self.reached
    }

    /// Begins at `reached`.
    pub(super) const fn at(reached: Timestamp) -> Self {
        Self { reached, lead: Duration::ZERO, stood: Duration::ZERO }
    }

    /// Goes on after `elapsed` by the monotonic clock, when the wall clock says `wall`, and events are kept for `keep`.
    pub(super) fn go_on(&mut self, elapsed: Duration, wall: Timestamp, keep: Duration) {
        // As much as an event may go too early.
        let little = keep / 10;
        let reached = self.reached.plus(elapsed);
        let lead = wall.since(reached);
        let stood = if lead.abs_diff(self.lead) <= little { self.stood + elapsed } else { Duration::ZERO };
        *self = if lead <= little || stood >= keep { Self::at(wall) } else { Self { reached, lead, stood } };
    }
}
