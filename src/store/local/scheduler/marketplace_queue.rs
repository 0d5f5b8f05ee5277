//! The events of one marketplace, and who among them waits until earlier ones have been read.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Moment;
use crate::event::{EventRecord, State};
use crate::store::queue::READ_IN_ORDER;
use crate::store::stored_event::Sequence;

/// The events of one marketplace.
#[derive(Debug)]
pub(super) struct MarketplaceQueue {
    pub(super) marketplace: String,
    /// Free events that nothing holds up, by when they are due.
    pub(super) ready: BTreeSet<(Moment, Sequence)>,
    /// Events whose bodies are being read for the first time, and until when others wait for that: each may turn out to be
    /// of any account.
    reading: BTreeMap<Sequence, Moment>,
    /// The same by when that ends.
    ends: BTreeSet<(Moment, Sequence)>,
    /// Free events whose bodies were read before those of earlier ones, and that wait for these.
    behind: BTreeSet<Sequence>,
}

impl MarketplaceQueue {
    pub(super) fn of(marketplace: &str) -> Self {
        Self {
            marketplace: marketplace.to_owned(),
            ready: BTreeSet::new(),
            reading: BTreeMap::new(),
            ends: BTreeSet::new(),
            behind: BTreeSet::new(),
        }
    }

    /// An event's body is going to be read for the first time.
    pub(super) fn begin_reading(&mut self, sequence: Sequence, now: Moment) {
        self.read_until(sequence, now.plus(READ_IN_ORDER));
    }

    pub(super) fn read_until(&mut self, sequence: Sequence, until: Moment) {
        self.end_reading(sequence);
        self.reading.insert(sequence, until);
        self.ends.insert((until, sequence));
    }

    /// Until when others wait for an event's first reading, if they do.
    pub(super) fn reads_until(&self, sequence: Sequence) -> Option<Moment> {
        self.reading.get(&sequence).copied()
    }

    /// Nobody is to wait for an event's first reading any more; says whether anybody may have.
    pub(super) fn end_reading(&mut self, sequence: Sequence) -> bool {
        let until = self.reading.remove(&sequence);
        until.is_some_and(|until| self.ends.remove(&(until, sequence)))
    }

    /// The same for all that have been read for longer than others wait.
    pub(super) fn end_long_readings(&mut self, now: Moment) -> bool {
        let mut ended = false;
        while let Some(&(until, sequence)) = self.ends.first()
            && until <= now
        {
            ended |= self.end_reading(sequence);
        }
        ended
    }

    /// Whether an event that was received before this one may turn out to be of its account.
    pub(super) fn is_behind(&self, sequence: Sequence) -> bool {
        self.reading.first_key_value().is_some_and(|(earliest, _)| *earliest < sequence)
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

    /// When there may be something to claim next: an event is due, or one that waits for the reading of others need not any
    /// longer.
    pub(super) fn idle_until(&self) -> Option<Moment> {
        let due = self.ready.first().map(|(due, _)| *due);
        let turn = if self.behind.is_empty() { None } else { self.ends.first().map(|(until, _)| *until) };
        due.into_iter().chain(turn).min()
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
