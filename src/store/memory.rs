//! Events for as long as the process lives: for tests, and the oracle the durable stores are compared with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::Notify;

use super::agenda::{Agenda, Claimed};
use super::watch::{Watch, Watches};
use super::{
    Advanced, Amendment, Claim, Durability, EXPORTED_BYTES, EventStore, Exported, Filter, Page, Pruned, Recorded,
    Retention, Sequence, Settlement, Step, StoreError, StoredEvent,
};
use crate::clock::{Moment, Now, Timestamp};
use crate::event::{AccountChange, AccountStatus, Body, EventId, EventRecord, Notification};

/// The store behind `memory:`.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
    watches: Arc<Watches>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Sequence, EventRecord>,
    bodies: HashMap<Sequence, Vec<u8>>,
    sequences: HashMap<EventId, Sequence>,
    /// By integration and account, with the event that left them so.
    accounts: HashMap<(String, String), (Sequence, AccountStatus)>,
    secrets: HashMap<String, SecretSlice<u8>>,
    /// By when they may be forgotten.
    nonces: BTreeSet<(Timestamp, [u8; 16])>,
    retention: Option<Retention>,
    agenda: Agenda,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let inner = Inner { agenda: Agenda::new(0, Arc::clone(&changed)), ..Inner::default() };
        Self { inner: Mutex::new(inner), changed, watches: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn held(&self, claim: &Claim) -> Result<(), StoreError> {
        let held = self.agenda.is_held(claim.sequence, &claim.lease);
        if held { Ok(()) } else { Err(StoreError::ClaimLost) }
    }

    fn leave_account(&mut self, sequence: Sequence, integration: &str, change: Option<AccountChange>) {
        let Some(AccountChange { account, status }) = change else { return };
        let left = self.accounts.entry((integration.to_owned(), account)).or_insert((sequence, status.clone()));
        // An earlier event that is run again changes nothing.
        if left.0 <= sequence {
            *left = (sequence, status);
        }
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        let mut inner = self.lock();
        if let Some(sequence) = inner.sequences.get(&notification.id()) {
            return Ok(Recorded::Duplicate(Box::new(inner.records[sequence].clone())));
        }
        let sequence = inner.records.last_key_value().map_or(0, |(last, _)| last + 1);
        let record = EventRecord::new(notification, now.wall);
        inner.sequences.insert(record.id, sequence);
        inner.agenda.add(sequence, &record, now);
        inner.records.insert(sequence, record);
        self.changed.notify_one();
        Ok(Recorded::New)
    }

    async fn claim(&self, now: Now, busy: &[String]) -> Result<Option<Claim>, StoreError> {
        let mut inner = self.lock();
        let claimed = inner.agenda.claim(now.monotonic, busy);
        Ok(claimed.map(|Claimed { sequence, lease, was_lost }| Claim {
            record: inner.records[&sequence].clone(),
            sequence,
            lease,
            was_lost,
        }))
    }

    async fn advance(&self, mut claim: Claim, step: Step, now: Now) -> Result<Advanced, StoreError> {
        let mut inner = self.lock();
        inner.held(&claim)?;
        let (change, body) = step.into_change();
        let account = claim.record.apply(change, now.wall)?;
        inner.leave_account(claim.sequence, &claim.record.integration, account);
        inner.records.insert(claim.sequence, claim.record.clone());
        inner.bodies.extend(body.map(|body| (claim.sequence, body)));
        self.watches.moved([claim.record.id]);
        let proceeds = inner.agenda.advanced(claim.sequence, &claim.record, now);
        self.changed.notify_one();
        if proceeds {
            return Ok(Advanced::Proceed(claim));
        }
        claim.lease.end();
        Ok(Advanced::Waiting)
    }

    async fn give_way(&self, claim: &Claim) -> Result<(), StoreError> {
        self.lock().agenda.give_way(claim.sequence, &claim.lease);
        self.changed.notify_one();
        Ok(())
    }

    async fn settle(&self, claim: Claim, settlement: Settlement, now: Now) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.held(&claim)?;
        let Claim { mut record, sequence, lease, .. } = claim;
        let (change, body) = settlement.into_change();
        let account = record.apply(change, now.wall)?;
        record.note_seen(inner.retention.as_ref().map(Retention::reached));
        inner.leave_account(sequence, &record.integration, account);
        inner.bodies.extend(body.map(|body| (sequence, body)));
        if record.state.is_unfinished() {
            inner.agenda.free(sequence, record.due_from(now));
        } else {
            inner.agenda.remove(sequence);
        }
        lease.end();
        self.watches.moved([record.id]);
        inner.records.insert(sequence, record);
        self.changed.notify_one();
        Ok(())
    }

    async fn amend(&self, id: EventId, amendment: Amendment, now: Now) -> Result<EventRecord, StoreError> {
        let mut inner = self.lock();
        let sequence = *inner.sequences.get(&id).ok_or(StoreError::NotFound)?;
        let mut record = inner.records[&sequence].clone();
        let was_unfinished = record.state.is_unfinished();
        let account = record.apply_amendment(amendment.into(), now.wall)?;
        record.note_seen(inner.retention.as_ref().map(Retention::reached));
        if was_unfinished && !inner.agenda.seize(sequence) {
            return Err(StoreError::Held);
        }
        inner.agenda.amended(sequence, &record, was_unfinished, now);
        inner.leave_account(sequence, &record.integration, account);
        inner.records.insert(sequence, record.clone());
        self.watches.moved([id]);
        self.changed.notify_one();
        Ok(record)
    }

    async fn hasten(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if let Some(sequence) = inner.agenda.sequence(id) {
            inner.agenda.hasten(sequence, now.monotonic);
            self.changed.notify_one();
        }
        Ok(())
    }

    async fn prune(&self, moment: Timestamp, _: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        let mut inner = self.lock();
        let newest = inner.records.last_key_value().map(|(newest, _)| *newest);
        let old = inner
            .records
            .iter()
            .filter(|(sequence, record)| record.is_done_since_before(moment) && Some(**sequence) != newest);
        let old: Vec<_> = old.take(limit).map(|(sequence, record)| (*sequence, record.id)).collect();
        for (sequence, id) in &old {
            inner.records.remove(sequence);
            inner.bodies.remove(sequence);
            inner.sequences.remove(id);
        }
        Ok(Pruned { removed: old.len(), is_through: old.len() < limit })
    }

    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        Ok(self.lock().retention.clone())
    }

    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        self.lock().retention = Some(retention);
        Ok(())
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreError> {
        let inner = self.lock();
        Ok(inner.sequences.get(&id).map(|sequence| inner.records[sequence].clone()))
    }

    async fn body(&self, id: EventId) -> Result<Option<Body>, StoreError> {
        let inner = self.lock();
        let Some(sequence) = inner.sequences.get(&id) else { return Ok(None) };
        let charset = inner.records.get(sequence).and_then(|record| record.charset.clone());
        Ok(inner.bodies.get(sequence).map(|bytes| Body { bytes: bytes.clone(), charset }))
    }

    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError> {
        let inner = self.lock();
        let mut exported = Exported::default();
        let mut bytes = 0;
        for (sequence, record) in inner.records.range(from..) {
            if exported.events.len() == limit || bytes > EXPORTED_BYTES {
                exported.next = Some(*sequence);
                break;
            }
            let body = inner.bodies.get(sequence).cloned();
            bytes += body.as_ref().map_or(0, Vec::len);
            exported.events.push(StoredEvent { record: record.clone(), body });
        }
        Ok(exported)
    }

    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError> {
        let mut inner = self.lock();
        let mut taken = 0;
        for StoredEvent { record, body } in events {
            if inner.sequences.contains_key(&record.id) {
                continue;
            }
            let sequence = inner.records.last_key_value().map_or(0, |(last, _)| last + 1);
            inner.sequences.insert(record.id, sequence);
            inner.leave_account(sequence, &record.integration, record.account_effect());
            if record.state.is_unfinished() {
                inner.agenda.add(sequence, &record, now);
            }
            inner.bodies.extend(body.map(|body| (sequence, body)));
            inner.records.insert(sequence, record);
            taken += 1;
        }
        self.changed.notify_one();
        Ok(taken)
    }

    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        let left = self.lock().accounts.get(&(integration.to_owned(), account.to_owned())).cloned();
        Ok(left.map(|(_, status)| status))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        let inner = self.lock();
        let mut page = Page { events: Vec::new(), unreadable: Vec::new(), next: None };
        for (sequence, event) in inner.records.range(..before.unwrap_or(Sequence::MAX)).rev() {
            if page.events.len() == limit {
                page.next = Some(sequence + 1);
                break;
            }
            if filter.shows(event) {
                page.events.push(event.clone());
            }
        }
        Ok(page)
    }

    async fn next_due(&self, busy: &[String]) -> Result<Option<Moment>, StoreError> {
        Ok(self.lock().agenda.next_due(busy))
    }

    fn watch(&self, id: EventId) -> Watch {
        self.watches.begin(id)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        Ok(self.lock().secrets.entry(name.to_owned()).or_insert(fresh).clone())
    }

    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        let is_held = inner.secrets.get(name).is_some_and(|kept| kept.expose_secret() == held.expose_secret());
        if is_held {
            inner.secrets.insert(name.to_owned(), fresh);
        }
        Ok(is_held)
    }

    async fn use_nonce(&self, nonce: [u8; 16], until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        inner.nonces = inner.nonces.split_off(&(now, [0; 16]));
        Ok(until <= now || inner.nonces.insert((until, nonce)))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}

#[cfg(test)]
mod tests {
    super::super::conformance::conformance!((crate::store::memory::MemoryStore::new(), ()));
}
