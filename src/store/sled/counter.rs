//! How many events there are, by state: counted once, a stretch at a time, and kept from then on.

use sled::Tree;

use super::group::Move;
use super::records::newest_first;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::history::Counts;
use crate::store::stored_event::Sequence;

/// Records that are counted at a time: nobody waits long for the writer, whose thread does it.
const STRETCH: usize = 256;

/// Counts the newest first, so that it begins where new ones come.
pub(super) struct Counter {
    counts: Counts,
    /// Every event from here on has been counted; what becomes of it is noted.
    from: Sequence,
}

impl Counter {
    /// One that has counted nothing of a store whose next event will be at `next`.
    pub(super) fn new(next: Sequence) -> Self {
        Self { counts: Counts::default(), from: next }
    }

    /// Counts some more, and returns how many there are once that is known.
    pub(super) fn go_on(&mut self, tree: &Tree) -> Result<Option<Counts>, StoreError> {
        let mut records = newest_first(tree, Some(self.from)).take(STRETCH);
        while self.from > 0 {
            let Some(record) = records.next() else { break };
            let (sequence, encoded) = record?;
            match codec::decode(&encoded) {
                Ok(record) => self.counts.note(None, Some(record.state)),
                Err(_) => self.counts.unreadable += 1,
            }
            self.from = sequence;
        }
        if newest_first(tree, Some(self.from)).next().is_none() {
            self.from = 0;
        }
        Ok((self.from == 0).then_some(self.counts))
    }

    /// Notes what became of events.
    pub(super) fn note(&mut self, moves: &[Move]) {
        for moved in moves.iter().filter(|moved| moved.sequence >= self.from) {
            self.counts.note(moved.before, moved.after);
        }
    }
}
