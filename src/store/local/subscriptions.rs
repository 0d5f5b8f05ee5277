//! Who waits for a change of an event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::event::EventId;

/// The subscriptions of a store that lives in this process.
#[derive(Debug, Default)]
pub(in crate::store) struct Subscriptions(Mutex<HashMap<EventId, watch::Sender<()>>>);

/// Tells when an event has changed since the subscription began, or since it was last asked.
///
/// It begins before the event's record is read, so that no change falls between the two.
#[derive(Debug)]
pub struct Subscription {
    id: EventId,
    changed: watch::Receiver<()>,
    subscriptions: Arc<Subscriptions>,
}

impl Subscription {
    /// Returns once the event has changed.
    pub async fn changed(&mut self) {
        // The sender stays as long as this subscription does.
        let _ = self.changed.changed().await;
    }
}

impl Subscriptions {
    pub(in crate::store) fn begin(self: &Arc<Self>, id: EventId) -> Subscription {
        let changed = self.lock().entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { id, changed, subscriptions: Arc::clone(self) }
    }

    /// Notes that these events have changed, durably.
    pub(in crate::store) fn publish(&self, ids: impl IntoIterator<Item = EventId>) {
        let subscriptions = self.lock();
        if subscriptions.is_empty() {
            return;
        }
        for id in ids {
            if let Some(sender) = subscriptions.get(&id) {
                sender.send_replace(());
            }
        }
    }

    /// Has everybody look again.
    pub(in crate::store) fn publish_all(&self) {
        for sender in self.lock().values() {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.get(&self.id).is_some_and(|sender| sender.receiver_count() == 1) {
            subscriptions.remove(&self.id);
        }
    }
}
