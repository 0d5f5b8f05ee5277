//! The one thread that writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretSlice;
use sled::{Db, IVec, Tree};
use tokio::sync::{Notify, mpsc, oneshot};

use super::super::agenda::Agenda;
use super::super::durability::Log;
use super::super::watch::Watches;
use super::super::{
    Advanced, Amendment, Claim, Recorded, Retention, Sequence, Settlement, Step, StoreError, StoredEvent,
};
use super::directory::flush;
use super::group::{Group, refuse};
use super::index::{IndexWriter, Sink, event_place};
use super::layout::{ENDED, key, sequence_of};
use super::prepare::{Removed, prepare_retention};
use super::{failed, lock};
use crate::clock::{Now, Timestamp};
use crate::event::{EventId, EventRecord};

/// Writes that are made durable together at most.
pub(super) const BATCH: usize = 1024;
/// A group of at least this many writes has callers who are likely to be back at once with more.
const BUSY: usize = 8;
/// How long the writer then waits for them: a larger group costs hardly more than a small one.
const GATHER: Duration = Duration::from_micros(120);

/// A write and who waits for it.
pub(super) enum Write {
    Record(Arc<EventRecord>, Vec<u8>, Now, oneshot::Sender<Result<Recorded, StoreError>>),
    Advance(Claim, Step, Now, oneshot::Sender<Result<Advanced, StoreError>>),
    Settle(Claim, Settlement, Now, oneshot::Sender<Result<(), StoreError>>),
    Amend(EventId, Amendment, Now, oneshot::Sender<Result<EventRecord, StoreError>>),
    Prune(Vec<Sequence>, Timestamp, oneshot::Sender<Result<Removed, StoreError>>),
    Retention(Retention, oneshot::Sender<Result<(), StoreError>>),
    Import(Vec<(StoredEvent, Vec<u8>)>, Now, oneshot::Sender<Result<usize, StoreError>>),
    Secret(String, SecretSlice<u8>, oneshot::Sender<Result<SecretSlice<u8>, StoreError>>),
    ReplaceSecret(String, SecretSlice<u8>, SecretSlice<u8>, oneshot::Sender<Result<bool, StoreError>>),
    Nonce([u8; 16], Timestamp, Timestamp, oneshot::Sender<Result<bool, StoreError>>),
    /// A fault in the writer itself.
    #[cfg(test)]
    Panic(oneshot::Sender<Result<(), StoreError>>),
}

/// The one thread that writes.
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) tree: Tree,
    pub(super) index: IndexWriter,
    /// What is synced after each flush; nothing in tests whose flushes are to reach nothing.
    pub(super) log: Option<Log>,
    pub(super) next: Sequence,
    /// Up to when the store's time has come, as retention has noted it.
    pub(super) seen: Option<Timestamp>,
    /// Since when it has been writing the present group.
    pub(super) busy_since: Arc<Mutex<Option<Instant>>>,
    /// Up to here retention has found nothing that is done, but only what waits for somebody.
    pub(super) waiting_to: Arc<AtomicU64>,
    pub(super) agenda: Arc<Mutex<Agenda>>,
    pub(super) changed: Arc<Notify>,
    pub(super) watches: Arc<Watches>,
    pub(super) failure: Arc<OnceLock<StoreError>>,
}

impl Writer {
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Write>) {
        let mut writes = Vec::with_capacity(BATCH);
        let mut last = 0;
        while waiting.blocking_recv_many(&mut writes, BATCH) > 0 {
            if last >= BUSY {
                std::thread::sleep(GATHER);
                while writes.len() < BATCH
                    && let Ok(write) = waiting.try_recv()
                {
                    writes.push(write);
                }
            }
            last = writes.len();
            self.note_busy(Some(Instant::now()));
            let mut group = Group::default();
            for write in writes.drain(..) {
                self.prepare(&mut group, write);
            }
            let durable = self.commit(&mut group);
            if let Err(error) = &durable {
                tracing::error!(%error, writes = group.answers.len(), "writes could not be made durable");
            }
            if durable.is_ok() {
                self.watches.moved(group.whole.records.values().map(|record| record.id));
            }
            let mut agenda = lock(&self.agenda);
            for answer in group.answers {
                answer(durable.clone(), &mut agenda);
            }
            drop(agenda);
            self.changed.notify_one();
            let tended = self.tend_index(group.whole.entries.len());
            if let Err(error) = self.fail_for_ever(tended) {
                tracing::error!(%error, "the index could not be tended");
            }
            self.note_busy(None);
        }
    }

    fn note_busy(&self, since: Option<Instant>) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Makes a group durable. Once that has failed it fails for ever: the log may have a hole, behind which nothing
    /// that is written later would be found again.
    fn commit(&mut self, group: &mut Group) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if group.whole.writes.is_empty() {
            return Ok(());
        }
        let durable = self.apply(group).and_then(|()| flush(&self.db, self.log.as_ref()));
        self.fail_for_ever(durable)?;
        self.index.show(&group.whole.entries);
        Ok(())
    }

    fn fail_for_ever(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        outcome.inspect_err(|error| {
            let _ = self.failure.set(error.clone());
        })
    }

    fn apply(&mut self, group: &mut Group) -> Result<(), StoreError> {
        let tree = self.tree.clone();
        self.write_out(group, &mut |key, value| write(&tree, key, value))
    }

    /// Everything that a group writes, in the order that a crash may cut.
    fn write_out(&mut self, group: &mut Group, write: Sink<'_>) -> Result<(), StoreError> {
        self.index.journal(&group.whole.entries, write)?;
        group.whole.writes.drain(..).try_for_each(|(key, value)| write(key, value))
    }

    /// Lets the index do its share of work for so many entries. What that writes becomes durable with the next group:
    /// nothing is lost without it.
    fn tend_index(&mut self, entries: usize) -> Result<(), StoreError> {
        if entries == 0 || self.failure.get().is_some() {
            return Ok(());
        }
        let tree = self.tree.clone();
        // All that has ended and lies before this waits for somebody.
        let oldest =
            tree.range(key(ENDED, self.waiting_to.load(Ordering::Relaxed))..key(ENDED, Sequence::MAX)).keys().next();
        let oldest = oldest.transpose().map_err(failed)?.map_or(self.next, |key| sequence_of(&key));
        let gone = |number| match event_place(number) {
            Some(sequence) if sequence < oldest => Ok(!tree.contains_key(key(ENDED, sequence)).map_err(failed)?),
            _ => Ok(false),
        };
        self.index.tend(entries, &gone, &mut |key, value| write(&tree, key, value))
    }

    fn prepare(&mut self, group: &mut Group, write: Write) {
        match write {
            Write::Record(record, encoded, now, reply) => {
                let prepared = group.attempt(|group| self.prepare_record(group, &record, encoded));
                group.answers.push(match prepared {
                    Ok((sequence, recorded)) => Box::new(move |durable, agenda| {
                        if durable.is_ok() && recorded == Recorded::New {
                            agenda.add(sequence, &record, now);
                        }
                        let _ = reply.send(durable.map(|()| recorded));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Advance(claim, step, now, reply) => {
                let prepared = group.attempt(|group| self.prepare_advance(group, claim, step, now.wall));
                group.answers.push(match prepared {
                    Ok(claim) => Box::new(move |durable, agenda| {
                        // A claim that is not sent on gives its event back.
                        let advanced = durable.map(|()| {
                            if agenda.advanced(claim.sequence, &claim.record, now) {
                                return Advanced::Proceed(claim);
                            }
                            claim.lease.end();
                            Advanced::Waiting
                        });
                        let _ = reply.send(advanced);
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Settle(claim, settlement, now, reply) => {
                let prepared = group.attempt(|group| self.prepare_settle(group, claim, settlement, now.wall));
                group.answers.push(match prepared {
                    Ok(claim) => Box::new(move |durable, agenda| {
                        if durable.is_ok() {
                            if claim.record.state.is_unfinished() {
                                agenda.free(claim.sequence, claim.record.due_from(now));
                            } else {
                                agenda.remove(claim.sequence);
                            }
                            claim.lease.end();
                        }
                        let _ = reply.send(durable);
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Amend(id, amendment, now, reply) => {
                let prepared = group.attempt(|group| self.prepare_amend(group, id, amendment, now.wall));
                group.answers.push(match prepared {
                    Ok((sequence, record, was_unfinished)) => Box::new(move |durable, agenda| {
                        match &durable {
                            Ok(()) => agenda.amended(sequence, &record, was_unfinished, now),
                            Err(_) => agenda.free(sequence, record.due_from(now)),
                        }
                        let _ = reply.send(durable.map(|()| record));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Prune(found, moment, reply) => {
                group.prepare(reply, |group| self.prepare_prune(group, &found, moment));
            }
            Write::Retention(retention, reply) => {
                self.seen = Some(retention.reached());
                group.prepare(reply, |group| prepare_retention(group, &retention));
            }
            #[cfg(test)]
            Write::Panic(reply) => {
                let _reply = reply;
                panic!("a fault in the writer");
            }
            Write::Import(events, now, reply) => {
                let prepared = group.attempt(|group| self.prepare_import(group, events));
                group.answers.push(match prepared {
                    Ok(taken) => Box::new(move |durable, agenda| {
                        if durable.is_ok() {
                            for (sequence, record) in &taken {
                                if record.state.is_unfinished() {
                                    agenda.add(*sequence, record, now);
                                }
                            }
                        }
                        let _ = reply.send(durable.map(|()| taken.len()));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Secret(name, fresh, reply) => {
                group.prepare(reply, |group| self.prepare_secret(group, &name, fresh));
            }
            Write::ReplaceSecret(name, held, fresh, reply) => {
                group.prepare(reply, |group| self.prepare_replace_secret(group, &name, &held, fresh));
            }
            Write::Nonce(nonce, until, now, reply) => {
                group.prepare(reply, |group| self.prepare_nonce(group, nonce, until, now));
            }
        }
    }
}

fn write(tree: &Tree, key: IVec, value: Option<IVec>) -> Result<(), StoreError> {
    let written = match value {
        Some(value) => tree.insert(key, value),
        None => tree.remove(key),
    };
    written.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::SledStore;
    use super::super::index::Sizes;
    use super::super::layout::{CHUNK, next_sequence};
    use super::*;
    use crate::event::State;
    use crate::store::codec;
    use crate::store::conformance::{at, dead, fetched, notification, wall};
    use crate::store::{EventStore, Filter};

    /// A writer that prepares as the store's own would, and whose flushes reach nothing.
    fn writer_beside(store: &SledStore) -> Writer {
        Writer {
            db: sled::Config::new().temporary(true).open().expect("opens"),
            tree: store.tree.clone(),
            index: IndexWriter::open(&store.tree, Sizes::default()).expect("opens"),
            log: None,
            next: next_sequence(&store.tree).expect("a number"),
            seen: None,
            busy_since: Arc::default(),
            waiting_to: Arc::default(),
            agenda: Arc::clone(&store.agenda),
            changed: Arc::default(),
            watches: Arc::default(),
            failure: Arc::default(),
        }
    }

    /// A crash between any two writes of a group leaves a store that opens, knows every event that was acknowledged
    /// before, once, and takes the unfinished step again.
    #[tokio::test]
    async fn a_group_that_a_crash_left_applied_in_part_is_as_if_it_had_not_begun_or_had_ended() {
        let long_body = vec![b'x'; 3 * CHUNK];
        let steps: [&[State]; 5] = [
            &[State::Received],
            &[State::Received, State::Fetched],
            &[State::Fetched, State::Done],
            &[State::Done, State::Fetched],
            &[State::Done],
        ];
        for (step, allowed) in steps.into_iter().enumerate() {
            for applied in 0.. {
                let directory = tempfile::tempdir().expect("a directory");
                let store = SledStore::open(directory.path(), false, at(0)).expect("opens");
                store.record(&notification("before"), at(0)).await.expect("recorded");
                let claim = store.claim(at(0), &[]).await.expect("answers").expect("the one before");
                store.settle(claim, dead("out of the way"), at(0)).await.expect("settled");
                let id = notification("1").id();
                if step > 0 {
                    store.record(&notification("1"), at(0)).await.expect("recorded");
                }
                let mut claim = None;
                if step > 1 {
                    let received = store.claim(at(1), &[]).await.expect("answers").expect("the event");
                    let fetched = store.advance(received, fetched(None, b"{}"), at(1)).await.expect("fetched");
                    let Advanced::Proceed(fetched) = fetched else { panic!("nothing is in its way") };
                    claim = Some(fetched);
                }
                if step >= 3 {
                    store.settle(claim.take().expect("held"), Settlement::Done(None), at(2)).await.expect("settled");
                }
                if step == 1 {
                    claim = store.claim(at(1), &[]).await.expect("answers");
                }

                if step == 4 {
                    store.record(&notification("newer"), at(2)).await.expect("recorded");
                    let newer = store.claim(at(2), &[]).await.expect("answers").expect("the newer one");
                    store.settle(newer, dead("out of the way"), at(2)).await.expect("settled");
                }

                // What the writer would write for the next step, cut off after `applied` writes.
                let mut writer = writer_beside(&store);
                let mut group = Group::default();
                match step {
                    0 => {
                        let record = Arc::new(EventRecord::new(&notification("1"), wall(1)));
                        let encoded = codec::encode(&record).expect("encodes");
                        writer.prepare_record(&mut group, &record, encoded).map(drop)
                    }
                    1 => writer
                        .prepare_advance(&mut group, claim.take().expect("held"), fetched(None, &long_body), wall(2))
                        .map(drop),
                    2 => writer
                        .prepare_settle(&mut group, claim.take().expect("held"), Settlement::Done(None), wall(2))
                        .map(drop),
                    3 => writer.prepare_amend(&mut group, id, Amendment::Rerun, wall(3)).map(drop),
                    _ => writer.prepare_prune(&mut group, &[1], wall(3)).map(drop),
                }
                .expect("prepared");
                group.attempt(|_| Ok(())).expect("taken in");
                let mut left: usize = applied;
                let tree = store.tree.clone();
                let written = writer.write_out(&mut group, &mut |key, value| {
                    left = left.checked_sub(1).ok_or(StoreError::Overloaded)?;
                    write(&tree, key, value)
                });
                let is_whole = written.is_ok();
                drop((writer, store, tree));

                let store = SledStore::open(directory.path(), false, at(0)).expect("opens");
                let event = store.event(id).await.expect("answers");
                if let Some(event) = &event {
                    assert!(allowed.contains(&event.state), "step {step} after {applied} writes: {}", event.state);
                } else {
                    assert!((step == 0 && !is_whole) || step == 4, "step {step} after {applied} writes: gone");
                }
                // Another event takes the next place, and neither is confused with the other.
                let fresh = store.record(&notification("2"), at(9)).await.expect("recorded");
                assert_eq!(fresh, Recorded::New);
                let again = store.record(&notification("1"), at(9)).await.expect("recorded");
                assert_eq!(again == Recorded::New, event.is_none(), "step {step} after {applied} writes");
                let page = store.list(&Filter::default(), None, 10).await.expect("listed");
                let mut ids: Vec<_> = page.events.iter().map(|event| event.id).collect();
                ids.dedup();
                assert_eq!(ids.len(), 3 + usize::from(step == 4), "step {step} after {applied} writes: {page:?}");
                let mut held = Vec::new();
                while let Some(claim) = store.claim(at(10), &[]).await.expect("answers") {
                    if claim.event().id != id || claim.event().state != State::Received {
                        held.push(claim);
                        continue;
                    }
                    let advanced = store.advance(claim, fetched(None, b"short"), at(10)).await.expect("fetched");
                    let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
                    held.push(claim);
                    assert_eq!(store.body(id).await.expect("read").expect("kept").bytes, b"short");
                }
                let claimable = held.len();
                let is_unfinished =
                    store.event(id).await.expect("answers").is_some_and(|event| event.state.is_unfinished());
                assert_eq!(claimable, 1 + usize::from(is_unfinished), "step {step} after {applied} writes");
                if is_whole {
                    break;
                }
            }
        }
    }
}
