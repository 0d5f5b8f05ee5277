//! Who waits for an event to move.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::event::EventId;

/// The watches of a store that lives in this process.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<EventId, watch::Sender<()>>>);

/// Tells when an event has moved since the watch began, or since it was last asked.
///
/// It begins before the event's record is read, so that no move falls between the two.
#[derive(Debug)]
pub struct Watch {
    id: EventId,
    moved: watch::Receiver<()>,
    watches: Arc<Watches>,
}

impl Watch {
    /// Returns once the event has moved.
    pub async fn moved(&mut self) {
        // The sender stays as long as this watch does.
        let _ = self.moved.changed().await;
    }
}

impl Watches {
    pub(super) fn begin(self: &Arc<Self>, id: EventId) -> Watch {
        let moved = self.lock().entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Watch { id, moved, watches: Arc::clone(self) }
    }

    /// Notes that these events have moved, durably.
    pub(super) fn moved(&self, ids: impl IntoIterator<Item = EventId>) {
        let watches = self.lock();
        if watches.is_empty() {
            return;
        }
        for id in ids {
            if let Some(sender) = watches.get(&id) {
                sender.send_replace(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock();
        if watches.get(&self.id).is_some_and(|sender| sender.receiver_count() == 1) {
            watches.remove(&self.id);
        }
    }
}
