//! From digests to numbers, in few and short pages of a sled tree: from the id of an event that has ended to its place
//! in the order of receipt, and from an account to how it stands.
//!
//! An entry of its own for every digest would lie on a random leaf of a tree that grows with history, and soon no cache
//! would hold them. So digests share 65,536 buckets by their first two bytes, and an entry is sixteen bytes: eight more
//! of the digest, and the number. For an event the entry is a hint: the record it leads to says whether it is the
//! event. For an account it is the truth, since nobody but the vendor names accounts.

use std::collections::HashMap;

use sled::{IVec, Tree};
use uuid::Uuid;

use super::super::{Sequence, StoreError};
use super::failed;
use crate::event::{AccountStatus, EventId};

/// Bytes of an entry: eight of the digest, eight of the number.
const ENTRY: usize = 16;
/// Entries of a page.
const PAGE: usize = 64;
/// Pages of a bucket: enough for a billion entries. The last one takes whatever is left.
const PAGES: usize = 256;

pub(super) type PageKey = [u8; 4];

/// Pages as a group of writes that is not applied yet leaves them.
pub(super) type Pending = HashMap<PageKey, IVec>;

/// What a bucket is looked up by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    prefix: u8,
    digest: [u8; 16],
}

impl Name {
    pub(super) fn of_event(id: EventId) -> Self {
        Self { prefix: b'i', digest: *id.as_bytes() }
    }

    pub(super) fn of_account(integration: &str, account: &str) -> Self {
        let name = [integration.as_bytes(), b"\0", account.as_bytes()].concat();
        Self { prefix: b'a', digest: *Uuid::new_v5(&Uuid::NAMESPACE_OID, &name).as_bytes() }
    }

    fn page(self, number: usize) -> PageKey {
        [self.prefix, self.digest[0], self.digest[1], u8::try_from(number).unwrap_or(u8::MAX)]
    }

    fn fingerprint(self) -> [u8; 8] {
        let mut print = [0; 8];
        print.copy_from_slice(&self.digest[8..]);
        print
    }
}

/// The pages a name may stand on.
pub(super) struct Bucket {
    name: Name,
    pages: Vec<IVec>,
}

impl Bucket {
    /// The bucket of `name`, with what is pending.
    pub(super) fn load(tree: &Tree, pending: &Pending, name: Name) -> Result<Self, StoreError> {
        let mut pages = Vec::new();
        loop {
            let key = name.page(pages.len());
            let page = match pending.get(&key) {
                Some(page) => Some(page.clone()),
                None => tree.get(key).map_err(failed)?,
            };
            // An empty one is about to be removed.
            let Some(page) = page.filter(|page| !page.is_empty()) else { break };
            pages.push(page);
            if has_room(&pages) {
                break;
            }
        }
        Ok(Self { name, pages })
    }

    /// The numbers under the name, the latest first.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let fingerprint = self.name.fingerprint();
        let entries = self.pages.iter().flat_map(|page| page.chunks_exact(ENTRY));
        let found = entries.filter_map(move |entry| {
            let (print, number) = entry.split_first_chunk::<8>()?;
            (*print == fingerprint).then_some(())?;
            number.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
        });
        let mut numbers: Vec<_> = found.collect();
        numbers.reverse();
        numbers
    }

    /// The page to write so that `number` stands under the name, too.
    pub(super) fn with(&self, number: u64) -> (PageKey, IVec) {
        let open = self.pages.last().filter(|_| has_room(&self.pages));
        let index = self.pages.len() - usize::from(open.is_some());
        let mut page = Vec::with_capacity(open.map_or(0, |page| page.len()) + ENTRY);
        page.extend_from_slice(open.map_or(&[], |page| page));
        page.extend_from_slice(&self.name.fingerprint());
        page.extend_from_slice(&number.to_be_bytes());
        (self.name.page(index), page.into())
    }

    /// The pages to write, in this order, so that `number` does not stand under the name; an empty one is to be removed.
    ///
    /// The last entry of all takes the place that is left, so that only the last page has room.
    pub(super) fn without(&self, number: u64) -> Vec<(PageKey, IVec)> {
        let wanted = [self.name.fingerprint(), number.to_be_bytes()].concat();
        let found = self.pages.iter().enumerate().find_map(|(index, page)| {
            let position = page.chunks_exact(ENTRY).position(|entry| entry == wanted)?;
            Some((index, position * ENTRY))
        });
        let (Some((index, at)), Some(last)) = (found, self.pages.last()) else { return Vec::new() };
        let (mut page, mut rest) = (self.pages[index].to_vec(), last.to_vec());
        let moved = rest.split_off(rest.len().saturating_sub(ENTRY));
        let mut written = Vec::new();
        if index + 1 < self.pages.len() {
            page[at..at + ENTRY].copy_from_slice(&moved);
            written.push((self.name.page(index), page.into()));
        } else if at < rest.len() {
            rest[at..at + ENTRY].copy_from_slice(&moved);
        }
        written.push((self.name.page(self.pages.len() - 1), rest.into()));
        written
    }

    /// The page to write so that `number`, and no other, stands under the name.
    pub(super) fn with_only(&self, number: u64) -> (PageKey, IVec) {
        let fingerprint = self.name.fingerprint();
        for (index, page) in self.pages.iter().enumerate() {
            let found = page.chunks_exact(ENTRY).position(|entry| entry.starts_with(&fingerprint));
            if let Some(position) = found {
                let mut page = page.to_vec();
                let at = position * ENTRY + fingerprint.len();
                page[at..at + 8].copy_from_slice(&number.to_be_bytes());
                return (self.name.page(index), page.into());
            }
        }
        self.with(number)
    }
}

fn has_room(pages: &[IVec]) -> bool {
    pages.len() == PAGES || pages.last().is_some_and(|page| page.len() < PAGE * ENTRY)
}

/// Statuses by the number that stands for them, which is stored: only ever add to the end.
const STATUSES: [AccountStatus; 7] = [
    AccountStatus::Initialized,
    AccountStatus::Failed,
    AccountStatus::FreeTrial,
    AccountStatus::FreeTrialExpired,
    AccountStatus::Active,
    AccountStatus::Suspended,
    AccountStatus::Cancelled,
];

/// How an account stands, and by which event, in one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) sequence: Sequence,
    /// Nothing for a status that has no number: the event's record has it.
    pub(super) status: Option<AccountStatus>,
}

impl Standing {
    pub(super) fn to_number(&self) -> u64 {
        let known = self.status.as_ref().and_then(|status| STATUSES.iter().position(|known| known == status));
        let code = known.and_then(|position| u8::try_from(position + 1).ok()).unwrap_or(0);
        (u64::from(code) << 56) | (self.sequence & (u64::MAX >> 8))
    }

    pub(super) fn from_number(number: u64) -> Self {
        let code = usize::from(number.to_be_bytes()[0]);
        let status = code.checked_sub(1).and_then(|position| STATUSES.get(position).cloned());
        Self { sequence: number & (u64::MAX >> 8), status }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A name in one of two buckets, with one of sixteen fingerprints.
    fn any_name() -> impl Strategy<Value = Name> {
        (0_u8..2, 0_u8..16).prop_map(|(bucket, print)| {
            let text = format!("000{bucket}0000-0000-5000-8000-00000000000{print:x}");
            Name::of_event(text.parse().expect("a UUID"))
        })
    }

    proptest! {
        #[test]
        fn every_number_that_was_added_stands_under_its_name(names in prop::collection::vec(any_name(), 0..400)) {
            let tree = sled::Config::new().temporary(true).open().expect("opens");
            let mut pending = Pending::new();
            for (number, name) in (0_u64..).zip(&names) {
                let (key, page) = Bucket::load(&tree, &pending, *name).expect("read").with(number);
                if number % 3 == 0 {
                    pending.insert(key, page);
                } else {
                    pending.remove(&key);
                    tree.insert(key, page).expect("written");
                }
            }
            for name in &names {
                let numbers = Bucket::load(&tree, &pending, *name).expect("read").numbers();
                let added = (0_u64..).zip(&names).filter(|(_, other)| other.digest == name.digest);
                let mut expected: Vec<_> = added.map(|(number, _)| number).collect();
                expected.reverse();
                prop_assert_eq!(numbers, expected);
            }
        }

        #[test]
        fn a_number_that_was_removed_is_gone_and_no_other_one(
            names in prop::collection::vec(any_name(), 1..400),
            removed in prop::collection::hash_set(0_usize..400, 0..400),
        ) {
            let tree = sled::Config::new().temporary(true).open().expect("opens");
            for (number, name) in (0_u64..).zip(&names) {
                let (key, page) = Bucket::load(&tree, &Pending::new(), *name).expect("read").with(number);
                tree.insert(key, page).expect("written");
            }
            for number in removed.iter().filter(|number| **number < names.len()) {
                let bucket = Bucket::load(&tree, &Pending::new(), names[*number]).expect("read");
                for (key, page) in bucket.without(*number as u64) {
                    if page.is_empty() { tree.remove(key) } else { tree.insert(key, page) }.expect("written");
                }
            }
            for name in &names {
                let mut numbers = Bucket::load(&tree, &Pending::new(), *name).expect("read").numbers();
                numbers.sort_unstable();
                let kept = names.iter().enumerate().filter(|(_, other)| other.digest == name.digest);
                let kept: Vec<_> = kept.filter(|(number, _)| !removed.contains(number)).map(|(number, _)| number as u64).collect();
                prop_assert_eq!(numbers, kept);
            }
        }

        #[test]
        fn of_numbers_that_replace_each_other_the_last_stands_under_its_name(names in prop::collection::vec(any_name(), 0..400)) {
            let tree = sled::Config::new().temporary(true).open().expect("opens");
            for (number, name) in (0_u64..).zip(&names) {
                let (key, page) = Bucket::load(&tree, &Pending::new(), *name).expect("read").with_only(number);
                tree.insert(key, page).expect("written");
            }
            for name in &names {
                let numbers = Bucket::load(&tree, &Pending::new(), *name).expect("read").numbers();
                let last = names.iter().rposition(|other| other.digest == name.digest).expect("one at least");
                prop_assert_eq!(numbers, [last as u64]);
            }
        }

        #[test]
        fn a_standing_survives_a_round_trip_as_a_number(sequence in 0_u64..1 << 56, status in prop::option::of(prop::sample::select(&STATUSES))) {
            let standing = Standing { sequence, status };
            prop_assert_eq!(Standing::from_number(standing.to_number()), standing);
        }
    }
}
