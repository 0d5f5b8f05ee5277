//! Writes that become durable together, and what to do once they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use sled::IVec;
use tokio::sync::oneshot;

use super::super::agenda::Agenda;
use super::super::{Sequence, StoreError};
use super::index::{Entry, Name};
use super::layout::{ENDED, IN_PROGRESS, NONCE, SECRET, key};
use crate::clock::Timestamp;
use crate::event::{EventId, EventRecord};

/// Bytes of a nonce's key.
const NONCE_KEY: usize = 1 + 8 + 16;

/// Writes that become durable together, what they leave behind, and who waits for them.
#[derive(Default)]
pub(super) struct Group {
    /// Keys and their new values, in the order in which they are written; nothing for a key that goes.
    pub(super) writes: Vec<(IVec, Option<IVec>)>,
    /// What is added to the index, before any of the writes.
    pub(super) entries: Vec<Entry>,
    /// Records as this group leaves them.
    pub(super) records: HashMap<Sequence, Arc<EventRecord>>,
    pub(super) sequences: HashMap<EventId, Sequence>,
    pub(super) secrets: HashMap<String, SecretSlice<u8>>,
    pub(super) nonces: HashSet<[u8; NONCE_KEY]>,
    /// Events that this group removes.
    pub(super) pruned: HashSet<Sequence>,
    pub(super) answers: Vec<Answer>,
}

/// Called with whether the group is durable.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>, &mut Agenda) + Send>;

impl Group {
    pub(super) fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<IVec>) {
        self.writes.push((key.as_ref().into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.writes.push((key.into(), None));
    }

    /// Adds to the index.
    pub(super) fn enter(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// What this group has added to the index under `name`.
    pub(super) fn number(&self, name: Name) -> Option<u64> {
        self.entries.iter().rev().find(|entry| entry.name == name).map(|entry| entry.number)
    }

    /// Moves an event from those in progress to those that have ended.
    pub(super) fn end(&mut self, sequence: Sequence, id: EventId, encoded: Vec<u8>) {
        self.enter(Entry { name: Name::of_event(id), number: sequence });
        self.put(key(ENDED, sequence), encoded);
        self.remove(&key(IN_PROGRESS, sequence));
    }

    /// Notes how this group leaves an event.
    pub(super) fn leave(&mut self, sequence: Sequence, record: Arc<EventRecord>) {
        self.sequences.insert(record.id, sequence);
        self.records.insert(sequence, record);
    }

    pub(super) fn put_secret(&mut self, name: &str, secret: SecretSlice<u8>) {
        self.put(secret_key(name), secret.expose_secret());
        self.secrets.insert(name.to_owned(), secret);
    }
}

pub(super) fn secret_key(name: &str) -> Vec<u8> {
    [&[SECRET], name.as_bytes()].concat()
}

/// In order of the moments, so that those that may be forgotten lie together.
pub(super) fn nonce_key(until: Timestamp, nonce: [u8; 16]) -> [u8; NONCE_KEY] {
    let mut key = [NONCE; NONCE_KEY];
    key[1..9].copy_from_slice(&u64::try_from(until.as_millis()).unwrap_or(0).to_be_bytes());
    key[9..].copy_from_slice(&nonce);
    key
}

/// Tells what was prepared once it is durable, or at once why it was not.
pub(super) fn answer<T: Send + 'static>(
    reply: oneshot::Sender<Result<T, StoreError>>,
    prepared: Result<T, StoreError>,
) -> Answer {
    match prepared {
        Ok(value) => Box::new(move |durable, _| {
            let _ = reply.send(durable.map(|()| value));
        }),
        Err(error) => refuse(reply, error),
    }
}

/// Tells at once why nothing was prepared.
pub(super) fn refuse<T: Send + 'static>(reply: oneshot::Sender<Result<T, StoreError>>, error: StoreError) -> Answer {
    Box::new(move |_, _| {
        let _ = reply.send(Err(error));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_group_adds_under_one_name_the_latest_counts() {
        let [name, other] = ["a", "b"].map(|account| Name::of_account("default", account));
        let mut group = Group::default();
        for (name, number) in [(name, 1), (other, 2), (name, 3)] {
            group.enter(Entry { name, number });
        }
        assert_eq!([group.number(name), group.number(other)], [Some(3), Some(2)]);
        assert_eq!(group.number(Name::of_account("default", "c")), None);
    }
}
