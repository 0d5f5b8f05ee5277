//! The one thread that writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use secrecy::SecretSlice;
use sled::{Db, IVec, Tree};
use tokio::sync::{Notify, mpsc, oneshot};

use super::counter::Counter;
use super::directory::flush;
use super::durability::Log;
use super::error::failed;
use super::group::{BATCH, Group, refuse};
use super::index::{IndexWriter, Sink, event_place};
use super::layout::{ENDED, key, sequence_of};
use super::prepare::{Preparer, Removed, Step};
use crate::clock::{Now, Timestamp};
use crate::event::{EventId, EventRecord};
use crate::store::error::StoreError;
use crate::store::history::Counts;
use crate::store::inbox::{OperatorAction, Recorded};
use crate::store::local::lock;
use crate::store::local::subscriptions::Subscriptions;
use crate::store::retention::Retention;
use crate::store::stored_event::{Sequence, StoredEvent};

/// A group of at least this many writes has callers who are likely to be back at once with more.
const BUSY: usize = 8;
/// How long the writer then waits for them: a larger group costs hardly more than a small one.
const GATHER: Duration = Duration::from_micros(120);

/// Who waits for a write.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A write and who waits for it.
pub(super) enum Write {
    Record(Arc<EventRecord>, Vec<u8>, Now, Reply<Recorded>),
    /// Answered with the event, and whether its holder may go on.
    Advance(Step, Reply<(Arc<EventRecord>, bool)>),
    Settle(Step, Reply<()>),
    Amend(EventId, OperatorAction, Now, Reply<EventRecord>),
    Prune(Vec<Sequence>, Timestamp, Reply<Removed>),
    Retention(Retention, Reply<()>),
    Import(Vec<(StoredEvent, Vec<u8>)>, Now, Reply<usize>),
    CreateSecret(String, SecretSlice<u8>, Reply<SecretSlice<u8>>),
    ReplaceSecret(String, SecretSlice<u8>, SecretSlice<u8>, Reply<bool>),
    PutExpiring(([u8; 16], Timestamp), SecretSlice<u8>, Timestamp, Reply<bool>),
    TakeExpiring(([u8; 16], Timestamp), Timestamp, Reply<Option<SecretSlice<u8>>>),
    /// Answered with nothing until all are counted: some are with each of these.
    Count(Reply<Option<Counts>>),
    /// Nothing, behind everything that was asked before.
    Barrier(Reply<()>),
    /// A fault in the writer itself.
    #[cfg(test)]
    Panic(Reply<()>),
}

/// The one thread that writes.
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) index: IndexWriter,
    pub(super) preparer: Preparer,
    /// What is synced after each flush; nothing in tests whose flushes are to reach nothing.
    pub(super) log: Option<Log>,
    /// Since when it has been writing the present group.
    pub(super) busy_since: Arc<Mutex<Option<Instant>>>,
    /// Up to here retention has found nothing that is done, but only what waits for somebody.
    pub(super) waiting_to: Arc<AtomicU64>,
    /// Nothing until somebody asks.
    pub(super) counter: Option<Counter>,
    pub(super) wakeup: Arc<Notify>,
    pub(super) subscriptions: Arc<Subscriptions>,
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
                self.subscriptions.publish(group.whole.records.values().map(|record| record.id));
            }
            let mut scheduler = lock(&self.preparer.lookup.scheduler);
            for answer in group.answers {
                answer(durable.clone(), &mut scheduler);
            }
            drop(scheduler);
            self.wakeup.notify_one();
            let tended = self.compact_index(group.whole.entries.len());
            if let Err(error) = self.poison(tended) {
                tracing::error!(%error, "the index could not be compacted");
            }
            self.note_busy(None);
        }
    }

    fn note_busy(&self, since: Option<Instant>) {
        *lock(&self.busy_since) = since;
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
        self.poison(durable)?;
        self.index.show(&group.whole.entries);
        if let Some(counter) = &mut self.counter {
            counter.note(&group.whole.moves);
        }
        Ok(())
    }

    fn poison(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        outcome.inspect_err(|error| {
            let _ = self.failure.set(error.clone());
        })
    }

    fn apply(&mut self, group: &mut Group) -> Result<(), StoreError> {
        let tree = self.preparer.lookup.tree.clone();
        self.write_out(group, &mut |key, value| write(&tree, key, value))
    }

    /// Everything that a group writes, in the order that a crash may cut.
    fn write_out(&mut self, group: &mut Group, write: Sink<'_>) -> Result<(), StoreError> {
        self.index.log_ahead(&group.whole.entries, write)?;
        group.whole.writes.drain(..).try_for_each(|(key, value)| write(key, value))
    }

    /// Lets the index do its share of work for so many entries. What that writes becomes durable with the next group:
    /// nothing is lost without it.
    fn compact_index(&mut self, entries: usize) -> Result<(), StoreError> {
        if entries == 0 || self.failure.get().is_some() {
            return Ok(());
        }
        let tree = self.preparer.lookup.tree.clone();
        // All that has ended and lies before this waits for somebody.
        let oldest =
            tree.range(key(ENDED, self.waiting_to.load(Ordering::Relaxed))..key(ENDED, Sequence::MAX)).keys().next();
        let oldest = oldest.transpose().map_err(failed)?.map_or(self.preparer.next, |key| sequence_of(&key));
        let gone = |number| match event_place(number) {
            Some(sequence) if sequence < oldest => Ok(!tree.contains_key(key(ENDED, sequence)).map_err(failed)?),
            _ => Ok(false),
        };
        self.index.compact(entries, &gone, &mut |key, value| write(&tree, key, value))
    }

    fn prepare(&mut self, group: &mut Group, write: Write) {
        let preparer = &mut self.preparer;
        match write {
            Write::Record(record, encoded, now, reply) => prepare_record(preparer, group, record, encoded, now, reply),
            Write::Advance(step, reply) => prepare_advance(preparer, group, step, reply),
            Write::Settle(step, reply) => prepare_settle(preparer, group, step, reply),
            Write::Amend(id, action, now, reply) => prepare_amend(preparer, group, id, action, now, reply),
            Write::Import(events, now, reply) => prepare_import(preparer, group, events, now, reply),
            Write::Prune(found, moment, reply) => {
                group.prepare(reply, |group| preparer.prune(group, &found, moment));
            }
            Write::Retention(retention, reply) => group.prepare(reply, |group| preparer.retention(group, &retention)),
            Write::CreateSecret(name, fresh, reply) => {
                group.prepare(reply, |group| preparer.create_secret(group, &name, fresh));
            }
            Write::ReplaceSecret(name, held, fresh, reply) => {
                group.prepare(reply, |group| preparer.replace_secret(group, &name, &held, fresh));
            }
            Write::PutExpiring(name, value, now, reply) => {
                group.prepare(reply, |group| preparer.put_expiring(group, name, value, now));
            }
            Write::TakeExpiring(name, now, reply) => {
                group.prepare(reply, |group| preparer.take_expiring(group, name, now));
            }
            Write::Count(reply) => {
                let next = preparer.next;
                let counter = self.counter.get_or_insert_with(|| Counter::new(next));
                group.prepare(reply, |_| counter.go_on(&preparer.lookup.tree));
            }
            Write::Barrier(reply) => group.prepare(reply, |_| Ok(())),
            #[cfg(test)]
            Write::Panic(reply) => {
                let _reply = reply;
                panic!("a fault in the writer");
            }
        }
    }
}

fn prepare_record(
    preparer: &mut Preparer,
    group: &mut Group,
    record: Arc<EventRecord>,
    encoded: Vec<u8>,
    now: Now,
    reply: Reply<Recorded>,
) {
    let outcome = group.attempt(|group| preparer.record(group, &record, encoded));
    group.answers.push(match outcome {
        Ok((sequence, recorded)) => Box::new(move |durable, scheduler| {
            if durable.is_ok() && recorded == Recorded::New {
                scheduler.add(sequence, &record, now);
            }
            let _ = reply.send(durable.map(|()| recorded));
        }),
        Err(error) => refuse(reply, error),
    });
}

fn prepare_advance(preparer: &Preparer, group: &mut Group, step: Step, reply: Reply<(Arc<EventRecord>, bool)>) {
    let outcome = group.attempt(|group| preparer.step(group, step, false));
    group.answers.push(match outcome {
        Ok(taken) => Box::new(move |durable, scheduler| {
            let advanced = durable.map(|()| {
                let proceeds = scheduler.advanced(&taken.lease, taken.number, &taken.record, taken.now);
                if !proceeds {
                    taken.lease.end();
                }
                (taken.record, proceeds)
            });
            let _ = reply.send(advanced);
        }),
        Err(error) => refuse(reply, error),
    });
}

fn prepare_settle(preparer: &Preparer, group: &mut Group, step: Step, reply: Reply<()>) {
    let outcome = group.attempt(|group| preparer.step(group, step, true));
    group.answers.push(match outcome {
        Ok(taken) => Box::new(move |durable, scheduler| {
            if durable.is_ok() {
                scheduler.settled(&taken.lease, &taken.record, taken.now);
                taken.lease.end();
            }
            let _ = reply.send(durable);
        }),
        Err(error) => refuse(reply, error),
    });
}

fn prepare_amend(
    preparer: &Preparer,
    group: &mut Group,
    id: EventId,
    action: OperatorAction,
    now: Now,
    reply: Reply<EventRecord>,
) {
    let outcome = group.attempt(|group| preparer.amend(group, id, action, now.wall));
    group.answers.push(match outcome {
        Ok((sequence, record, was_unfinished)) => Box::new(move |durable, scheduler| {
            match &durable {
                Ok(()) => scheduler.amended(sequence, &record, was_unfinished, now),
                Err(_) if was_unfinished => scheduler.release(sequence, record.due_from(now)),
                // It was locked for nobody: who holds it now holds it for another step.
                Err(_) => {}
            }
            let _ = reply.send(durable.map(|()| record));
        }),
        Err(error) => refuse(reply, error),
    });
}

fn prepare_import(
    preparer: &mut Preparer,
    group: &mut Group,
    events: Vec<(StoredEvent, Vec<u8>)>,
    now: Now,
    reply: Reply<usize>,
) {
    let outcome = group.attempt(|group| preparer.import(group, events));
    group.answers.push(match outcome {
        Ok(taken) => Box::new(move |durable, scheduler| {
            if durable.is_ok() {
                for (sequence, record) in &taken {
                    if record.state.is_unfinished() {
                        scheduler.add(*sequence, record, now);
                    }
                }
            }
            let _ = reply.send(durable.map(|()| taken.len()));
        }),
        Err(error) => refuse(reply, error),
    });
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
    use super::super::index::Sizes;
    use super::super::layout::CHUNK;
    use super::super::lookup::Lookup;
    use super::super::prepare::in_chunks;
    use super::super::records::next_sequence;
    use super::super::store::SledStore;
    use super::*;
    use crate::event::State;
    use crate::store::codec;
    use crate::store::conformance::{at, body as body_of, claim as take, dead, fetched, notification, record, wall};
    use crate::store::{Advanced, Claim, Completion, Filter, History, Inbox, Progress, Queue};

    /// A writer that prepares as the store's own would, and whose flushes reach nothing.
    fn writer_beside(store: &SledStore) -> Writer {
        let index = IndexWriter::open(&store.lookup.tree, Sizes::default()).expect("opens");
        let lookup = Lookup { index: index.reader().clone(), ..store.lookup.clone() };
        let next = next_sequence(&lookup.tree).expect("a number");
        Writer {
            db: sled::Config::new().temporary(true).open().expect("opens"),
            index,
            preparer: Preparer { lookup, next, seen: None },
            log: None,
            busy_since: Arc::default(),
            waiting_to: Arc::default(),
            wakeup: Arc::default(),
            counter: None,
            subscriptions: Arc::default(),
            failure: Arc::default(),
        }
    }

    /// A step as its holder asks for it.
    fn asked(claim: &Claim, change: crate::event::Change, body: Option<&[u8]>) -> Step {
        let before = Arc::clone(&claim.record);
        Step { lease: claim.lease(), number: claim.step, before, change, body: body.map(in_chunks), now: at(2) }
    }

    /// A crash between any two writes of a group leaves a store that opens, knows every event that was acknowledged
    /// before, once, and takes the unfinished step again.
    #[expect(clippy::too_many_lines, reason = "one story, for each step at which it may be cut")]
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
                let claim = take(&store, at(0)).await.expect("the one before");
                store.settle(claim, &dead("out of the way"), at(0)).await.expect("settled");
                let id = notification("1").id();
                if step > 0 {
                    store.record(&notification("1"), at(0)).await.expect("recorded");
                }
                let mut claim = None;
                if step > 1 {
                    let received = take(&store, at(1)).await.expect("the event");
                    let fetched = store.advance(received, &fetched(None, b"{}"), at(1)).await.expect("fetched");
                    let Advanced::Proceed(fetched) = fetched else { panic!("nothing is in its way") };
                    claim = Some(fetched);
                }
                if step >= 3 {
                    store.settle(claim.take().expect("held"), &Completion::Done(None), at(2)).await.expect("settled");
                }
                if step == 1 {
                    claim = take(&store, at(1)).await;
                }

                if step == 4 {
                    store.record(&notification("newer"), at(2)).await.expect("recorded");
                    let newer = take(&store, at(2)).await.expect("the newer one");
                    store.settle(newer, &dead("out of the way"), at(2)).await.expect("settled");
                }

                // What the writer would write for the next step, cut off after `applied` writes.
                let mut writer = writer_beside(&store);
                let mut group = Group::default();
                match step {
                    0 => {
                        let record = Arc::new(EventRecord::new(&notification("1"), wall(1)));
                        let encoded = codec::encode(&record).expect("encodes");
                        writer.preparer.record(&mut group, &record, encoded).map(drop)
                    }
                    1 => {
                        let progress: Progress = fetched(None, &long_body);
                        let step = asked(claim.as_ref().expect("held"), progress.change(), progress.body());
                        writer.preparer.step(&mut group, step, false).map(drop)
                    }
                    2 => {
                        let step = asked(claim.as_ref().expect("held"), Completion::Done(None).change(), None);
                        writer.preparer.step(&mut group, step, true).map(drop)
                    }
                    3 => writer.preparer.amend(&mut group, id, OperatorAction::Rerun, wall(3)).map(drop),
                    _ => writer.preparer.prune(&mut group, &[1], wall(3)).map(drop),
                }
                .expect("prepared");
                group.attempt(|_| Ok(())).expect("taken in");
                let mut left: usize = applied;
                let tree = store.lookup.tree.clone();
                let written = writer.write_out(&mut group, &mut |key, value| {
                    left = left.checked_sub(1).ok_or(StoreError::Overloaded)?;
                    write(&tree, key, value)
                });
                let is_whole = written.is_ok();
                drop((writer, store, tree, claim));

                let store = SledStore::open(directory.path(), false, at(0)).expect("opens");
                let event = record(&store, id).await;
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
                while let Some(claim) = take(&store, at(10)).await {
                    if claim.event().id != id || claim.event().state != State::Received {
                        held.push(claim);
                        continue;
                    }
                    let advanced = store.advance(claim, &fetched(None, b"short"), at(10)).await.expect("fetched");
                    let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
                    held.push(claim);
                    assert_eq!(body_of(&store, id).await.expect("kept").bytes, b"short");
                }
                let claimable = held.len();
                let is_unfinished = record(&store, id).await.is_some_and(|event| event.state.is_unfinished());
                assert_eq!(claimable, 1 + usize::from(is_unfinished), "step {step} after {applied} writes");
                if is_whole {
                    break;
                }
            }
        }
    }
}
