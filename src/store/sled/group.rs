//! Writes that become durable together, and what to do once they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use sled::IVec;
use tokio::sync::oneshot;

use super::index::{Entry, Name};
use super::layout::{ENDED, ExpiringKey, IN_PROGRESS, key, secret_key};
use crate::event::{EventId, EventRecord, State};
use crate::store::error::StoreError;
use crate::store::local::scheduler::Scheduler;
use crate::store::stored_event::Sequence;

/// Writes that are made durable together at most.
pub(super) const BATCH: usize = 1024;

/// Writes that become durable together, and who waits for them.
///
/// An operation is prepared apart, seeing what those before it leave, and joins the group once all of it is prepared:
/// one that fails on the way leaves nothing in it.
#[derive(Default)]
pub(super) struct Group {
    /// What is to be made durable.
    pub(super) whole: Changes,
    /// What is being prepared.
    part: Changes,
    pub(super) answers: Vec<Answer>,
}

/// Writes, and what they leave behind.
#[derive(Default)]
pub(super) struct Changes {
    /// Keys and their new values, in the order in which they are written; nothing for a key that goes.
    pub(super) writes: Vec<(IVec, Option<IVec>)>,
    /// What is added to the index, before any of the writes.
    pub(super) entries: Vec<Entry>,
    /// Records as they are left.
    pub(super) records: HashMap<Sequence, Arc<EventRecord>>,
    sequences: HashMap<EventId, Sequence>,
    secrets: HashMap<String, SecretSlice<u8>>,
    /// Secrets that are kept for a time, as they are left.
    expiring: HashMap<ExpiringKey, Expiring>,
    /// Events that go from one state to another, appear, or go.
    pub(super) moves: Vec<Move>,
    /// Events that are removed.
    pruned: HashSet<Sequence>,
}

/// The state of an event before and after; nothing where there was none, or is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) sequence: Sequence,
    pub(super) before: Option<State>,
    pub(super) after: Option<State>,
}

/// A secret that is kept for a time, as a group leaves it.
pub(super) enum Expiring {
    Kept(SecretSlice<u8>),
    Taken,
}

impl Changes {
    /// Adds what `other` has, which comes later, and leaves that empty.
    fn take_over(&mut self, other: &mut Self) {
        self.writes.append(&mut other.writes);
        self.entries.append(&mut other.entries);
        self.records.extend(other.records.drain());
        self.sequences.extend(other.sequences.drain());
        self.secrets.extend(other.secrets.drain());
        self.expiring.extend(other.expiring.drain());
        self.moves.append(&mut other.moves);
        self.pruned.extend(other.pruned.drain());
    }
}

/// Called with whether the group is durable.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>, &mut Scheduler) + Send>;

impl Group {
    /// Takes in what `prepare` prepares, or nothing of it if that fails.
    pub(super) fn attempt<T>(
        &mut self,
        prepare: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let prepared = prepare(self);
        match &prepared {
            Ok(_) => self.whole.take_over(&mut self.part),
            Err(_) => self.part = Changes::default(),
        }
        prepared
    }

    /// Takes in what `prepare` prepares, and tells once it is durable, or at once why it was not prepared.
    pub(super) fn prepare<T: Send + 'static>(
        &mut self,
        reply: oneshot::Sender<Result<T, StoreError>>,
        prepare: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) {
        let answer: Answer = match self.attempt(prepare) {
            Ok(value) => Box::new(move |durable, _| {
                let _ = reply.send(durable.map(|()| value));
            }),
            Err(error) => refuse(reply, error),
        };
        self.answers.push(answer);
    }

    /// Writes that were prepared so far.
    pub(super) fn length(&self) -> usize {
        self.whole.writes.len() + self.part.writes.len()
    }

    pub(super) fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<IVec>) {
        self.part.writes.push((key.as_ref().into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.part.writes.push((key.into(), None));
    }

    /// Adds to the index.
    pub(super) fn enter(&mut self, entry: Entry) {
        self.part.entries.push(entry);
    }

    /// What this group has added to the index under `name`.
    pub(super) fn number(&self, name: Name) -> Option<u64> {
        let entries = self.part.entries.iter().rev().chain(self.whole.entries.iter().rev());
        entries.into_iter().find(|entry| entry.name == name).map(|entry| entry.number)
    }

    /// Moves an event from those in progress to those that have ended.
    pub(super) fn end(&mut self, sequence: Sequence, id: EventId, encoded: Vec<u8>) {
        self.enter(Entry { name: Name::of_event(id), number: sequence });
        self.put(key(ENDED, sequence), encoded);
        self.remove(&key(IN_PROGRESS, sequence));
    }

    /// Notes how this group leaves an event that was in the state `before`, or was not there.
    pub(super) fn leave(&mut self, sequence: Sequence, before: Option<State>, record: Arc<EventRecord>) {
        self.part.moves.push(Move { sequence, before, after: Some(record.state) });
        self.part.sequences.insert(record.id, sequence);
        self.part.records.insert(sequence, record);
    }

    /// The event with this id as the group leaves it, if it does.
    pub(super) fn event(&self, id: EventId) -> Option<(Sequence, Arc<EventRecord>)> {
        let sequence = self.part.sequences.get(&id).or_else(|| self.whole.sequences.get(&id))?;
        let record = self.part.records.get(sequence).or_else(|| self.whole.records.get(sequence))?;
        Some((*sequence, Arc::clone(record)))
    }

    /// Whether the group leaves the event at this place another than it was.
    pub(super) fn has_left(&self, sequence: Sequence) -> bool {
        self.part.records.contains_key(&sequence) || self.whole.records.contains_key(&sequence)
    }

    /// Notes that this group removes an event that was in the state `before`.
    pub(super) fn prune(&mut self, sequence: Sequence, before: State) {
        self.part.moves.push(Move { sequence, before: Some(before), after: None });
        self.part.pruned.insert(sequence);
    }

    pub(super) fn is_pruned(&self, sequence: Sequence) -> bool {
        self.part.pruned.contains(&sequence) || self.whole.pruned.contains(&sequence)
    }

    pub(super) fn secret(&self, name: &str) -> Option<&SecretSlice<u8>> {
        self.part.secrets.get(name).or_else(|| self.whole.secrets.get(name))
    }

    /// How this group leaves a secret that is kept for a time, if it does.
    pub(super) fn expiring(&self, key: &ExpiringKey) -> Option<&Expiring> {
        self.part.expiring.get(key).or_else(|| self.whole.expiring.get(key))
    }

    pub(super) fn put_expiring(&mut self, key: ExpiringKey, value: SecretSlice<u8>) {
        self.put(key, value.expose_secret());
        self.part.expiring.insert(key, Expiring::Kept(value));
    }

    pub(super) fn remove_expiring(&mut self, key: ExpiringKey) {
        self.remove(&key);
        self.part.expiring.insert(key, Expiring::Taken);
    }

    pub(super) fn put_secret(&mut self, name: &str, secret: SecretSlice<u8>) {
        self.put(secret_key(name), secret.expose_secret());
        self.part.secrets.insert(name.to_owned(), secret);
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
    use crate::store::conformance::{notification, wall};

    #[test]
    fn of_what_a_group_adds_under_one_name_the_latest_counts() {
        let [name, other] = ["a", "b"].map(|account| Name::of_account("default", account));
        let mut group = Group::default();
        for (name, number) in [(name, 1), (other, 2), (name, 3)] {
            group.enter(Entry { name, number });
        }
        assert_eq!([group.number(name), group.number(other)], [Some(3), Some(2)]);
        group.attempt(|_| Ok(())).expect("prepared");
        assert_eq!([group.number(name), group.number(other)], [Some(3), Some(2)]);
        assert_eq!(group.number(Name::of_account("default", "c")), None);
    }

    #[test]
    fn what_fails_while_it_is_prepared_leaves_nothing_in_the_group() {
        let record = |token: &str| Arc::new(EventRecord::new(&notification(token), wall(0)));
        let prepare = |group: &mut Group, token: &str| {
            let record = record(token);
            group.enter(Entry { name: Name::of_event(record.id), number: 7 });
            group.end(7, record.id, b"record".to_vec());
            group.leave(7, None, record);
            group.put_secret(token, b"secret".to_vec().into());
            group.prune(8, State::Done);
            assert!(group.expiring(&[9; 25]).is_none());
            group.put_expiring([9; 25], vec![1].into());
        };
        let seen = |group: &Group, token: &str| {
            let id = notification(token).id();
            let is_there =
                [group.event(id).is_some(), group.secret(token).is_some(), group.number(Name::of_event(id)).is_some()];
            (is_there, group.has_left(7), group.is_pruned(8), group.length())
        };
        let mut group = Group::default();
        let failed: Result<(), _> = group.attempt(|group| {
            prepare(group, "a");
            assert_eq!(seen(group, "a"), ([true; 3], true, true, 4));
            Err(StoreError::Overloaded)
        });
        assert_eq!(failed, Err(StoreError::Overloaded));
        assert_eq!(seen(&group, "a"), ([false; 3], false, false, 0));
        let prepared = group.attempt(|group| {
            prepare(group, "b");
            Ok(())
        });
        prepared.expect("prepared");
        let failed: Result<(), _> = group.attempt(|group| {
            group.remove(b"key");
            Err(StoreError::Locked)
        });
        assert_eq!(failed, Err(StoreError::Locked));
        assert_eq!(seen(&group, "b"), ([true; 3], true, true, 4));
        assert!(matches!(group.expiring(&[9; 25]), Some(Expiring::Kept(_))));
    }
}
