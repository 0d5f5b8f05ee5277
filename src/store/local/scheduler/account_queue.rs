//! The events of each account, in order of receipt, and which of them is held (G5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::event::EventRecord;
use crate::store::stored_event::Sequence;

/// The account an event belongs to: integration and account identifier.
pub(super) type AccountKey = Arc<(String, String)>;

/// The account whose order an event has a part in. Once its result was handed over all that may be left is to report it,
/// which nobody need wait for.
pub(super) fn account_of(event: &EventRecord) -> Option<AccountKey> {
    if event.handed_over {
        return None;
    }
    event.account.as_ref().map(|account| Arc::new((event.integration.clone(), account.clone())))
}

/// The queue of each account that has unfinished events.
#[derive(Debug, Default)]
pub(super) struct AccountQueues(HashMap<AccountKey, AccountQueue>);

/// The unfinished events of one account, and the one that is held.
#[derive(Debug, Default)]
struct AccountQueue {
    waiting: BTreeSet<Sequence>,
    held: Option<Sequence>,
}

impl AccountQueues {
    /// Adds an event to its account, and returns the one that was the first and is so no longer.
    pub(super) fn join(&mut self, account: AccountKey, sequence: Sequence) -> Option<Sequence> {
        let queue = self.0.entry(account).or_default();
        let first_before = queue.waiting.first().copied();
        queue.waiting.insert(sequence);
        first_before.filter(|&first| first > sequence)
    }

    /// Takes an event out of its account, and returns the one that is the first now.
    pub(super) fn leave(&mut self, account: &AccountKey, sequence: Sequence) -> Option<Sequence> {
        let queue = self.0.get_mut(account)?;
        queue.waiting.remove(&sequence);
        if queue.held == Some(sequence) {
            queue.held = None;
        }
        let next = queue.waiting.first().copied();
        if next.is_none() {
            self.0.remove(account);
        }
        next
    }

    /// Whether nothing of its account holds an event up: it is the first, and no other is held.
    pub(super) fn is_next(&self, account: Option<&AccountKey>, sequence: Sequence) -> bool {
        account.and_then(|account| self.0.get(account)).is_none_or(|queue| {
            queue.waiting.first() == Some(&sequence) && queue.held.is_none_or(|held| held == sequence)
        })
    }

    /// The earliest event of an account.
    pub(super) fn first(&self, account: Option<&AccountKey>) -> Option<Sequence> {
        self.0.get(account?)?.waiting.first().copied()
    }

    /// Notes that of an account this event is held.
    pub(super) fn hold(&mut self, account: Option<&AccountKey>, sequence: Sequence) {
        if let Some(queue) = account.and_then(|account| self.0.get_mut(account)) {
            queue.held = Some(sequence);
        }
    }

    /// Notes that it is held no longer.
    pub(super) fn end_hold(&mut self, account: Option<&AccountKey>, sequence: Sequence) {
        if let Some(queue) = account.and_then(|account| self.0.get_mut(account))
            && queue.held == Some(sequence)
        {
            queue.held = None;
        }
    }
}
