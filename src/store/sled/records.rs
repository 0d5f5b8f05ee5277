//! Reading the records of events, those in progress and those that have ended.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sled::{IVec, Tree};
use tokio::sync::Notify;

use super::error::failed;
use super::layout::{ENDED, IN_PROGRESS, key, sequence_of};
use crate::clock::Now;
use crate::event::EventRecord;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::local::scheduler::Scheduler;
use crate::store::stored_event::Sequence;

/// Records that are read at a time when all are.
const STRETCH: usize = 128;

pub(super) fn stored_record(tree: &Tree, sequence: Sequence) -> Result<Option<EventRecord>, StoreError> {
    // Once more at the end: a record may move from the ended to those in progress between the two looks.
    for kind in [IN_PROGRESS, ENDED, IN_PROGRESS] {
        if let Some(bytes) = tree.get(key(kind, sequence)).map_err(failed)? {
            return codec::decode(&bytes).map(Some);
        }
    }
    Ok(None)
}

/// All records, in progress or ended, newest first, from before the one at `before`.
pub(super) fn newest_first(
    tree: &Tree,
    before: Option<Sequence>,
) -> impl Iterator<Item = Result<(Sequence, IVec), StoreError>> + use<> {
    let tree = tree.clone();
    let stretch = move |end| {
        let (records, first) = stretch(&tree, 0..end, Direction::Down)?;
        Ok((records.into_iter().rev().collect::<Vec<_>>(), first))
    };
    in_stretches(Some(before.unwrap_or(Sequence::MAX)), stretch)
}

/// All records, in progress or ended, oldest first, from the one at `from` on.
pub(super) fn oldest_first(
    tree: &Tree,
    from: Sequence,
) -> impl Iterator<Item = Result<(Sequence, IVec), StoreError>> + use<> {
    let tree = tree.clone();
    let stretch = move |from| {
        let (records, last) = stretch(&tree, from..Sequence::MAX, Direction::Up)?;
        Ok((records.into_iter().collect::<Vec<_>>(), last.map(|last| last + 1)))
    };
    in_stretches(Some(from), stretch)
}

/// What `stretch` reads from one place after another, until it names none.
fn in_stretches(
    mut place: Option<Sequence>,
    stretch: impl Fn(Sequence) -> Result<(Vec<(Sequence, IVec)>, Option<Sequence>), StoreError>,
) -> impl Iterator<Item = Result<(Sequence, IVec), StoreError>> {
    let mut records = Vec::new().into_iter();
    std::iter::from_fn(move || {
        loop {
            if let Some(record) = records.next() {
                return Some(Ok(record));
            }
            match stretch(place?) {
                Ok((read, next)) => (records, place) = (read.into_iter(), next),
                Err(error) => {
                    place = None;
                    return Some(Err(error));
                }
            }
        }
    })
}

/// Which end of a range is read first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// The records at one end of `range`, and, if there may be more, the last place that was read.
///
/// Read in a stretch, those in progress once more at the last: a record that moves between the two sides meanwhile is
/// seen on one of them, which two iterators side by side would not promise.
fn stretch(
    tree: &Tree,
    range: Range<Sequence>,
    direction: Direction,
) -> Result<(BTreeMap<Sequence, IVec>, Option<Sequence>), StoreError> {
    let mut records = BTreeMap::new();
    // The nearest place that one of the three has been read up to; the others have been read that far at least.
    let mut bound: Option<Sequence> = None;
    for kind in [IN_PROGRESS, ENDED, IN_PROGRESS] {
        let mut entries = tree.range(key(kind, range.start)..key(kind, range.end));
        for read in 1..=STRETCH {
            let entry = if direction == Direction::Up { entries.next() } else { entries.next_back() };
            let Some(entry) = entry else { break };
            let (key, bytes) = entry.map_err(failed)?;
            let sequence = sequence_of(&key);
            if kind == ENDED {
                records.insert(sequence, bytes);
            } else {
                records.entry(sequence).or_insert(bytes);
            }
            if read == STRETCH {
                let nearer = |known: Sequence| match direction {
                    Direction::Up => known.min(sequence),
                    Direction::Down => known.max(sequence),
                };
                bound = Some(bound.map_or(sequence, nearer));
            }
        }
    }
    if let Some(bound) = bound {
        records.retain(|sequence, _| match direction {
            Direction::Up => *sequence <= bound,
            Direction::Down => *sequence >= bound,
        });
    }
    Ok((records, bound))
}

pub(super) fn next_sequence(tree: &Tree) -> Result<Sequence, StoreError> {
    newest_first(tree, None).next().map_or(Ok(0), |newest| Ok(newest?.0 + 1))
}

/// The scheduler as the last process left it.
pub(super) fn unfinished(tree: &Tree, now: Now, wakeup: Arc<Notify>) -> Result<Scheduler, StoreError> {
    // A store that is opened again in one process must not know the claims of the time before.
    let fence = getrandom::u64().map_err(|error| StoreError::Unavailable(error.to_string()))? >> 1;
    let mut scheduler = Scheduler::new(fence, wakeup);
    let mut unreadable = 0_u64;
    for entry in tree.scan_prefix([IN_PROGRESS]) {
        let (in_progress, bytes) = entry.map_err(failed)?;
        let sequence = sequence_of(&in_progress);
        if tree.contains_key(key(ENDED, sequence)).map_err(failed)? {
            tree.remove(in_progress).map_err(failed)?;
        } else {
            match codec::decode(&bytes) {
                Ok(record) => scheduler.restore(sequence, &record, now),
                Err(error) => {
                    unreadable += 1;
                    tracing::error!(number = sequence, %error, "an event in progress is left alone until it can be read");
                }
            }
        }
    }
    if unreadable > 0 {
        tracing::error!(events = unreadable, "events in progress cannot be read; `doorbell events list` shows where");
    }
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_record_that_moves_while_all_are_listed_is_listed() {
        const MOVED_AT_ONCE: u64 = 300;
        const RECORDS: u64 = 15_000;
        let db = sled::Config::new().temporary(true).open().expect("opens");
        let tree: Tree = (*db).clone();
        let value = vec![b'x'; 600];
        let written = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for sequence in 0..RECORDS {
                    tree.insert(key(IN_PROGRESS, sequence), value.as_slice()).expect("written");
                    written.store(sequence + 1, Ordering::SeqCst);
                    // Ended out of order: the one that is moved is one of the last few hundred.
                    let batch = sequence / MOVED_AT_ONCE;
                    if let Some(earlier) = batch.checked_sub(1) {
                        let moved = earlier * MOVED_AT_ONCE + sequence * 7 % MOVED_AT_ONCE;
                        tree.insert(key(ENDED, moved), value.as_slice()).expect("written");
                        tree.remove(key(IN_PROGRESS, moved)).expect("removed");
                    }
                }
            });
            while !writer.is_finished() {
                let count = written.load(Ordering::SeqCst);
                let listed: Vec<_> = newest_first(&tree, Some(count)).map(|entry| entry.expect("read").0).collect();
                let expected: Vec<_> = (0..count).rev().collect();
                let missing: Vec<_> = if listed == expected {
                    vec![]
                } else {
                    expected.iter().filter(|wanted| !listed.contains(wanted)).collect()
                };
                assert!(listed == expected, "of {count} records {missing:?} are missing");
            }
        });
    }
}
