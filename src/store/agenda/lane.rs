//! The events of one marketplace, and who among them waits until earlier ones have been read.

use std::collections::BTreeSet;

use super::super::Sequence;
use crate::clock::Moment;
use crate::event::{EventRecord, State};

/// The events of one marketplace.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) marketplace: String,
    /// Free events that nothing holds up, by when they are due.
    pub(super) ready: BTreeSet<(Moment, Sequence)>,
    /// Events whose bodies are being read for the first time: each may turn out to be of any account.
    reading: BTreeSet<Sequence>,
    /// Free events whose bodies were read before those of earlier ones, and that wait for these.
    behind: BTreeSet<Sequence>,
}

impl Lane {
    pub(super) fn of(marketplace: &str) -> Self {
        Self {
            marketplace: marketplace.to_owned(),
            ready: BTreeSet::new(),
            reading: BTreeSet::new(),
            behind: BTreeSet::new(),
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

    /// Has a free event wait until it is no longer behind.
    pub(super) fn wait(&mut self, sequence: Sequence) {
        self.behind.insert(sequence);
    }

    /// The earliest of those that have waited and need not any longer.
    pub(super) fn next_turn(&mut self) -> Option<Sequence> {
        let next = *self.behind.first()?;
        if self.is_behind(next) { None } else { self.behind.pop_first() }
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
