//! A worker's hold on one event, which ends with it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stored_event::Sequence;

/// A worker's hold on one event.
///
/// Clones are one hold: whoever works on the event has one, and whoever renews the hold or ends it has another. When the
/// last of them is dropped and nobody said what becomes of the event, the store hears of it and gives the event to
/// somebody else.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Hold>);

#[derive(Debug)]
struct Hold {
    sequence: Sequence,
    fence: u64,
    is_over: AtomicBool,
    owner: Arc<dyn LeaseOwner>,
}

/// The part of a store that hears of leases which are dropped.
pub(super) trait LeaseOwner: Debug + Send + Sync {
    /// The lease on the event at `sequence` is gone without a word.
    fn dropped(&self, sequence: Sequence, fence: u64);
}

impl Lease {
    pub(super) fn new(sequence: Sequence, fence: u64, owner: Arc<dyn LeaseOwner>) -> Self {
        Self(Arc::new(Hold { sequence, fence, is_over: AtomicBool::new(false), owner }))
    }

    pub(super) fn sequence(&self) -> Sequence {
        self.0.sequence
    }

    /// What tells this hold from every other, earlier or later: the store refuses a holder whose fence is not the latest.
    pub(super) fn fence(&self) -> u64 {
        self.0.fence
    }

    /// Ends the hold with a word: whoever calls this says what becomes of the event.
    pub(super) fn end(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !*self.is_over.get_mut() {
            self.owner.dropped(self.sequence, self.fence);
        }
    }
}
