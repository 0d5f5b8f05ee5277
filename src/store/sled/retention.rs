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
#[derive(Debug, Clone, Copy)]
pub(super) struct Sweep {
    next: Sequence,
    /// Whether all so far waits for somebody.
    only_waiting: bool,
    unreadable: usize,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { next: 0, only_waiting: true, unreadable: 0 }
    }
}

/// What was found in one stretch of a [`Sweep`].
pub(super) struct Found {
    pub(super) old: Vec<Sequence>,
    /// Where the sweep goes on; nothing if it is through.
    pub(super) rest: Option<Sweep>,
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
        let mut old = Vec::new();
        let (mut is_any_young, mut is_any_earlier) = (false, false);
        for (looked_at, entry) in tree.range(key(ENDED, self.next)..key(ENDED, Sequence::MAX)).enumerate() {
            if looked_at == LOOKED_AT || old.len() == limit {
                // Events are in order of receipt, and none changes before that.
                let is_through = is_any_young && !is_any_earlier;
                return Ok(Found { old, rest: (!is_through).then_some(self) });
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
        Ok(Found { old, rest: None })
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

    /// Everything that whole sweeps find, and the steps that takes.
    fn sweep(tree: &Tree, moment: u32, now: u32) -> (Vec<Sequence>, usize) {
        let (mut found, mut steps, mut rest) = (Vec::new(), 0, Some(Sweep::default()));
        while let Some(sweep) = rest {
            let step = sweep.look(tree, wall(moment), wall(now), 10_000, &AtomicU64::new(0)).expect("looked");
            found.extend(step.old);
            (rest, steps) = (step.rest, steps + 1);
        }
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
        let rest = first.rest.expect("there is more");
        assert_eq!((rest.next, waiting_to.load(Ordering::Relaxed)), (512, 512));
        assert_eq!(sweep(&tree, 10, 20), (vec![2000], 4));
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
        assert_eq!(sweep(&tree, 10, 20), (vec![1500], 3));
    }

    #[test]
    fn a_sweep_ends_where_all_are_too_young_to_go() {
        let tree = tree();
        for sequence in 0..5000 {
            put(&tree, sequence, State::Done, if sequence < 100 { 1 } else { 15 });
        }
        let (found, steps) = sweep(&tree, 10, 20);
        assert_eq!((found.len(), steps), (100, 2));
    }
}
