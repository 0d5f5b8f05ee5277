//! The hold of one worker on one event, which ends with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::Sequence;

/// Holds an event for as long as it lives.
///
/// Dropped without a word, by a panic or since its holder was stopped, it gives the event back.
#[derive(Debug)]
pub(in crate::store) struct Lease {
    sequence: Sequence,
    fence: u64,
    /// Nothing once its end has been said.
    lapsed: Option<Arc<Lapsed>>,
}

/// Leases that were dropped without a word and have not been noticed yet.
///
/// Behind a lock of its own, since a lease is dropped wherever its holder ends, also where the scheduler is locked.
#[derive(Debug, Default)]
pub(super) struct Lapsed {
    leases: Mutex<Vec<(Sequence, u64)>>,
    changed: Arc<Notify>,
}

impl Lapsed {
    pub(super) fn new(changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { leases: Mutex::default(), changed })
    }

    /// Those that were dropped since the last time.
    pub(super) fn take(&self) -> Vec<(Sequence, u64)> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Sequence, u64)>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    pub(super) fn new(sequence: Sequence, fence: u64, lapsed: &Arc<Lapsed>) -> Self {
        Self { sequence, fence, lapsed: Some(Arc::clone(lapsed)) }
    }

    pub(super) const fn fence(&self) -> u64 {
        self.fence
    }

    /// Ends it with a word: whoever calls this says what becomes of the event.
    pub(in crate::store) fn end(mut self) {
        self.lapsed = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(lapsed) = self.lapsed.take() {
            lapsed.lock().push((self.sequence, self.fence));
            lapsed.changed.notify_one();
        }
    }
}
