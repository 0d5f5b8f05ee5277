//! Events for as long as the process lives: for tests, and the oracle the durable stores are compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::Notify;

use super::local::lock;
use super::local::scheduler::{Claimed, Scheduler};
use super::local::steps::{StepState, check_step};
use super::local::subscriptions::{Subscription, Subscriptions};
use super::secrets::MAX_EXPIRING_BYTES;
use super::{
    Accounts, Advanced, Backup, Claim, Claims, Completion, Counts, Description, Durability, EXPORTED_BYTES, EventStore,
    Exported, Filter, History, Inbox, Lease, OperatorAction, Page, Progress, Pruned, Queue, QueueError, Recorded,
    Retention, Secrets, Sequence, StoreError, StoredEvent,
};
use crate::clock::{Now, Timestamp};
use crate::event::{AccountChange, AccountStatus, Body, Change, EventId, EventRecord, Notification};

/// Records that one call looks at, at most.
const LOOKED_AT: usize = 4096;

/// The store behind `memory:`.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
    wakeup: Arc<Notify>,
    subscriptions: Arc<Subscriptions>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Sequence, EventRecord>,
    bodies: HashMap<Sequence, Vec<u8>>,
    sequences: HashMap<EventId, Sequence>,
    /// By integration and account, with the event that left them so.
    accounts: HashMap<(String, String), (Sequence, AccountStatus)>,
    secrets: HashMap<String, SecretSlice<u8>>,
    /// By when they may be forgotten, and their keys.
    expiring_secrets: BTreeMap<(Timestamp, [u8; 16]), SecretSlice<u8>>,
    retention: Option<Retention>,
    counts: Counts,
    scheduler: Scheduler,
    is_closed: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let wakeup = Arc::new(Notify::new());
        let inner = Inner { scheduler: Scheduler::new(0, Arc::clone(&wakeup)), ..Inner::default() };
        Self { inner: Mutex::new(inner), wakeup, subscriptions: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The same for a write, which a store that was closed does not take.
    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.is_closed { Err(StoreError::Unavailable("it is closed".to_owned())) } else { Ok(inner) }
    }

    /// Takes a holder's step: the record as it leaves the event, and whether that was so before.
    fn step(
        &self,
        claim: &Claim,
        change: Change,
        body: Option<&[u8]>,
        is_end: bool,
        now: Now,
    ) -> Result<(MutexGuard<'_, Inner>, EventRecord), StoreError> {
        let mut inner = self.open()?;
        let sequence = claim.lease.sequence();
        let mut record = EventRecord::clone(&claim.record);
        let account = record.apply(change, now.wall)?;
        if is_end {
            record.note_seen(inner.retention.as_ref().map(Retention::reached));
        }
        let stored = || Ok(inner.records.get(&sequence).filter(|stored| stored.id == record.id).cloned());
        let holder = (&claim.lease, claim.step);
        if check_step(&inner.scheduler, holder, &claim.record, &record, stored)? == StepState::Fresh {
            inner.leave_account(sequence, &record.integration, account);
            inner.bodies.extend(body.map(|body| (sequence, body.to_vec())));
            inner.put(sequence, record.clone());
            self.subscriptions.publish([record.id]);
        }
        Ok((inner, record))
    }

    fn try_advance(&self, claim: &mut Claim, progress: &Progress, now: Now) -> Result<bool, StoreError> {
        let (mut inner, record) = self.step(claim, progress.change(), progress.body(), false, now)?;
        claim.step += 1;
        let proceeds = inner.scheduler.advanced(&claim.lease, claim.step, &record, now);
        claim.record = Arc::new(record);
        Ok(proceeds)
    }

    fn try_settle(&self, claim: &Claim, completion: &Completion, now: Now) -> Result<(), StoreError> {
        let (mut inner, record) = self.step(claim, completion.change(), completion.body(), true, now)?;
        inner.scheduler.settled(&claim.lease, &record, now);
        Ok(())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn leave_account(&mut self, sequence: Sequence, integration: &str, change: Option<AccountChange>) {
        let Some(AccountChange { account, status }) = change else { return };
        let left = self.accounts.entry((integration.to_owned(), account)).or_insert((sequence, status.clone()));
        // An earlier event that is run again changes nothing.
        if left.0 <= sequence {
            *left = (sequence, status);
        }
    }

    fn put(&mut self, sequence: Sequence, record: EventRecord) {
        let after = Some(record.state);
        let before = self.records.insert(sequence, record);
        self.counts.note(before.map(|before| before.state), after);
    }

    fn next_sequence(&self) -> Sequence {
        self.records.last_key_value().map_or(0, |(last, _)| last + 1)
    }
}

#[async_trait]
impl Inbox for MemoryStore {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        let mut inner = self.open()?;
        if let Some(sequence) = inner.sequences.get(&notification.id()) {
            return Ok(Recorded::Duplicate(Box::new(inner.records[sequence].clone())));
        }
        let sequence = inner.next_sequence();
        let record = EventRecord::new(notification, now.wall);
        inner.sequences.insert(record.id, sequence);
        inner.scheduler.add(sequence, &record, now);
        inner.put(sequence, record);
        self.wakeup.notify_one();
        Ok(Recorded::New)
    }

    async fn amend(&self, id: EventId, action: OperatorAction, now: Now) -> Result<EventRecord, StoreError> {
        let mut inner = self.open()?;
        let sequence = *inner.sequences.get(&id).ok_or(StoreError::NotFound)?;
        let mut record = inner.records[&sequence].clone();
        let was_unfinished = record.state.is_unfinished();
        let account = record.apply_operator_action(action.into(), now.wall)?;
        record.note_seen(inner.retention.as_ref().map(Retention::reached));
        if was_unfinished && !inner.scheduler.lock(sequence) {
            return Err(StoreError::Locked);
        }
        inner.scheduler.amended(sequence, &record, was_unfinished, now);
        inner.leave_account(sequence, &record.integration, account);
        inner.put(sequence, record.clone());
        self.subscriptions.publish([id]);
        self.wakeup.notify_one();
        Ok(record)
    }

    async fn make_due(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        if let Some(sequence) = inner.scheduler.sequence(id) {
            inner.scheduler.make_due(sequence, now.monotonic);
            self.wakeup.notify_one();
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.open().map(drop)
    }
}

#[async_trait]
impl Queue for MemoryStore {
    async fn claim(&self, limit: usize, saturated: &[String], now: Now) -> Result<Claims, StoreError> {
        let mut inner = self.open()?;
        let mut claims = Vec::new();
        while claims.len() < limit
            && let Some(Claimed { lease, was_lost }) = inner.scheduler.claim(saturated, now.monotonic)
        {
            let record = Arc::new(inner.records[&lease.sequence()].clone());
            claims.push(Claim { record, lease, step: 0, was_lost });
        }
        Ok(Claims { claims, idle_until: inner.scheduler.idle_until(saturated) })
    }

    async fn advance(&self, mut claim: Claim, progress: &Progress, now: Now) -> Result<Advanced, QueueError> {
        match self.try_advance(&mut claim, progress, now) {
            Ok(proceeds) => {
                self.wakeup.notify_one();
                if proceeds {
                    return Ok(Advanced::Proceed(claim));
                }
                claim.lease.end();
                Ok(Advanced::Blocked)
            }
            Err(error) => Err(QueueError { claim, error }),
        }
    }

    async fn settle(&self, claim: Claim, completion: &Completion, now: Now) -> Result<(), QueueError> {
        match self.try_settle(&claim, completion, now) {
            Ok(()) => {
                claim.lease.end();
                self.wakeup.notify_one();
                Ok(())
            }
            Err(error) => Err(QueueError { claim, error }),
        }
    }

    async fn renew(&self, lease: &Lease, _: Now) -> Result<(), StoreError> {
        if self.open()?.scheduler.extend(lease) { Ok(()) } else { Err(StoreError::ClaimLost) }
    }

    async fn release(&self, lease: Lease, _: Now) -> Result<(), StoreError> {
        self.lock().scheduler.give_back(&lease);
        lease.end();
        self.wakeup.notify_one();
        Ok(())
    }

    async fn body(&self, claim: &Claim) -> Result<Option<Body>, StoreError> {
        let bytes = self.lock().bodies.get(&claim.lease.sequence()).cloned();
        Ok(bytes.map(|bytes| Body { bytes, charset: claim.record.charset.clone() }))
    }

    async fn wakeup(&self) {
        self.wakeup.notified().await;
    }
}

#[async_trait]
impl History for MemoryStore {
    async fn load(&self, id: EventId, with_body: bool) -> Result<Option<StoredEvent>, StoreError> {
        let inner = self.lock();
        let Some(sequence) = inner.sequences.get(&id) else { return Ok(None) };
        let body = if with_body { inner.bodies.get(sequence).cloned() } else { None };
        Ok(Some(StoredEvent { record: inner.records[sequence].clone(), body }))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        let inner = self.lock();
        let mut page = Page::default();
        for (looked_at, (sequence, event)) in inner.records.range(..before.unwrap_or(Sequence::MAX)).rev().enumerate() {
            if page.events.len() == limit || looked_at == LOOKED_AT {
                page.next = Some(sequence + 1);
                break;
            }
            if filter.shows(event) {
                page.events.push(event.clone());
            }
        }
        Ok(page)
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        Ok(self.lock().counts)
    }

    async fn prune(&self, moment: Timestamp, _: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        let mut inner = self.open()?;
        let newest = inner.records.last_key_value().map(|(newest, _)| *newest);
        let old = inner
            .records
            .iter()
            .filter(|(sequence, record)| record.is_done_since_before(moment) && Some(**sequence) != newest);
        let old: Vec<_> = old.take(limit).map(|(sequence, record)| (*sequence, record.id)).collect();
        for (sequence, id) in &old {
            let gone = inner.records.remove(sequence);
            inner.counts.note(gone.map(|gone| gone.state), None);
            inner.bodies.remove(sequence);
            inner.sequences.remove(id);
        }
        Ok(Pruned { removed: old.len(), is_through: old.len() < limit })
    }

    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        Ok(self.lock().retention.clone())
    }

    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        self.open()?.retention = Some(retention);
        Ok(())
    }

    fn subscribe(&self, id: EventId) -> Subscription {
        self.subscriptions.begin(id)
    }
}

#[async_trait]
impl Accounts for MemoryStore {
    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        let left = self.lock().accounts.get(&(integration.to_owned(), account.to_owned())).cloned();
        Ok(left.map(|(_, status)| status))
    }
}

#[async_trait]
impl Secrets for MemoryStore {
    async fn get(&self, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
        Ok(self.lock().secrets.get(name).cloned())
    }

    async fn create(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        Ok(self.open()?.secrets.entry(name.to_owned()).or_insert(fresh).clone())
    }

    async fn replace(&self, name: &str, held: &SecretSlice<u8>, fresh: SecretSlice<u8>) -> Result<bool, StoreError> {
        let mut inner = self.open()?;
        let is_held = inner.secrets.get(name).is_some_and(|kept| kept.expose_secret() == held.expose_secret());
        if is_held {
            inner.secrets.insert(name.to_owned(), fresh);
        }
        Ok(is_held)
    }

    async fn put(
        &self,
        key: [u8; 16],
        until: Timestamp,
        value: SecretSlice<u8>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let bytes = value.expose_secret().len();
        if bytes > MAX_EXPIRING_BYTES {
            return Err(StoreError::TooLong(bytes));
        }
        let mut inner = self.open()?;
        inner.expiring_secrets = inner.expiring_secrets.split_off(&(now, [0; 16]));
        if until <= now || inner.expiring_secrets.contains_key(&(until, key)) {
            return Ok(until <= now);
        }
        inner.expiring_secrets.insert((until, key), value);
        Ok(true)
    }

    async fn take(
        &self,
        key: [u8; 16],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<SecretSlice<u8>>, StoreError> {
        Ok(self.open()?.expiring_secrets.remove(&(until, key)).filter(|_| until > now))
    }
}

#[async_trait]
impl Backup for MemoryStore {
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
        let mut inner = self.open()?;
        let mut taken = 0;
        for StoredEvent { record, body } in events {
            if inner.sequences.contains_key(&record.id) {
                continue;
            }
            let sequence = inner.next_sequence();
            inner.sequences.insert(record.id, sequence);
            inner.leave_account(sequence, &record.integration, record.account_effect());
            if record.state.is_unfinished() {
                inner.scheduler.add(sequence, &record, now);
            }
            inner.bodies.extend(body.map(|body| (sequence, body)));
            inner.put(sequence, record);
            taken += 1;
        }
        self.wakeup.notify_one();
        Ok(taken)
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    fn describe(&self) -> Description {
        Description { durability: Durability::Memory, version: "memory" }
    }

    async fn close(&self) {
        self.lock().is_closed = true;
        self.wakeup.notify_one();
    }
}

#[cfg(test)]
mod tests {
    // It ends with its process.
    super::super::conformance::conformance!(400, (crate::store::memory::MemoryStore::new(), ()), None);
}
