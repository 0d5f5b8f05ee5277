//! What each kind of write comes to: which keys, in which order.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use super::super::{Amendment, Claim, Recorded, Sequence, Settlement, Step, StoreError, StoredEvent, codec};
use super::group::{Group, nonce_key, secret_key};
use super::index::{Entry, Name, Standing};
use super::layout::{BODY, CHUNK, ENDED, IN_PROGRESS, NONCE, key, sequence_of};
use super::writer::{BATCH, Writer};
use super::{failed, find, lock};
use crate::clock::Timestamp;
use crate::event::{AccountChange, EventId, EventRecord, State};

/// Nonces whose time is over that are removed with each new one: more than come, so that they do not gather.
const FORGOTTEN_AT_ONCE: usize = 4;

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
        for (StoredEvent { record, body }, encoded) in events {
            if self.known(group, record.id)?.is_some() {
                continue;
            }
            let sequence = self.next;
            self.next += 1;
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
        Ok(taken)
    }

    pub(super) fn prepare_settle(
        &mut self,
        group: &mut Group,
        mut claim: Claim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        self.check_claim(&claim)?;
        let (change, body) = settlement.into_change();
        let account = claim.record.apply(change, now)?;
        let encoded = codec::encode(&claim.record)?;
        self.leave_account(group, claim.sequence, &claim.record.integration, account)?;
        if let Some(body) = body {
            self.put_body(group, claim.sequence, &body)?;
        }
        if claim.record.state.is_unfinished() {
            group.put(key(IN_PROGRESS, claim.sequence), encoded);
        } else {
            // It may be the first that has ended down there.
            self.kept_to = self.kept_to.min(claim.sequence);
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
        let number = group.number(name).map_or_else(|| self.index.reader().get(name), |number| Ok(Some(number)))?;
        if number.and_then(Standing::from_number).is_none_or(|known| known.sequence <= sequence) {
            let standing = Standing { sequence, status: Some(status) };
            group.enter(Entry { name, number: standing.to_number() });
        }
        Ok(())
    }

    pub(super) fn prepare_amend(
        &mut self,
        group: &mut Group,
        id: EventId,
        amendment: Amendment,
        now: Timestamp,
    ) -> Result<(Sequence, EventRecord, bool), StoreError> {
        let (sequence, record) = self.known(group, id)?.ok_or(StoreError::NotFound)?;
        let mut record = EventRecord::clone(&record);
        let was_unfinished = record.state.is_unfinished();
        let account = record.apply_amendment(amendment.into(), now)?;
        let encoded = codec::encode(&record)?;
        self.kept_to = self.kept_to.min(sequence);
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

    pub(super) fn prepare_prune(
        &mut self,
        group: &mut Group,
        moment: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        let mut only_waiting = true;
        for entry in self.tree.range(key(ENDED, self.kept_to)..key(ENDED, self.next.saturating_sub(1))) {
            let (ended, bytes) = entry.map_err(failed)?;
            let sequence = sequence_of(&ended);
            let record = codec::decode(&bytes)?;
            // They are in order of receipt, and none changes before that. A long body has many keys, and nobody is to
            // wait for all of them.
            if removed == limit || record.received_at >= moment || group.writes.len() >= BATCH {
                break;
            }
            if record.state != State::Done {
                if only_waiting {
                    self.kept_to = sequence + 1;
                }
                continue;
            }
            only_waiting = false;
            if record.updated_at >= moment || group.records.contains_key(&sequence) {
                continue;
            }
            for chunk in self.tree.scan_prefix(key(BODY, sequence)).keys() {
                group.remove(&chunk.map_err(failed)?);
            }
            group.remove(&ended);
            group.pruned.insert(sequence);
            removed += 1;
        }
        // What this group ends is not seen among the ended yet.
        let first = group.records.keys().min().copied();
        self.kept_to = self.kept_to.min(first.unwrap_or(Sequence::MAX));
        Ok(removed)
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
        if let Some(secret) = group.secrets.get(name) {
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
        let is_first = !group.nonces.contains(&key) && !self.tree.contains_key(key).map_err(failed)?;
        if is_first {
            group.nonces.insert(key);
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
        if let Some(sequence) = group.sequences.get(&id) {
            return Ok(Some((*sequence, Arc::clone(&group.records[sequence]))));
        }
        let found = find(&self.tree, self.index.reader(), &self.agenda, id)?
            .filter(|(sequence, _)| !group.pruned.contains(sequence));
        Ok(found.map(|(sequence, record)| (sequence, Arc::new(record))))
    }
}
