//! Copies out of a store and into it.

use async_trait::async_trait;

use super::records::oldest_first;
use super::store::SledStore;
use super::writer::Write;
use crate::clock::Now;
use crate::store::backup::{Backup, EXPORTED_BYTES, Exported};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::stored_event::{Sequence, StoredEvent};

#[async_trait]
impl Backup for SledStore {
    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError> {
        let mut exported = Exported::default();
        let mut bytes = 0;
        for entry in oldest_first(&self.lookup.tree, from) {
            let (sequence, encoded) = entry?;
            if exported.events.len() == limit || bytes > EXPORTED_BYTES {
                exported.next = Some(sequence);
                break;
            }
            match codec::decode(&encoded) {
                Ok(record) => {
                    let body = self.lookup.body(sequence, &record)?;
                    bytes += body.as_ref().map_or(0, Vec::len);
                    exported.events.push(StoredEvent { record, body });
                }
                Err(error) => exported.unreadable.push((sequence, error.to_string())),
            }
        }
        Ok(exported)
    }

    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError> {
        let encoded = events.iter().map(|event| codec::encode(&event.record)).collect::<Result<Vec<_>, _>>()?;
        let events = events.into_iter().zip(encoded).collect();
        self.write(|reply| Write::Import(events, now, reply)).await
    }
}
