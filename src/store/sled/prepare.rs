//! What each kind of write comes to: which keys, in which order.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use sled::IVec;

use super::error::{failed, unreadable};
use super::group::{BATCH, Expiring, Group};
use super::index::{AccountState, Entry, Name};
use super::layout::{
    BODY, CHUNK, ENDED, EXPIRING, ExpiringKey, IN_PROGRESS, RETENTION_KEY, account_key, expiring_key, key,
};
use super::lookup::Lookup;
use super::records::stored_record;
use super::retention::is_old;
use crate::clock::{Now, Timestamp};
use crate::event::{AccountChange, Change, EventId, EventRecord};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::inbox::{OperatorAction, Recorded};
use crate::store::lease::Lease;
use crate::store::local::lock;
use crate::store::local::steps::{StepState, check_step};
use crate::store::retention::Retention;
use crate::store::stored_event::{Sequence, StoredEvent};

/// Secrets whose time is over that are removed with each new one: more than come, so that they do not gather.
const FORGOTTEN_AT_ONCE: usize = 4;

/// A step that the holder of an event wants to take.
pub(super) struct Step {
    pub(super) lease: Lease,
    /// How many steps its holder has taken before.
    pub(super) number: u32,
    /// The event as its holder knows it.
    pub(super) before: Arc<EventRecord>,
    pub(super) change: Change,
    pub(super) body: Option<Vec<IVec>>,
    pub(super) now: Now,
}

/// A step as it leaves the event.
pub(super) struct Taken {
    pub(super) lease: Lease,
    pub(super) number: u32,
    pub(super) record: Arc<EventRecord>,
    pub(super) now: Now,
}

/// What was removed of what had been found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) count: usize,
    /// The first that was not come to.
    pub(super) left: Option<Sequence>,
}

/// A body as it is stored.
pub(super) fn in_chunks(body: &[u8]) -> Vec<IVec> {
    body.chunks(CHUNK).map(IVec::from).collect()
}

/// Prepares writes on what is stored, as the group so far leaves it.
pub(super) struct Preparer {
    pub(super) lookup: Lookup,
    pub(super) next: Sequence,
    /// Up to when the store's time has come, as retention has noted it.
    pub(super) seen: Option<Timestamp>,
}

impl Preparer {
    pub(super) fn record(
        &mut self,
        group: &mut Group,
        record: &Arc<EventRecord>,
        encoded: Vec<u8>,
    ) -> Result<(Sequence, Recorded), StoreError> {
        if let Some((sequence, known)) = self.known(group, record.id)? {
            return Ok((sequence, Recorded::Duplicate(Box::new(EventRecord::clone(&known)))));
        }
        let sequence = self.next;
        self.next += 1;
        group.put(key(IN_PROGRESS, sequence), encoded);
        group.leave(sequence, None, Arc::clone(record));
        Ok((sequence, Recorded::New))
    }

    /// A step that keeps the hold on the event, or ends it.
    pub(super) fn step(&self, group: &mut Group, step: Step, is_end: bool) -> Result<Taken, StoreError> {
        let Step { lease, number, before, change, body, now } = step;
        let sequence = lease.sequence();
        let mut record = EventRecord::clone(&before);
        let account = record.apply(change, now.wall)?;
        if is_end {
            record.note_seen(self.seen);
        }
        let stored = || self.stored(group, sequence, record.id);
        let state = check_step(&lock(&self.lookup.scheduler), (&lease, number), &before, &record, stored)?;
        let record = Arc::new(record);
        if state == StepState::Fresh {
            let encoded = codec::encode(&record)?;
            self.leave_account(group, sequence, &record.integration, account)?;
            if let Some(body) = body {
                self.put_body(group, sequence, &body)?;
            }
            if record.state.is_unfinished() {
                group.put(key(IN_PROGRESS, sequence), encoded);
            } else {
                group.end(sequence, record.id, encoded);
            }
            group.leave(sequence, Some(before.state), Arc::clone(&record));
        }
        Ok(Taken { lease, number: number + 1, record, now })
    }

    /// Writes a body in place of whatever is left under its keys.
    fn put_body(&self, group: &mut Group, sequence: Sequence, body: &[IVec]) -> Result<(), StoreError> {
        for left in self.lookup.tree.scan_prefix(key(BODY, sequence)).keys() {
            group.remove(&left.map_err(failed)?);
        }
        for (chunk, number) in body.iter().zip(0_u16..) {
            let mut chunk_key = key(BODY, sequence).to_vec();
            chunk_key.extend_from_slice(&number.to_be_bytes());
            group.put(chunk_key, chunk);
        }
        Ok(())
    }

    pub(super) fn import(
        &mut self,
        group: &mut Group,
        events: Vec<(StoredEvent, Vec<u8>)>,
    ) -> Result<Vec<(Sequence, Arc<EventRecord>)>, StoreError> {
        let mut taken = Vec::new();
        let mut next = self.next;
        for (StoredEvent { record, body }, encoded) in events {
            if self.known(group, record.id)?.is_some() {
                continue;
            }
            let sequence = next;
            next += 1;
            // Without one too: an import that was cut off may have left another event's under its keys.
            self.put_body(group, sequence, &in_chunks(body.as_deref().unwrap_or_default()))?;
            self.leave_account(group, sequence, &record.integration, record.account_effect())?;
            if record.state.is_unfinished() {
                group.put(key(IN_PROGRESS, sequence), encoded);
            } else {
                group.end(sequence, record.id, encoded);
            }
            let record = Arc::new(record);
            group.leave(sequence, None, Arc::clone(&record));
            taken.push((sequence, record));
        }
        self.next = next;
        Ok(taken)
    }

    /// Writes how a step leaves the event's account, unless a later event has been there.
    fn leave_account(
        &self,
        group: &mut Group,
        sequence: Sequence,
        integration: &str,
        change: Option<AccountChange>,
    ) -> Result<(), StoreError> {
        let Some(AccountChange { account, status }) = change else { return Ok(()) };
        let name = Name::of_account(integration, &account);
        let known = self.account_state(group, name)?;
        if known.as_ref().is_none_or(|known| known.sequence <= sequence) {
            // What was kept of an event that is gone holds no longer.
            if known.is_some_and(|known| known.status.is_none()) {
                group.remove(&account_key(name.as_bytes()));
            }
            let account_state = AccountState { sequence, status: Some(status) };
            group.enter(Entry { name, number: account_state.to_number() });
        }
        Ok(())
    }

    pub(super) fn amend(
        &self,
        group: &mut Group,
        id: EventId,
        action: OperatorAction,
        now: Timestamp,
    ) -> Result<(Sequence, EventRecord, bool), StoreError> {
        let (sequence, record) = self.known(group, id)?.ok_or(StoreError::NotFound)?;
        let mut record = EventRecord::clone(&record);
        let before = record.state;
        let was_unfinished = before.is_unfinished();
        let account = record.apply_operator_action(action.into(), now)?;
        record.note_seen(self.seen);
        let encoded = codec::encode(&record)?;
        self.leave_account(group, sequence, &record.integration, account)?;
        if was_unfinished && !lock(&self.lookup.scheduler).lock(sequence) {
            return Err(StoreError::Locked);
        }
        match (was_unfinished, record.state.is_unfinished()) {
            (false, true) => {
                group.put(key(IN_PROGRESS, sequence), encoded);
                group.remove(&key(ENDED, sequence));
            }
            (true, true) => group.put(key(IN_PROGRESS, sequence), encoded),
            (true, false) => group.end(sequence, record.id, encoded),
            (false, false) => group.put(key(ENDED, sequence), encoded),
        }
        group.leave(sequence, Some(before), Arc::new(record.clone()));
        Ok((sequence, record, was_unfinished))
    }

    /// Removes what was found to be done and old, unless it is so no longer.
    pub(super) fn prune(
        &self,
        group: &mut Group,
        found: &[Sequence],
        moment: Timestamp,
    ) -> Result<Removed, StoreError> {
        let mut removed = Removed { count: 0, left: None };
        for &sequence in found {
            // A long body has many keys, and nobody is to wait for all of them.
            if group.length() >= BATCH {
                removed.left = Some(sequence);
                break;
            }
            let ended = key(ENDED, sequence);
            let is_touched = group.has_left(sequence) || group.is_pruned(sequence);
            // The newest of all stays: the next one takes the number after it.
            if is_touched
                || sequence + 1 >= self.next
                || self.lookup.tree.contains_key(key(IN_PROGRESS, sequence)).map_err(failed)?
            {
                continue;
            }
            let Some(bytes) = self.lookup.tree.get(ended).map_err(failed)? else { continue };
            let Ok(record) = codec::decode(&bytes) else { continue };
            if !is_old(&record, moment) {
                continue;
            }
            for chunk in self.lookup.tree.scan_prefix(key(BODY, sequence)).keys() {
                group.remove(&chunk.map_err(failed)?);
            }
            self.keep_status(group, sequence, &record)?;
            group.remove(&ended);
            group.prune(sequence, record.state);
            removed.count += 1;
        }
        Ok(removed)
    }

    /// Keeps the status that an event left its account in, if the index leads to the event for it.
    fn keep_status(&self, group: &mut Group, sequence: Sequence, record: &EventRecord) -> Result<(), StoreError> {
        let Some(AccountChange { account, status }) = record.account_effect() else { return Ok(()) };
        let name = Name::of_account(&record.integration, &account);
        let account_state = self.account_state(group, name)?;
        if account_state.is_some_and(|known| known.sequence == sequence && known.status.is_none()) {
            let status = serde_json::to_vec(&status).map_err(unreadable)?;
            group.put(account_key(name.as_bytes()), status);
        }
        Ok(())
    }

    /// How an account stands, as the group so far leaves it.
    fn account_state(&self, group: &Group, name: Name) -> Result<Option<AccountState>, StoreError> {
        let number = group.number(name).map_or_else(|| self.lookup.index.get(name), |number| Ok(Some(number)))?;
        Ok(number.and_then(AccountState::from_number))
    }

    pub(super) fn retention(&mut self, group: &mut Group, retention: &Retention) -> Result<(), StoreError> {
        self.seen = Some(retention.reached());
        group.put(RETENTION_KEY, serde_json::to_vec(retention).map_err(unreadable)?);
        Ok(())
    }

    pub(super) fn create_secret(
        &self,
        group: &mut Group,
        name: &str,
        fresh: SecretSlice<u8>,
    ) -> Result<SecretSlice<u8>, StoreError> {
        if let Some(kept) = self.secret(group, name)? {
            return Ok(kept);
        }
        group.put_secret(name, fresh.clone());
        Ok(fresh)
    }

    pub(super) fn replace_secret(
        &self,
        group: &mut Group,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, StoreError> {
        let kept = self.secret(group, name)?;
        let is_held = kept.is_some_and(|kept| kept.expose_secret() == held.expose_secret());
        if is_held {
            group.put_secret(name, fresh);
        }
        Ok(is_held)
    }

    /// The secret of this name, as the group so far leaves it.
    fn secret(&self, group: &Group, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
        match group.secret(name) {
            Some(secret) => Ok(Some(secret.clone())),
            None => Ok(self.lookup.secret(name)?.map(Into::into)),
        }
    }

    pub(super) fn put_expiring(
        &self,
        group: &mut Group,
        (name, until): ([u8; 16], Timestamp),
        value: SecretSlice<u8>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let end = expiring_key(now, [0; 16]);
        for old in self.lookup.tree.range([EXPIRING].as_slice()..&end).keys().take(FORGOTTEN_AT_ONCE) {
            group.remove(&old.map_err(failed)?);
        }
        let key = expiring_key(until, name);
        if until <= now {
            return Ok(true);
        }
        let is_first = self.expiring(group, &key)?.is_none();
        if is_first {
            group.put_expiring(key, value);
        }
        Ok(is_first)
    }

    pub(super) fn take_expiring(
        &self,
        group: &mut Group,
        (name, until): ([u8; 16], Timestamp),
        now: Timestamp,
    ) -> Result<Option<SecretSlice<u8>>, StoreError> {
        let key = expiring_key(until, name);
        let kept = self.expiring(group, &key)?;
        if kept.is_some() {
            group.remove_expiring(key);
        }
        Ok(kept.filter(|_| until > now))
    }

    /// A secret that is kept for a time, as the group so far leaves it.
    fn expiring(&self, group: &Group, key: &ExpiringKey) -> Result<Option<SecretSlice<u8>>, StoreError> {
        match group.expiring(key) {
            Some(Expiring::Kept(secret)) => Ok(Some(secret.clone())),
            Some(Expiring::Taken) => Ok(None),
            None => Ok(self.lookup.tree.get(key).map_err(failed)?.map(|kept| kept.to_vec().into())),
        }
    }

    /// The event at a place, if it is the one with this id, as the group so far leaves it.
    fn stored(&self, group: &Group, sequence: Sequence, id: EventId) -> Result<Option<EventRecord>, StoreError> {
        let stored = match group.event(id) {
            Some((_, record)) => Some(EventRecord::clone(&record)),
            None => stored_record(&self.lookup.tree, sequence)?,
        };
        Ok(stored.filter(|record| record.id == id))
    }

    /// The event with this id, as the group so far leaves it.
    fn known(&self, group: &Group, id: EventId) -> Result<Option<(Sequence, Arc<EventRecord>)>, StoreError> {
        if let Some(event) = group.event(id) {
            return Ok(Some(event));
        }
        let found = self.lookup.event(id)?.filter(|(sequence, _)| !group.is_pruned(*sequence));
        Ok(found.map(|(sequence, record)| (sequence, Arc::new(record))))
    }
}
