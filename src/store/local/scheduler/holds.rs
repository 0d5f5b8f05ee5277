//! Who holds an event, and which holds were dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::Moment;
use crate::store::lease::LeaseOwner;
use crate::store::stored_event::Sequence;

/// A hold on an event.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) fence: u64,
    pub(super) since: Moment,
    /// Steps that were taken under it.
    pub(super) step: u32,
    /// Whether a worker has it, and not an operator's action.
    pub(super) is_leased: bool,
    /// Whether the store was opened again since: which steps have been taken is to be read in the record.
    pub(super) is_restored: bool,
}

impl Hold {
    pub(super) const fn new(fence: u64, since: Moment) -> Self {
        Self { fence, since, step: 0, is_leased: true, is_restored: false }
    }
}

/// How an event stands to somebody who claims to hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum HoldState {
    /// It is held by that claim, as the claim knows it.
    Current,
    /// It is held by that claim, and further than the claim knows.
    Ahead,
    /// It is held by that claim, and how far it is must be read in the record.
    Restored,
    /// It is not held by that claim.
    Lost,
}

/// Leases that were dropped and have not been noticed yet.
///
/// Behind a lock of its own, since a lease is dropped wherever its holder ends, also where the scheduler is locked.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    leases: Mutex<Vec<(Sequence, u64)>>,
    wakeup: Arc<Notify>,
}

impl Dropped {
    pub(super) fn new(wakeup: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { leases: Mutex::default(), wakeup })
    }

    /// Those that were dropped since the last time.
    pub(super) fn take(&self) -> Vec<(Sequence, u64)> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Sequence, u64)>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseOwner for Dropped {
    fn dropped(&self, sequence: Sequence, fence: u64) {
        self.lock().push((sequence, fence));
        self.wakeup.notify_one();
    }
}
