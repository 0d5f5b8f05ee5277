//! What each kind of write comes to: which keys, in which order.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use super::super::{Amendment, Claim, Recorded, Retention, Sequence, Settlement, Step, StoreError, StoredEvent, codec};
use super::group::{Group, nonce_key, secret_key};
use super::index::{Entry, Name, Standing};
use super::layout::{BODY, CHUNK, ENDED, IN_PROGRESS, NONCE, RETENTION_KEY, account_key, key};
use super::prune::is_old;
use super::writer::{BATCH, Writer};
use super::{failed, find, lock};
use crate::clock::Timestamp;
use crate::event::{AccountChange, EventId, EventRecord};

/// Nonces whose time is over that are removed with each new one: more than come, so that they do not gather.
const FORGOTTEN_AT_ONCE: usize = 4;

/// What was removed of what had been found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) count: usize,
    /// The first that was not come to.
    pub(super) left: Option<Sequence>,
}

pub(super) fn prepare_retention(group: &mut Group, retention: &Retention) -> Result<(), StoreError> {
    let encoded = serde_json::to_vec(retention).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    group.put(RETENTION_KEY, encoded);
    Ok(())
}

impl Writer {
    pub(super) fn prepare_record(
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
        group.leave(sequence, Arc::clone(record));
        Ok((sequence, Recorded::New))
    }

    pub(super) fn prepare_advance(
        &self,
        group: &mut Group,
        mut claim: Claim,
        step: Step,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        let (change, body) = step.into_change();
        self.check_claim(&claim)?;
        let account = claim.record.apply(change, now)?;
        let encoded = codec::encode(&claim.record)?;
        self.leave_account(group, claim.sequence, &claim.record.integration, account)?;
        if let Some(body) = body {
            self.put_body(group, claim.sequence, &body)?;
        }
        group.put(key(IN_PROGRESS, claim.sequence), encoded);
        group.leave(claim.sequence, Arc::new(claim.record.clone()));
        Ok(claim)
    }

    /// Writes a body in place of whatever is left under its keys.
    fn put_body(&self, group: &mut Group, sequence: Sequence, body: &[u8]) -> Result<(), StoreError> {
        for left in self.tree.scan_prefix(key(BODY, sequence)).keys() {
            group.remove(&left.map_err(failed)?);
        }
        for (chunk, number) in body.chunks(CHUNK).zip(0_u16..) {
            let mut chunk_key = key(BODY, sequence).to_vec();
            chunk_key.extend_from_slice(&number.to_be_bytes());
            group.put(chunk_key, chunk);
        }
        Ok(())
    }

    pub(super) fn prepare_import(
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
            self.put_body(group, sequence, body.as_deref().unwrap_or_default())?;
            self.leave_account(group, sequence, &record.integration, record.account_effect())?;
            if record.state.is_unfinished() {
                group.put(key(IN_PROGRESS, sequence), encoded);
            } else {
                group.end(sequence, record.id, encoded);
            }
            let record = Arc::new(record);
            group.leave(sequence, Arc::clone(&record));
            taken.push((sequence, record));
        }
        self.next = next;
        Ok(taken)
    }

    pub(super) fn prepare_settle(
        &self,
        group: &mut Group,
        mut claim: Claim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        self.check_claim(&claim)?;
        let (change, body) = settlement.into_change();
        let account = claim.record.apply(change, now)?;
        claim.record.note_seen(self.seen);
        let encoded = codec::encode(&claim.record)?;
        self.leave_account(group, claim.sequence, &claim.record.integration, account)?;
        if let Some(body) = body {
            self.put_body(group, claim.sequence, &body)?;
        }
        if claim.record.state.is_unfinished() {
            group.put(key(IN_PROGRESS, claim.sequence), encoded);
        } else {
            group.end(claim.sequence, claim.record.id, encoded);
        }
        group.leave(claim.sequence, Arc::new(claim.record.clone()));
        Ok(claim)
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
        let known = self.standing(group, name)?;
        if known.as_ref().is_none_or(|known| known.sequence <= sequence) {
            // What was kept of an event that is gone holds no longer.
            if known.is_some_and(|known| known.status.is_none()) {
                group.remove(&account_key(name));
            }
            let standing = Standing { sequence, status: Some(status) };
            group.enter(Entry { name, number: standing.to_number() });
        }
        Ok(())
    }

    pub(super) fn prepare_amend(
        &self,
        group: &mut Group,
        id: EventId,
        amendment: Amendment,
        now: Timestamp,
    ) -> Result<(Sequence, EventRecord, bool), StoreError> {
        let (sequence, record) = self.known(group, id)?.ok_or(StoreError::NotFound)?;
        let mut record = EventRecord::clone(&record);
        let was_unfinished = record.state.is_unfinished();
        let account = record.apply_amendment(amendment.into(), now)?;
        record.note_seen(self.seen);
        let encoded = codec::encode(&record)?;
        self.leave_account(group, sequence, &record.integration, account)?;
        if was_unfinished && !lock(&self.agenda).seize(sequence) {
            return Err(StoreError::Held);
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
        group.leave(sequence, Arc::new(record.clone()));
        Ok((sequence, record, was_unfinished))
    }

    /// Removes what was found to be done and old, unless it is so no longer.
    pub(super) fn prepare_prune(
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
                || self.tree.contains_key(key(IN_PROGRESS, sequence)).map_err(failed)?
            {
                continue;
            }
            let Some(bytes) = self.tree.get(ended).map_err(failed)? else { continue };
            let Ok(record) = codec::decode(&bytes) else { continue };
            if !is_old(&record, moment) {
                continue;
            }
            for chunk in self.tree.scan_prefix(key(BODY, sequence)).keys() {
                group.remove(&chunk.map_err(failed)?);
            }
            self.keep_status(group, sequence, &record)?;
            group.remove(&ended);
            group.prune(sequence);
            removed.count += 1;
        }
        Ok(removed)
    }

    /// Keeps the status that an event left its account in, if the index leads to the event for it.
    fn keep_status(&self, group: &mut Group, sequence: Sequence, record: &EventRecord) -> Result<(), StoreError> {
        let Some(AccountChange { account, status }) = record.account_effect() else { return Ok(()) };
        let name = Name::of_account(&record.integration, &account);
        let standing = self.standing(group, name)?;
        if standing.is_some_and(|known| known.sequence == sequence && known.status.is_none()) {
            let status = serde_json::to_vec(&status).map_err(|error| StoreError::Unreadable(error.to_string()))?;
            group.put(account_key(name), status);
        }
        Ok(())
    }

    /// How an account stands, as the group so far leaves it.
    fn standing(&self, group: &Group, name: Name) -> Result<Option<Standing>, StoreError> {
        let number = group.number(name).map_or_else(|| self.index.reader().get(name), |number| Ok(Some(number)))?;
        Ok(number.and_then(Standing::from_number))
    }

    pub(super) fn prepare_secret(
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

    pub(super) fn prepare_replace_secret(
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
        if let Some(secret) = group.secret(name) {
            return Ok(Some(secret.clone()));
        }
        let kept = self.tree.get(secret_key(name)).map_err(failed)?;
        Ok(kept.map(|kept| kept.to_vec().into()))
    }

    pub(super) fn prepare_nonce(
        &self,
        group: &mut Group,
        nonce: [u8; 16],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let end = nonce_key(now, [0; 16]);
        for old in self.tree.range([NONCE].as_slice()..&end).keys().take(FORGOTTEN_AT_ONCE) {
            group.remove(&old.map_err(failed)?);
        }
        let key = nonce_key(until, nonce);
        if until <= now {
            return Ok(true);
        }
        let is_first = !self.tree.contains_key(key).map_err(failed)? && group.use_nonce(key);
        if is_first {
            group.put(key, &[]);
        }
        Ok(is_first)
    }

    fn check_claim(&self, claim: &Claim) -> Result<(), StoreError> {
        let held = lock(&self.agenda).is_held(claim.sequence, &claim.lease);
        if held { Ok(()) } else { Err(StoreError::ClaimLost) }
    }

    /// The event with this id, as the group so far leaves it.
    fn known(&self, group: &Group, id: EventId) -> Result<Option<(Sequence, Arc<EventRecord>)>, StoreError> {
        if let Some(event) = group.event(id) {
            return Ok(Some(event));
        }
        let found = find(&self.tree, self.index.reader(), &self.agenda, id)?
            .filter(|(sequence, _)| !group.is_pruned(*sequence));
        Ok(found.map(|(sequence, record)| (sequence, Arc::new(record))))
    }
}
