//! The events of one marketplace, and who among them waits until earlier ones have been read.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Advanced, Claim, Sequence};
use crate::clock::Timestamp;
use crate::event::{EventRecord, State};

/// Told what an advanced claim may do next.
pub(in super::super) type Tell = Box<dyn FnOnce(Advanced) + Send>;

/// The events of one marketplace.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) marketplace: String,
    /// Free events that nothing holds up, by when they are due.
    pub(super) ready: BTreeSet<(Timestamp, Sequence)>,
    /// Events whose bodies are being read for the first time: each may turn out to be of any account.
    reading: BTreeSet<Sequence>,
    /// Events whose bodies were read before those of earlier ones, and their holders, who wait to go on.
    behind: BTreeMap<Sequence, Option<Turn>>,
}

impl Lane {
    pub(super) fn of(marketplace: &str) -> Self {
        Self {
            marketplace: marketplace.to_owned(),
            ready: BTreeSet::new(),
            reading: BTreeSet::new(),
            behind: BTreeMap::new(),
        }
    }

    /// An event's body is going to be read for the first time.
    pub(super) fn begin_reading(&mut self, sequence: Sequence) {
        self.reading.insert(sequence);
    }

    /// Nobody is to wait for an event's first reading any more; says whether anybody may have.
    pub(super) fn end_reading(&mut self, sequence: Sequence) -> bool {
        self.reading.remove(&sequence)
    }

    /// Whether an event that was received before this one may turn out to be of its account.
    pub(super) fn is_behind(&self, sequence: Sequence) -> bool {
        self.reading.first().is_some_and(|earliest| *earliest < sequence)
    }

    /// Has an event wait until it is no longer behind, and its holder, if it has one.
    pub(super) fn wait(&mut self, sequence: Sequence, holder: Option<Turn>) {
        self.behind.insert(sequence, holder);
    }

    /// The earliest of those that have waited and need not any longer.
    pub(super) fn next_turn(&mut self) -> Option<(Sequence, Option<Turn>)> {
        let (&next, _) = self.behind.first_key_value()?;
        if self.is_behind(next) { None } else { self.behind.pop_first() }
    }

    /// Lets go of every holder who waits, without a word.
    pub(super) fn send_home(&mut self) {
        self.behind.retain(|_, holder| holder.is_none());
    }
}

/// What is done next for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its body is read, for the first time.
    FirstReading,
    /// Its body is read again.
    Reading,
    /// Its handler runs: in its turn.
    Handling,
    /// Its result is reported.
    Reporting,
}

impl Stage {
    pub(super) fn of(event: &EventRecord) -> Self {
        match event.state {
            State::Received if event.attempts == 0 => Self::FirstReading,
            State::Received => Self::Reading,
            State::Fetched => Self::Handling,
            State::Handled | State::Done | State::Deferred | State::Dead => Self::Reporting,
        }
    }
}

/// A holder who waits to go on.
pub(super) struct Turn {
    pub(super) claim: Claim,
    /// Its lease, from then on.
    pub(super) until: Timestamp,
    pub(super) tell: Tell,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("event", &self.claim.record.id).finish_non_exhaustive()
    }
}
