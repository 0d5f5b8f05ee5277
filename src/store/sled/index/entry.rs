//! What stands in the index: a name, and the number it leads to.

use uuid::Uuid;

use crate::event::{AccountStatus, EventId};
use crate::store::stored_event::Sequence;

/// Bytes of a name.
pub(super) const NAME: usize = 16;

/// What is looked up: an event's id, or the digest of an account's name. Both are evenly distributed, and none is ever
/// equal to one of the other kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct Name([u8; NAME]);

impl Name {
    pub(in super::super) fn of_event(id: EventId) -> Self {
        Self(*id.as_bytes())
    }

    pub(in super::super) fn of_account(integration: &str, account: &str) -> Self {
        let name = [integration.as_bytes(), b"\0", account.as_bytes()].concat();
        Self(*Uuid::new_v5(&Uuid::NAMESPACE_OID, &name).as_bytes())
    }

    pub(in super::super) fn as_bytes(&self) -> &[u8; NAME] {
        &self.0
    }

    /// All of the name in one number. Neither half alone would do: both have bits that say what kind of UUID it is.
    pub(super) fn hash(self) -> u64 {
        let (upper, lower) = Uuid::from_bytes(self.0).as_u64_pair();
        upper ^ lower
    }
}

/// A name and the number it leads to: an event's [`Sequence`], or a [`AccountState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub(in super::super) name: Name,
    pub(in super::super) number: u64,
}

impl Entry {
    /// Bytes of an entry as it is stored.
    pub(super) const SIZE: usize = NAME + 8;

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..NAME].copy_from_slice(&self.name.0);
        bytes[NAME..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// The entries that lie in `bytes` one after the other.
    pub(super) fn all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(Self::SIZE).filter_map(|entry| {
            let (name, number) = entry.split_first_chunk()?;
            Some(Self { name: Name(*name), number: u64::from_be_bytes(*number.first_chunk()?) })
        })
    }

    /// The entry at `position` among those in `bytes`.
    pub(super) fn at(bytes: &[u8], position: usize) -> Option<Self> {
        Self::all(bytes.get(position * Self::SIZE..)?).next()
    }

    /// Among the entries in `bytes`, which are in order of their names, the one of this name.
    pub(super) fn search(bytes: &[u8], name: Name) -> Option<Self> {
        let (mut low, mut high) = (0, bytes.len() / Self::SIZE);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = Self::at(bytes, middle)?;
            match entry.name.cmp(&name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(entry),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Bits of a number that are a sequence; what is above them says what the number is.
const SEQUENCE_BITS: u32 = 56;
/// The place of an event.
const EVENT: u64 = 0;
/// How an account stands, with a status that has no number.
const OTHER_STATUS: u64 = 1;
/// The first of the numbers of [`STATUSES`].
const FIRST_STATUS: u64 = 2;

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

/// The place of an event that has ended, if that is what the number is.
pub(in super::super) fn event_place(number: u64) -> Option<Sequence> {
    (number >> SEQUENCE_BITS == EVENT).then_some(number)
}

/// How an account stands, and by which event, in one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct AccountState {
    pub(in super::super) sequence: Sequence,
    /// Nothing for a status that has no number: the event's record has it.
    pub(in super::super) status: Option<AccountStatus>,
}

impl AccountState {
    pub(in super::super) fn to_number(&self) -> u64 {
        let known = self.status.as_ref().and_then(|status| STATUSES.iter().position(|known| known == status));
        let code = known.map_or(OTHER_STATUS, |position| FIRST_STATUS + position as u64);
        (code << SEQUENCE_BITS) | (self.sequence & (u64::MAX >> (u64::BITS - SEQUENCE_BITS)))
    }

    pub(in super::super) fn from_number(number: u64) -> Option<Self> {
        let sequence = number & (u64::MAX >> (u64::BITS - SEQUENCE_BITS));
        let code = number >> SEQUENCE_BITS;
        let position = code.checked_sub(FIRST_STATUS).and_then(|position| usize::try_from(position).ok());
        let status = position.and_then(|position| STATUSES.get(position).cloned());
        (code != EVENT).then_some(Self { sequence, status })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_account_state_survives_a_round_trip_as_a_number_and_is_no_event(
            sequence in 0_u64..1 << 56,
            status in prop::option::of(prop::sample::select(&STATUSES)),
        ) {
            let account_state = AccountState { sequence, status };
            prop_assert_eq!(event_place(account_state.to_number()), None);
            prop_assert_eq!(AccountState::from_number(account_state.to_number()), Some(account_state));
            prop_assert_eq!(AccountState::from_number(sequence), None);
            prop_assert_eq!(event_place(sequence), Some(sequence));
        }

        #[test]
        fn an_entry_is_found_among_any_others(
            names in prop::collection::btree_set(any::<[u8; NAME]>(), 0..40), wanted in any::<[u8; NAME]>()
        ) {
            let entries: Vec<_> = names.iter().zip(0..).map(|(name, number)| Entry { name: Name(*name), number }).collect();
            let bytes: Vec<_> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
            prop_assert_eq!(Entry::all(&bytes).collect::<Vec<_>>(), entries.clone());
            for entry in &entries {
                prop_assert_eq!(Entry::search(&bytes, entry.name), Some(*entry));
            }
            prop_assert_eq!(Entry::search(&bytes, Name(wanted)).is_some(), names.contains(&wanted));
        }
    }
}
