//! The keys of the store's one tree, by prefix:
//!
//! | key | value |
//! |---|---|
//! | `p` sequence | the record (see `codec`) of an event that is in progress |
//! | `e` sequence | the record of an event that has ended: done, deferred or dead |
//! | `b` sequence, chunk | the body as received, in pieces of at most 4 KiB, beside the record so that a change of state does not rewrite it |
//! | `i` bucket, page | where events that have ended are by their ids, see `index` |
//! | `a` bucket, page | how accounts stand by digests of their names, see `index` |
//! | `s` name | a secret |
//! | `v` | version of this layout |
//!
//! Keys are in order of receipt, so that new events are appended and not scattered over the tree. What is in
//! progress stands apart from what has ended, so that opening the store reads the former only. Its ids are kept in
//! memory and enter the index with the event's end, so that a new event costs a single key: every key that is
//! written has its price in sled, however short it is.

use sled::{IVec, Tree};

use super::super::agenda::Agenda;
use super::super::{Sequence, StoreError, codec};
use super::failed;
use crate::event::EventRecord;

/// Version of the key layout.
pub(super) const LAYOUT: &[u8] = b"3";
pub(super) const LAYOUT_KEY: &[u8] = b"v";
/// Prefix of the records of events in progress.
pub(super) const IN_PROGRESS: u8 = b'p';
/// Prefix of the records of events that have ended.
pub(super) const ENDED: u8 = b'e';
/// Prefix of the pieces of bodies.
pub(super) const BODY: u8 = b'b';
/// Bytes of a body under one key. sled keeps larger values in files of their own, which it never syncs.
pub(super) const CHUNK: usize = 4096;

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
    let records = |kind| {
        let end = key(kind, before.unwrap_or(Sequence::MAX));
        tree.range(key(kind, 0)..end).rev().map(|entry| match entry {
            Ok((key, bytes)) => Ok((sequence_of(&key), bytes)),
            Err(error) => Err(failed(error)),
        })
    };
    let (mut in_progress, mut ended) = (records(IN_PROGRESS).peekable(), records(ENDED).peekable());
    let mut last = None;
    std::iter::from_fn(move || {
        loop {
            let next = match (in_progress.peek(), ended.peek()) {
                (Some(Ok((first, _))), Some(Ok((second, _)))) if first < second => ended.next(),
                (Some(_), _) => in_progress.next(),
                (None, _) => ended.next(),
            };
            match &next {
                // It ended while this was going on, and stands on both sides.
                Some(Ok((sequence, _))) if last == Some(*sequence) => {}
                Some(Ok((sequence, _))) => {
                    last = Some(*sequence);
                    return next;
                }
                Some(Err(_)) | None => return next,
            }
        }
    })
}

pub(super) fn next_sequence(tree: &Tree) -> Result<Sequence, StoreError> {
    newest_first(tree, None).next().map_or(Ok(0), |newest| Ok(newest?.0 + 1))
}

pub(super) fn key(kind: u8, sequence: Sequence) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence in the last eight bytes of a record's key.
pub(super) fn sequence_of(bytes: &[u8]) -> Sequence {
    bytes.last_chunk().map_or(0, |chunk| Sequence::from_be_bytes(*chunk))
}

/// The agenda as the last process left it.
pub(super) fn unfinished(tree: &Tree) -> Result<Agenda, StoreError> {
    let mut agenda = Agenda::default();
    for entry in tree.scan_prefix([IN_PROGRESS]) {
        let (in_progress, bytes) = entry.map_err(failed)?;
        let sequence = sequence_of(&in_progress);
        if tree.contains_key(key(ENDED, sequence)).map_err(failed)? {
            tree.remove(in_progress).map_err(failed)?;
        } else {
            agenda.add(sequence, &codec::decode(&bytes)?);
        }
    }
    Ok(agenda)
}
