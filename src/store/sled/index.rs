//! From an event's id to its place in the order of receipt, in few and short pages of a sled tree.
//!
//! For events that have ended; those in progress are known by heart.
//!
//! An entry of its own for every id would lie on a random leaf of a tree that grows with history, and soon no cache
//! would hold them. So ids share 65,536 buckets by their first two bytes, and an entry is sixteen bytes: eight more
//! of the id, and the sequence. An entry is a hint: the record it leads to says whether it is the event.

use std::collections::HashMap;

use sled::{IVec, Tree};

use super::super::{Sequence, StoreError};
use crate::event::EventId;

/// Prefix of the index's keys.
const PREFIX: u8 = b'i';
/// Bytes of an entry: eight of the id, eight of the sequence.
const ENTRY: usize = 16;
/// Entries of a page.
const PAGE: usize = 64;
/// Pages of a bucket: enough for a billion events. The last one takes whatever is left.
const PAGES: usize = 256;

type PageKey = [u8; 4];

/// Pages as a group of writes that is not applied yet leaves them.
pub(super) type Pending = HashMap<PageKey, IVec>;

/// The pages an id may stand on.
pub(super) struct Bucket {
    id: EventId,
    pages: Vec<IVec>,
}

impl Bucket {
    /// The bucket of `id`, with what is pending.
    pub(super) fn load(tree: &Tree, pending: &Pending, id: EventId) -> Result<Self, StoreError> {
        let mut pages = Vec::new();
        loop {
            let key = page_key(id, pages.len());
            let page = match pending.get(&key) {
                Some(page) => Some(page.clone()),
                None => tree.get(key).map_err(|error| StoreError::Unavailable(error.to_string()))?,
            };
            let Some(page) = page else { break };
            pages.push(page);
            if has_room(&pages) {
                break;
            }
        }
        Ok(Self { id, pages })
    }

    /// Where the event may stand, likeliest first.
    pub(super) fn places(&self) -> Vec<Sequence> {
        let fingerprint = fingerprint(self.id);
        let entries = self.pages.iter().flat_map(|page| page.chunks_exact(ENTRY));
        let found = entries.filter_map(move |entry| {
            let (print, sequence) = entry.split_first_chunk::<8>()?;
            (*print == fingerprint).then_some(())?;
            sequence.first_chunk().map(|bytes| Sequence::from_be_bytes(*bytes))
        });
        // The last one: an entry that a crash left without its record comes before the one that counts.
        let mut places: Vec<_> = found.collect();
        places.reverse();
        places
    }

    /// The page to write so that the event stands at `sequence`.
    pub(super) fn with(&self, sequence: Sequence) -> (PageKey, IVec) {
        let open = self.pages.last().filter(|_| has_room(&self.pages));
        let number = self.pages.len() - usize::from(open.is_some());
        let mut page = Vec::with_capacity(open.map_or(0, |page| page.len()) + ENTRY);
        page.extend_from_slice(open.map_or(&[], |page| page));
        page.extend_from_slice(&fingerprint(self.id));
        page.extend_from_slice(&sequence.to_be_bytes());
        (page_key(self.id, number), page.into())
    }
}

fn has_room(pages: &[IVec]) -> bool {
    pages.len() == PAGES || pages.last().is_some_and(|page| page.len() < PAGE * ENTRY)
}

fn page_key(id: EventId, number: usize) -> PageKey {
    let bytes = id.as_bytes();
    [PREFIX, bytes[0], bytes[1], u8::try_from(number).unwrap_or(u8::MAX)]
}

fn fingerprint(id: EventId) -> [u8; 8] {
    let mut print = [0; 8];
    print.copy_from_slice(&id.as_bytes()[8..]);
    print
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An id in one of two buckets, with one of sixteen fingerprints.
    fn any_id() -> impl Strategy<Value = EventId> {
        (0_u8..2, 0_u8..16).prop_map(|(bucket, print)| {
            let text = format!("000{bucket}0000-0000-5000-8000-00000000000{print:x}");
            text.parse().expect("a UUID")
        })
    }

    proptest! {
        #[test]
        fn every_event_that_was_added_is_among_the_places_of_its_id(ids in prop::collection::vec(any_id(), 0..400)) {
            let tree = sled::Config::new().temporary(true).open().expect("opens");
            let mut pending = Pending::new();
            for (sequence, id) in (0_u64..).zip(&ids) {
                let (key, page) = Bucket::load(&tree, &pending, *id).expect("read").with(sequence);
                if sequence % 3 == 0 {
                    pending.insert(key, page);
                } else {
                    pending.remove(&key);
                    tree.insert(key, page).expect("written");
                }
            }
            for id in &ids {
                let places: Vec<_> = Bucket::load(&tree, &pending, *id).expect("read").places();
                let added = (0_u64..).zip(&ids).filter(|(_, other)| *other == id);
                let mut expected: Vec<_> = added.map(|(sequence, _)| sequence).collect();
                expected.reverse();
                prop_assert_eq!(places, expected);
            }
        }
    }
}
