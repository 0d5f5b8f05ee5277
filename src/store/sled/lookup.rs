//! Where an event, its body and an account's status are found.

use std::sync::{Arc, Mutex};

use sled::Tree;

use super::error::{failed, unreadable};
use super::index::{AccountState, Index, Name, event_place};
use super::layout::{BODY, RETENTION_KEY, account_key, key, secret_key};
use super::records::stored_record;
use crate::event::{AccountStatus, EventId, EventRecord};
use crate::store::error::StoreError;
use crate::store::local::lock;
use crate::store::local::scheduler::Scheduler;
use crate::store::retention::Retention;
use crate::store::stored_event::Sequence;

/// What is stored, as anybody may read it.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) tree: Tree,
    pub(super) index: Index,
    pub(super) scheduler: Arc<Mutex<Scheduler>>,
}

impl Lookup {
    /// The event with this id: in progress by the scheduler, or ended by the index.
    pub(super) fn event(&self, id: EventId) -> Result<Option<(Sequence, EventRecord)>, StoreError> {
        // An event that ends between the two looks is in the index before it leaves the scheduler.
        let in_progress = lock(&self.scheduler).sequence(id);
        let place = match in_progress {
            Some(sequence) => Some(sequence),
            None => self.index.get(Name::of_event(id))?.and_then(event_place),
        };
        let Some(sequence) = place else { return Ok(None) };
        let record = stored_record(&self.tree, sequence)?.filter(|record| record.id == id);
        Ok(record.map(|record| (sequence, record)))
    }

    /// The body of an event, once one came. What lies under its keys before that is not its own: a crash may have left
    /// it there. One without a byte has no pieces; one that was understood has some, unless they are lost.
    pub(super) fn body(&self, sequence: Sequence, record: &EventRecord) -> Result<Option<Vec<u8>>, StoreError> {
        let mut chunks = self.tree.scan_prefix(key(BODY, sequence)).values().peekable();
        if !record.has_body || (record.kind.is_some() && chunks.peek().is_none()) {
            return Ok(None);
        }
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend_from_slice(&chunk.map_err(failed)?);
        }
        Ok(Some(body))
    }

    pub(super) fn account_status(&self, name: Name) -> Result<Option<AccountStatus>, StoreError> {
        let state = self.index.get(name)?.and_then(AccountState::from_number);
        let Some(AccountState { sequence, status }) = state else { return Ok(None) };
        if status.is_some() {
            return Ok(status);
        }
        if let Some(record) = stored_record(&self.tree, sequence)? {
            return Ok(record.status_on_success);
        }
        let kept = self.tree.get(account_key(name.as_bytes())).map_err(failed)?;
        kept.map(|kept| serde_json::from_slice(&kept)).transpose().map_err(unreadable)
    }

    pub(super) fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(secret_key(name)).map_err(failed)?.map(|kept| kept.to_vec()))
    }

    pub(super) fn retention(&self) -> Result<Option<Retention>, StoreError> {
        let noted = self.tree.get(RETENTION_KEY).map_err(failed)?;
        noted.map(|noted| serde_json::from_slice(&noted)).transpose().map_err(unreadable)
    }
}
