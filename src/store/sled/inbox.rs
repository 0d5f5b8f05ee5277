//! Taking events in.

use std::sync::Arc;

use async_trait::async_trait;

use super::store::SledStore;
use super::writer::Write;
use crate::clock::Now;
use crate::event::{EventId, EventRecord, Notification};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::inbox::{Inbox, OperatorAction, Recorded};
use crate::store::local::lock;

#[async_trait]
impl Inbox for SledStore {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        let record = EventRecord::new(notification, now.wall);
        // Here and not in the writer, of which there is only one.
        let encoded = codec::encode(&record)?;
        self.write(|reply| Write::Record(Arc::new(record), encoded, now, reply)).await
    }

    async fn amend(&self, id: EventId, action: OperatorAction, now: Now) -> Result<EventRecord, StoreError> {
        self.write(|reply| Write::Amend(id, action, now, reply)).await
    }

    async fn make_due(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        let mut scheduler = lock(&self.lookup.scheduler);
        if let Some(sequence) = scheduler.sequence(id) {
            scheduler.make_due(sequence, now.monotonic);
            self.kept.wakeup.notify_one();
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.is_ready()
    }
}
