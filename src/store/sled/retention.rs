//! Finding what is old, beside the writer and not on its thread.

use std::sync::atomic::{AtomicU64, Ordering};

use sled::Tree;

use super::error::failed;
use super::layout::{ENDED, key, sequence_of};
use crate::clock::Timestamp;
use crate::event::{EventRecord, State};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::stored_event::Sequence;

/// Records that are looked at in one call, whatever they are.
const LOOKED_AT: usize = 512;

/// Whether an event may be removed for its age.
pub(super) fn is_old(record: &EventRecord, moment: Timestamp) -> bool {
    record.is_done_since_before(moment)
}

/// A walk over all that has ended, from the oldest on, some records at a time.
///
/// It ends where all are too young, since events are in order of receipt. Dated ahead by a clock that was set back since, many
/// can be young before others that are old, so each tenth of the time that events are kept a walk goes to the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sweep {
    next: Sequence,
    /// Whether all so far waits for somebody.
    only_waiting: bool,
    unreadable: usize,
    goes_to_the_end: bool,
    /// When the latest that goes to the end began.
    went_to_the_end: Option<Timestamp>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { next: 0, only_waiting: true, unreadable: 0, goes_to_the_end: false, went_to_the_end: None }
    }
}

/// What was found in one stretch of a [`Sweep`].
pub(super) struct Found {
    pub(super) old: Vec<Sequence>,
    pub(super) is_through: bool,
    /// Where the sweep goes on; the next one, if it is through.
    pub(super) then: Sweep,
}

impl Sweep {
    /// Looks for up to `limit` events that may be removed. Those dated after `now` say nothing about those behind them.
    pub(super) fn look(
        mut self,
        tree: &Tree,
        moment: Timestamp,
        now: Timestamp,
        limit: usize,
        waiting_to: &AtomicU64,
    ) -> Result<Found, StoreError> {
        if self.next == 0
            && self.went_to_the_end.is_none_or(|went| now < went || now.since(went) >= now.since(moment) / 10)
        {
            (self.goes_to_the_end, self.went_to_the_end) = (true, Some(now));
        }
        let mut old = Vec::new();
        let (mut is_any_young, mut is_any_earlier) = (false, false);
        for (looked_at, entry) in tree.range(key(ENDED, self.next)..key(ENDED, Sequence::MAX)).enumerate() {
            if looked_at == LOOKED_AT || old.len() == limit {
                // Of those of which none is earlier than that, none has changed before it.
                let is_through = is_any_young && !is_any_earlier && !self.goes_to_the_end;
                return Ok(Found { old, is_through, then: if is_through { self.next_one() } else { self } });
            }
            let (ended, bytes) = entry.map_err(failed)?;
            let sequence = sequence_of(&ended);
            self.next = sequence + 1;
            let Ok(record) = codec::decode(&bytes) else {
                self.unreadable += 1;
                continue;
            };
            is_any_earlier |= record.received_at < moment;
            is_any_young |= (moment..=now).contains(&record.received_at);
            if is_old(&record, moment) {
                old.push(sequence);
            }
            self.only_waiting &= record.state != State::Done;
            if self.only_waiting {
                waiting_to.store(self.next, Ordering::Relaxed);
            }
        }
        if self.unreadable > 0 {
            tracing::error!(events = self.unreadable, "ended events that cannot be read are not removed for their age");
        }
        Ok(Found { old, is_through: true, then: self.next_one() })
    }

    /// The sweep after this one.
    fn next_one(self) -> Self {
        Self { went_to_the_end: self.went_to_the_end, ..Self::default() }
    }

    /// The same sweep, to go on from `sequence`.
    pub(super) const fn from(mut self, sequence: Sequence) -> Self {
        self.next = sequence;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{notification, wall};

    fn put(tree: &Tree, sequence: Sequence, state: State, seconds: u32) {
        let mut record = EventRecord::new(&notification(&sequence.to_string()), wall(seconds));
        record.state = state;
        tree.insert(key(ENDED, sequence), codec::encode(&record).expect("encodes")).expect("written");
    }

    fn tree() -> Tree {
        let db = sled::Config::new().temporary(true).open().expect("opens");
        (*db).clone()
    }

    /// Everything that a whole sweep finds, the steps that takes, and the sweep after it.
    fn sweep(tree: &Tree, mut sweep: Sweep, moment: u32, now: u32) -> (Vec<Sequence>, usize, Sweep) {
        let mut found = Vec::new();
        for step in 1.. {
            let looked = sweep.look(tree, wall(moment), wall(now), 10_000, &AtomicU64::new(0)).expect("looked");
            found.extend(looked.old);
            sweep = looked.then;
            if looked.is_through {
                return (found, step, sweep);
            }
        }
        unreachable!("a sweep ends")
    }

    /// What a sweep that does not go to the end finds, and in how many steps.
    fn short_sweep(tree: &Tree, moment: u32, now: u32) -> (Vec<Sequence>, usize) {
        let went = Sweep { went_to_the_end: Some(wall(now)), ..Sweep::default() };
        let (found, steps, _) = sweep(tree, went, moment, now);
        (found, steps)
    }

    #[test]
    fn however_many_events_wait_for_somebody_one_step_looks_at_a_bounded_number() {
        let tree = tree();
        for sequence in 0..2000 {
            put(&tree, sequence, if sequence % 2 == 0 { State::Dead } else { State::Deferred }, 1);
        }
        put(&tree, 2000, State::Done, 1);
        let waiting_to = AtomicU64::new(0);
        let first = Sweep::default().look(&tree, wall(10), wall(20), 10, &waiting_to).expect("looked");
        assert!(first.old.is_empty());
        assert_eq!((first.is_through, first.then.next, waiting_to.load(Ordering::Relaxed)), (false, 512, 512));
        assert_eq!(short_sweep(&tree, 10, 20), (vec![2000], 4));
    }

    #[test]
    fn records_dated_in_the_future_or_unreadable_hide_none_of_those_behind_them() {
        let tree = tree();
        put(&tree, 0, State::Done, 90_000_000);
        tree.insert(key(ENDED, 1), b"torn").expect("written");
        for sequence in 2..1500 {
            put(&tree, sequence, State::Done, 90_000_000);
        }
        put(&tree, 1500, State::Done, 1);
        assert_eq!(short_sweep(&tree, 10, 20), (vec![1500], 3));
    }

    #[test]
    fn a_sweep_ends_where_all_are_too_young_to_go() {
        let tree = tree();
        for sequence in 0..5000 {
            put(&tree, sequence, State::Done, if sequence < 100 { 1 } else { 15 });
        }
        let (found, steps) = short_sweep(&tree, 10, 20);
        assert_eq!((found.len(), steps), (100, 2));
    }

    #[test]
    fn events_dated_ahead_by_less_than_events_are_kept_hide_older_ones_for_a_tenth_of_that_at_most() {
        let tree = tree();
        for sequence in 0..3000 {
            // The clock was ahead by six hours for a third of them.
            put(&tree, sequence, State::Done, if sequence < 1000 { 21_700 } else { 100 });
        }
        let (keep, mut first) = (86_400, Sweep::default());
        let mut found = Vec::new();
        for now in (keep + 50..).step_by(600) {
            let (old, _, then) = sweep(&tree, first, now - keep, now);
            (found, first) = (old, then);
            if !found.is_empty() {
                assert!(now <= keep + 100 + keep / 10 + 600, "at {now}");
                break;
            }
        }
        assert_eq!(found.len(), 2000);
    }
}
