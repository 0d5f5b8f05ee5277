//! Events in a directory of this machine: the store behind `sled:DIR`.
//!
//! One thread writes. It takes every write that waits, applies them, makes that durable and only then answers all
//! of them, so a hundred notifications cost one sync of the disk (group commit).
//!
//! A crash may leave a group applied in part: sled recovers the writes of one thread up to some point in their order.
//! None of those behind the last flush was acknowledged, so it is enough that every write is safe to find without the
//! ones after it:
//!
//! - an index entry comes before its record, and counts only if the record it leads to has its event's id;
//! - a body comes before the record that says it was read, and replaces whatever was left under its keys;
//! - where a record stands both among the ended and in progress, the ended one counts: either the other was about to
//!   be removed, or it was an amendment that nobody was told of.
//!
//! sled's own batches would do the same at the price of two more synchronous writes each.
//!
//! One tree, by prefix of the key:
//!
//! | key | value |
//! |---|---|
//! | `p` sequence | the record (see `codec`) of an event that is in progress |
//! | `e` sequence | the record of an event that has ended: done, deferred or dead |
//! | `b` sequence, chunk | the body as received, in pieces of at most 4 KiB, beside the record so that a change of state does not rewrite it |
//! | `i` bucket, page | where events are by their ids, see `index` |
//! | `s` name | a secret |
//! | `v` | version of this layout |
//!
//! Keys are in order of receipt, so that new events are appended and not scattered over the tree. What is in
//! progress stands apart from what has ended, so that opening the store reads the former only, and a new event costs
//! two keys: every key that is written has its price in sled, however short it is.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};
use sled::{Db, IVec, Tree};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

use super::agenda::Agenda;
use super::durability::{make_synchronous, sync_directory};
use super::index::{Bucket, Pending};
use super::watch::{Watch, Watches};
use super::{
    Advanced, Amendment, Claim, Durability, EventStore, Filter, Page, Recorded, Sequence, Settlement, Step, StoreError,
    codec,
};
use crate::clock::Timestamp;
use crate::event::{Change, EventId, EventRecord, Notification};

/// Writes that may wait; more are refused rather than kept in memory.
const QUEUE: usize = 4096;
/// Writes that are made durable together at most.
const BATCH: usize = 1024;
/// A group of at least this many writes has callers who are likely to be back at once with more.
const BUSY: usize = 8;
/// How long the writer then waits for them: a larger group costs hardly more than a small one.
const GATHER: Duration = Duration::from_micros(120);
/// Bytes of a body under one key. sled keeps larger values in files of their own, which it never syncs.
const CHUNK: usize = 4096;
/// Bytes of sled's page cache: enough for the working set, little enough for a small container.
const CACHE: u64 = 20 << 20;
/// Version of the key layout.
const LAYOUT: &[u8] = b"2";
const LAYOUT_KEY: &[u8] = b"v";
/// Prefix of the records of events in progress.
const IN_PROGRESS: u8 = b'p';
/// Prefix of the records of events that have ended.
const ENDED: u8 = b'e';
/// Lies beside the database and says that it is not new, since a damaged one can open silently empty.
const MARKER: &str = "doorbell-store";
/// sled's own directory within the data directory.
const DATABASE: &str = "sled";
/// Locked by the one process that has the data directory open.
const LOCK: &str = "lock";
/// How long sled's own threads may take to let go of a database that this process has closed.
const RELEASE: Duration = Duration::from_secs(10);

/// Why a data directory could not be opened. Each says what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be made, read or written.
    #[error("the data directory {directory:?} cannot be used: {source}; create it, or make it writable for this user")]
    Directory {
        /// The data directory.
        directory: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "the data directory {directory:?} is in use by another doorbell; stop that one, or set store.url to another directory"
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
    },
    /// The database in it is damaged.
    #[error(
        "the event store in {directory:?} is damaged: {reason}; keep a copy of the directory, then restore a backup \
         or point store.url to a new directory"
    )]
    Damaged {
        /// The data directory.
        directory: PathBuf,
        /// What was found.
        reason: String,
    },
    /// `store.require_durable` is set, and the file system cannot promise it.
    #[error(
        "the file system of {directory:?} has no synchronous-write attributes, and store.require_durable is set; put \
         store.url on ext4, xfs or btrfs, or set store.require_durable = false"
    )]
    NotDurable {
        /// The data directory.
        directory: PathBuf,
    },
}

/// The store behind `sled:DIR`.
#[derive(Debug)]
pub struct SledStore {
    tree: Tree,
    agenda: Arc<Mutex<Agenda>>,
    changed: Arc<Notify>,
    watches: Arc<Watches>,
    durability: Durability,
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
    /// The first failure to make a group durable; nothing is acknowledged after it.
    failure: Arc<OnceLock<StoreError>>,
    /// Released last, when everything else has let go.
    _lock: File,
}

/// A write and who waits for it.
enum Write {
    Record(Arc<EventRecord>, Vec<u8>, oneshot::Sender<Result<Recorded, StoreError>>),
    Advance(Claim, Step, Timestamp, Timestamp, oneshot::Sender<Result<Advanced, StoreError>>),
    Settle(Claim, Settlement, Timestamp, oneshot::Sender<Result<(), StoreError>>),
    Amend(EventId, Amendment, Timestamp, oneshot::Sender<Result<EventRecord, StoreError>>),
    Secret(String, SecretSlice<u8>, oneshot::Sender<Result<SecretSlice<u8>, StoreError>>),
}

impl SledStore {
    /// Opens the store in `directory`, making it if need be.
    ///
    /// Blocks on the disk: call it where that is allowed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, require_durable: bool) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { directory: directory.to_owned(), source };
        let damaged = |reason: String| OpenError::Damaged { directory: directory.to_owned(), reason };

        let database = directory.join(DATABASE);
        std::fs::create_dir_all(&database).map_err(unusable)?;
        let lock = take_lock(directory)?;
        remove_torn_snapshots(&database).map_err(unusable)?;
        let durability = make_synchronous(directory).map_err(unusable)?;
        if require_durable && durability != Durability::Synchronous {
            return Err(OpenError::NotDurable { directory: directory.to_owned() });
        }

        let db = open_database(&database, directory)?;
        let tree: Tree = (*db).clone();
        let marker = directory.join(MARKER);
        let layout = tree.get(LAYOUT_KEY).map_err(|error| damaged(error.to_string()))?;
        match layout.as_deref() {
            Some(LAYOUT) => {}
            Some(other) => {
                let version = String::from_utf8_lossy(other);
                return Err(damaged(format!("it has layout {version}, and this doorbell knows layout 2 only")));
            }
            None if marker.exists() => {
                return Err(damaged("it held events before and is empty now".to_owned()));
            }
            None => {
                tree.insert(LAYOUT_KEY, LAYOUT).map_err(|error| damaged(error.to_string()))?;
                flush(&db, &database, durability).map_err(|error| damaged(error.to_string()))?;
            }
        }
        if !marker.exists() {
            let text = "This directory holds a doorbell event store. Keep this file beside it.\n";
            std::fs::write(&marker, text).map_err(unusable)?;
            File::open(&marker).and_then(|file| file.sync_all()).map_err(unusable)?;
            sync_directory(directory).map_err(unusable)?;
        }

        let agenda = unfinished(&tree).map_err(|error| damaged(error.to_string()))?;
        let next = next_sequence(&tree).map_err(|error| damaged(error.to_string()))?;
        let agenda = Arc::new(Mutex::new(agenda));
        let changed = Arc::new(Notify::new());
        changed.notify_one();
        let watches = Arc::new(Watches::default());
        let failure = Arc::new(OnceLock::new());
        let (writes, waiting) = mpsc::channel(QUEUE);
        let thread = Writer {
            db,
            tree: tree.clone(),
            log: database,
            durability,
            next,
            agenda: Arc::clone(&agenda),
            changed: Arc::clone(&changed),
            watches: Arc::clone(&watches),
            failure: Arc::clone(&failure),
        };
        let handle = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(waiting))
            .map_err(unusable)?;
        Ok(Self {
            tree,
            agenda,
            changed,
            watches,
            durability,
            failure,
            writes: Some(writes),
            writer: Some(handle),
            _lock: lock,
        })
    }

    async fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        writes.try_send(write(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        answer.await.map_err(|_| stopped())?
    }

    /// For writes of work in hand: they wait for their turn instead of being refused, since refusing would only
    /// repeat the work.
    async fn write_in_turn<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        writes.send(write(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn find(&self, id: EventId) -> Result<Option<(Sequence, EventRecord)>, StoreError> {
        for sequence in Bucket::load(&self.tree, &Pending::new(), id)?.places() {
            if let Some(record) = stored_record(&self.tree, sequence)?.filter(|record| record.id == id) {
                return Ok(Some((sequence, record)));
            }
        }
        Ok(None)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            // The writer finishes what waits and lets go of the directory; a panic of its own has been reported.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl EventStore for SledStore {
    async fn record(&self, notification: &Notification, now: Timestamp) -> Result<Recorded, StoreError> {
        let record = EventRecord::new(notification, now);
        // Here and not in the writer, of which there is only one.
        let encoded = codec::encode(&record)?;
        self.write(|reply| Write::Record(Arc::new(record), encoded, reply)).await
    }

    async fn claim(&self, lease: Duration, now: Timestamp) -> Result<Option<Claim>, StoreError> {
        let Some((sequence, fence)) = lock(&self.agenda).claim(lease, now) else { return Ok(None) };
        match stored_record(&self.tree, sequence)? {
            Some(record) => Ok(Some(Claim { record, sequence, fence })),
            None => Err(StoreError::Unreadable(format!("event number {sequence} has no record"))),
        }
    }

    async fn advance(&self, claim: Claim, step: Step, lease: Duration, now: Timestamp) -> Result<Advanced, StoreError> {
        self.write_in_turn(|reply| Write::Advance(claim, step, now, now.plus(lease), reply)).await
    }

    async fn settle(&self, claim: Claim, settlement: Settlement, now: Timestamp) -> Result<(), StoreError> {
        self.write_in_turn(|reply| Write::Settle(claim, settlement, now, reply)).await
    }

    async fn amend(&self, id: EventId, amendment: Amendment, now: Timestamp) -> Result<EventRecord, StoreError> {
        self.write(|reply| Write::Amend(id, amendment, now, reply)).await
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreError> {
        Ok(self.find(id)?.map(|(_, record)| record))
    }

    async fn body(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((sequence, _)) = self.find(id)? else { return Ok(None) };
        let mut chunks = self.tree.scan_prefix(key(b'b', sequence)).values().peekable();
        if chunks.peek().is_none() {
            return Ok(None);
        }
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend_from_slice(&chunk.map_err(failed)?);
        }
        Ok(Some(body))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        let mut page = Page { events: Vec::new(), next: None };
        for entry in newest_first(&self.tree, before) {
            let (sequence, bytes) = entry?;
            if page.events.len() == limit {
                page.next = Some(sequence + 1);
                break;
            }
            let event = codec::decode(&bytes)?;
            if filter.shows(&event) {
                page.events.push(event);
            }
        }
        Ok(page)
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(lock(&self.agenda).next_due())
    }

    fn watch(&self, id: EventId) -> Watch {
        self.watches.begin(id)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        self.write(|reply| Write::Secret(name.to_owned(), fresh, reply)).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.tree.get(LAYOUT_KEY).map_err(failed)?;
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        if writes.is_closed() {
            return Err(stopped());
        }
        if writes.capacity() == 0 { Err(StoreError::Overloaded) } else { Ok(()) }
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

/// The one thread that writes.
struct Writer {
    db: Db,
    tree: Tree,
    log: PathBuf,
    durability: Durability,
    next: Sequence,
    agenda: Arc<Mutex<Agenda>>,
    changed: Arc<Notify>,
    watches: Arc<Watches>,
    failure: Arc<OnceLock<StoreError>>,
}

/// Writes that become durable together, and what to do once they are.
#[derive(Default)]
struct Group {
    /// Keys and their new values, in the order in which they are written; nothing for a key that goes.
    writes: Vec<(IVec, Option<IVec>)>,
    /// Pages of the index as this group leaves them.
    index: Pending,
    /// Records as this group leaves them.
    records: HashMap<Sequence, Arc<EventRecord>>,
    answers: Vec<Answer>,
}

/// Called with whether the group is durable.
type Answer = Box<dyn FnOnce(Result<(), StoreError>, &mut Agenda) + Send>;

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Write>) {
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
            let mut group = Group::default();
            for write in writes.drain(..) {
                self.prepare(&mut group, write);
            }
            let durable = self.commit(&mut group);
            if let Err(error) = &durable {
                tracing::error!(%error, writes = group.answers.len(), "writes could not be made durable");
            }
            if durable.is_ok() {
                self.watches.moved(group.records.values().map(|record| record.id));
            }
            let mut agenda = lock(&self.agenda);
            for answer in group.answers {
                answer(durable.clone(), &mut agenda);
            }
            drop(agenda);
            self.changed.notify_one();
        }
    }

    /// Makes a group durable. Once that has failed it fails for ever: the log may have a hole, behind which nothing
    /// that is written later would be found again.
    fn commit(&self, group: &mut Group) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if group.writes.is_empty() {
            return Ok(());
        }
        let applied = self.apply(std::mem::take(&mut group.writes));
        let durable = applied.and_then(|()| flush(&self.db, &self.log, self.durability));
        durable.inspect_err(|error| {
            let _ = self.failure.set(error.clone());
        })
    }

    fn apply(&self, writes: Vec<(IVec, Option<IVec>)>) -> Result<(), StoreError> {
        for (key, value) in writes {
            let applied = match value {
                Some(value) => self.tree.insert(key, value),
                None => self.tree.remove(key),
            };
            applied.map_err(failed)?;
        }
        Ok(())
    }

    fn prepare(&mut self, group: &mut Group, write: Write) {
        match write {
            Write::Record(record, encoded, reply) => {
                let prepared = self.prepare_record(group, &record, encoded);
                group.answers.push(match prepared {
                    Ok((sequence, recorded)) => Box::new(move |durable, agenda| {
                        if durable.is_ok() && recorded == Recorded::New {
                            agenda.add(sequence, &record);
                        }
                        let _ = reply.send(durable.map(|()| recorded));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Advance(claim, step, now, until, reply) => {
                let prepared = self.prepare_advance(group, claim, step, now);
                group.answers.push(match prepared {
                    Ok(claim) => Box::new(move |durable, agenda| {
                        if durable.is_err() {
                            agenda.free(claim.sequence, claim.record.due);
                        }
                        let advanced = durable.map(|()| {
                            let proceeds = agenda.advanced(claim.sequence, &claim.record, until);
                            if proceeds { Advanced::Proceed(claim) } else { Advanced::Waiting }
                        });
                        let _ = reply.send(advanced);
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Settle(claim, settlement, now, reply) => {
                let prepared = self.prepare_settle(group, claim, settlement, now);
                group.answers.push(match prepared {
                    Ok(claim) => Box::new(move |durable, agenda| {
                        if durable.is_err() || claim.record.state.is_unfinished() {
                            agenda.free(claim.sequence, claim.record.due);
                        } else {
                            agenda.remove(claim.sequence);
                        }
                        let _ = reply.send(durable);
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Amend(id, amendment, now, reply) => {
                let prepared = self.prepare_amend(group, id, amendment, now);
                group.answers.push(match prepared {
                    Ok((sequence, record)) => Box::new(move |durable, agenda| {
                        if durable.is_ok() {
                            agenda.add(sequence, &record);
                        }
                        let _ = reply.send(durable.map(|()| record));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
            Write::Secret(name, fresh, reply) => {
                let prepared = self.prepare_secret(group, &name, fresh);
                group.answers.push(match prepared {
                    Ok(secret) => Box::new(move |durable, _| {
                        let _ = reply.send(durable.map(|()| secret));
                    }),
                    Err(error) => refuse(reply, error),
                });
            }
        }
    }

    fn prepare_record(
        &mut self,
        group: &mut Group,
        record: &Arc<EventRecord>,
        encoded: Vec<u8>,
    ) -> Result<(Sequence, Recorded), StoreError> {
        let bucket = Bucket::load(&self.tree, &group.index, record.id)?;
        if let Some((sequence, known)) = self.known(group, &bucket, record.id)? {
            return Ok((sequence, Recorded::Duplicate(known.progress())));
        }
        let sequence = self.next;
        let (page_key, page) = bucket.with(sequence);
        group.put(page_key, page.clone());
        group.index.insert(page_key, page);
        group.put(key(IN_PROGRESS, sequence), encoded);
        self.next += 1;
        group.records.insert(sequence, Arc::clone(record));
        Ok((sequence, Recorded::New))
    }

    fn prepare_advance(
        &self,
        group: &mut Group,
        mut claim: Claim,
        step: Step,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        let (change, body) = match step {
            Step::Fetched { facts, body } => (Change::Fetched(facts), Some(body)),
            Step::Handled(result) => (Change::Handled(result), None),
        };
        self.check_lease(&claim, now)?;
        claim.record.apply(change, now)?;
        let encoded = codec::encode(&claim.record)?;
        self.pin(&claim, now)?;
        if let Some(body) = body {
            for left in self.tree.scan_prefix(key(b'b', claim.sequence)).keys() {
                group.remove(&left.map_err(failed)?);
            }
            for (chunk, number) in body.chunks(CHUNK).zip(0_u16..) {
                let mut chunk_key = key(b'b', claim.sequence).to_vec();
                chunk_key.extend_from_slice(&number.to_be_bytes());
                group.put(chunk_key, chunk);
            }
        }
        group.put(key(IN_PROGRESS, claim.sequence), encoded);
        group.records.insert(claim.sequence, Arc::new(claim.record.clone()));
        Ok(claim)
    }

    fn prepare_settle(
        &self,
        group: &mut Group,
        mut claim: Claim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        self.check_lease(&claim, now)?;
        claim.record.apply(settlement.into(), now)?;
        let encoded = codec::encode(&claim.record)?;
        self.pin(&claim, now)?;
        if claim.record.state.is_unfinished() {
            group.put(key(IN_PROGRESS, claim.sequence), encoded);
        } else {
            group.put(key(ENDED, claim.sequence), encoded);
            group.remove(&key(IN_PROGRESS, claim.sequence));
        }
        group.records.insert(claim.sequence, Arc::new(claim.record.clone()));
        Ok(claim)
    }

    fn prepare_amend(
        &self,
        group: &mut Group,
        id: EventId,
        amendment: Amendment,
        now: Timestamp,
    ) -> Result<(Sequence, EventRecord), StoreError> {
        let bucket = Bucket::load(&self.tree, &group.index, id)?;
        let (sequence, record) = self.known(group, &bucket, id)?.ok_or(StoreError::NotFound)?;
        let mut record = EventRecord::clone(&record);
        record.apply_amendment(amendment.into(), now)?;
        group.put(key(IN_PROGRESS, sequence), codec::encode(&record)?);
        group.remove(&key(ENDED, sequence));
        group.records.insert(sequence, Arc::new(record.clone()));
        Ok((sequence, record))
    }

    fn prepare_secret(
        &self,
        group: &mut Group,
        name: &str,
        fresh: SecretSlice<u8>,
    ) -> Result<SecretSlice<u8>, StoreError> {
        let secret_key = [b"s", name.as_bytes()].concat();
        if let Some(kept) = self.tree.get(&secret_key).map_err(failed)? {
            return Ok(kept.to_vec().into());
        }
        group.put(secret_key, fresh.expose_secret());
        Ok(fresh)
    }

    fn check_lease(&self, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
        let held = lock(&self.agenda).is_held(claim.sequence, claim.fence, now);
        if held { Ok(()) } else { Err(StoreError::LeaseEnded) }
    }

    fn pin(&self, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
        let held = lock(&self.agenda).pin(claim.sequence, claim.fence, now);
        if held { Ok(()) } else { Err(StoreError::LeaseEnded) }
    }

    /// The event with this id, as the group so far leaves it.
    fn known(
        &self,
        group: &Group,
        bucket: &Bucket,
        id: EventId,
    ) -> Result<Option<(Sequence, Arc<EventRecord>)>, StoreError> {
        for sequence in bucket.places() {
            let record = match group.records.get(&sequence) {
                Some(record) => Some(Arc::clone(record)),
                None => stored_record(&self.tree, sequence)?.map(Arc::new),
            };
            if let Some(record) = record.filter(|record| record.id == id) {
                return Ok(Some((sequence, record)));
            }
        }
        Ok(None)
    }
}

impl Group {
    fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<IVec>) {
        self.writes.push((key.as_ref().into(), Some(value.into())));
    }

    fn remove(&mut self, key: &[u8]) {
        self.writes.push((key.into(), None));
    }
}

fn refuse<T: Send + 'static>(reply: oneshot::Sender<Result<T, StoreError>>, error: StoreError) -> Answer {
    Box::new(move |_, _| {
        let _ = reply.send(Err(error));
    })
}

fn lock(agenda: &Mutex<Agenda>) -> MutexGuard<'_, Agenda> {
    agenda.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn failed(error: sled::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn stopped() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

fn flush(db: &Db, database: &Path, durability: Durability) -> Result<(), StoreError> {
    db.flush().map_err(failed)?;
    if durability == Durability::SyncedLog {
        let synced = File::open(database.join("db")).and_then(|log| log.sync_data());
        synced.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    }
    Ok(())
}

fn stored_record(tree: &Tree, sequence: Sequence) -> Result<Option<EventRecord>, StoreError> {
    // Once more at the end: a record may move from the ended to those in progress between the two looks.
    for kind in [IN_PROGRESS, ENDED, IN_PROGRESS] {
        if let Some(bytes) = tree.get(key(kind, sequence)).map_err(failed)? {
            return codec::decode(&bytes).map(Some);
        }
    }
    Ok(None)
}

/// All records, in progress or ended, newest first, from before the one at `before`.
fn newest_first(
    tree: &Tree,
    before: Option<Sequence>,
) -> impl Iterator<Item = Result<(Sequence, IVec), StoreError>> + use<> {
    let records = |kind| {
        let end = key(kind, before.unwrap_or(Sequence::MAX));
        tree.range(key(kind, 0)..end).rev().map(|entry| match entry {
            Ok((key, bytes)) => Ok((sequence_of(&key), bytes)),
            Err(error) => Err(failed(error)),
        })
    };
    let (mut in_progress, mut ended) = (records(IN_PROGRESS).peekable(), records(ENDED).peekable());
    let mut last = None;
    std::iter::from_fn(move || {
        loop {
            let next = match (in_progress.peek(), ended.peek()) {
                (Some(Ok((first, _))), Some(Ok((second, _)))) if first < second => ended.next(),
                (Some(_), _) => in_progress.next(),
                (None, _) => ended.next(),
            };
            match &next {
                // It ended while this was going on, and stands on both sides.
                Some(Ok((sequence, _))) if last == Some(*sequence) => {}
                Some(Ok((sequence, _))) => {
                    last = Some(*sequence);
                    return next;
                }
                Some(Err(_)) | None => return next,
            }
        }
    })
}

fn next_sequence(tree: &Tree) -> Result<Sequence, StoreError> {
    newest_first(tree, None).next().map_or(Ok(0), |newest| Ok(newest?.0 + 1))
}

fn key(kind: u8, sequence: Sequence) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence in the last eight bytes of a record's key.
fn sequence_of(bytes: &[u8]) -> Sequence {
    bytes.last_chunk().map_or(0, |chunk| Sequence::from_be_bytes(*chunk))
}

/// A snapshot that was being written at a crash makes sled refuse to open; the log still holds everything.
///
/// Only ever the unfinished ones: without a finished snapshot sled opens silently empty.
fn remove_torn_snapshots(database: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Takes the data directory for this process.
///
/// A lock of our own beside sled's: sled's threads hold theirs for a moment after a database is dropped, so its
/// lock cannot tell another process from a store this one has just closed.
fn take_lock(directory: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Directory { directory: directory.to_owned(), source };
    let lock = File::options().create(true).append(true).open(directory.join(LOCK)).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

fn open_database(database: &Path, directory: &Path) -> Result<Db, OpenError> {
    let config = sled::Config::new().path(database).cache_capacity(CACHE).flush_every_ms(None);
    let started = std::time::Instant::now();
    loop {
        // sled panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let is_held = |error: &std::io::Error| error.to_string().contains("could not acquire lock");
        return match opened {
            Ok(Ok(db)) => Ok(db),
            // Nobody else has the directory, so these are sled's own threads on their way out.
            Ok(Err(sled::Error::Io(error))) if is_held(&error) && started.elapsed() < RELEASE => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Ok(Err(sled::Error::Io(source))) => Err(OpenError::Directory { directory: directory.to_owned(), source }),
            Ok(Err(error)) => Err(OpenError::Damaged { directory: directory.to_owned(), reason: error.to_string() }),
            Err(_) => Err(OpenError::Damaged {
                directory: directory.to_owned(),
                reason: "it could not be read at all".to_owned(),
            }),
        };
    }
}

/// The agenda as the last process left it.
fn unfinished(tree: &Tree) -> Result<Agenda, StoreError> {
    let mut agenda = Agenda::default();
    for entry in tree.scan_prefix([IN_PROGRESS]) {
        let (in_progress, bytes) = entry.map_err(failed)?;
        let sequence = sequence_of(&in_progress);
        if tree.contains_key(key(ENDED, sequence)).map_err(failed)? {
            tree.remove(in_progress).map_err(failed)?;
        } else {
            agenda.add(sequence, &codec::decode(&bytes)?);
        }
    }
    Ok(agenda)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{EventResult, State};
    use crate::store::conformance::{LEASE, at, fetched, notification};
    use crate::store::memory::MemoryStore;

    crate::store::conformance::conformance!({
        let directory = tempfile::tempdir().expect("a directory");
        let store = crate::store::sled::SledStore::open(directory.path(), false).expect("opens");
        (store, directory)
    });

    fn open(directory: &Path) -> SledStore {
        SledStore::open(directory, false).expect("opens")
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_restart_and_is_worked_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        for token in ["done", "handled", "received"] {
            store.record(&notification(token), at(0)).await.expect("recorded");
        }
        for token in ["done", "handled"] {
            let claim = store.claim(LEASE, at(1)).await.expect("answers").expect(token);
            let Advanced::Proceed(claim) =
                store.advance(claim, fetched(None, b"{}"), LEASE, at(1)).await.expect("fetched")
            else {
                panic!()
            };
            let step = Step::Handled(EventResult::success(token));
            let Advanced::Proceed(claim) = store.advance(claim, step, LEASE, at(1)).await.expect("handled") else {
                panic!()
            };
            if token == "done" {
                store.settle(claim, Settlement::Done(None), at(1)).await.expect("settled");
            }
        }
        drop(store);

        let store = open(directory.path());
        let mut states = Vec::new();
        while let Some(claim) = store.claim(LEASE, at(2)).await.expect("answers") {
            states.push(claim.event().state);
        }
        assert_eq!(states, [State::Received, State::Handled]);
        let Ok(Recorded::Duplicate(done)) = store.record(&notification("done"), at(3)).await else { panic!("known") };
        assert_eq!(done.state, State::Done);
    }

    #[tokio::test]
    async fn after_a_failure_to_make_writes_durable_nothing_is_acknowledged_and_the_store_is_not_ready() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        store.record(&notification("before"), at(0)).await.expect("recorded");
        store.ready().await.expect("ready");
        let failure = StoreError::Unavailable("the disk is full".to_owned());
        store.failure.set(failure.clone()).expect("the first one");
        assert_eq!(store.record(&notification("after"), at(1)).await, Err(failure.clone()));
        assert_eq!(store.record(&notification("before"), at(1)).await, Err(failure.clone()));
        assert_eq!(store.ready().await, Err(failure));
        drop(store);
        let store = open(directory.path());
        assert_eq!(store.event(notification("after").id()).await, Ok(None));
        assert!(store.event(notification("before").id()).await.expect("answers").is_some());
    }

    #[test]
    fn a_directory_that_is_in_use_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().expect("a directory");
        let _held = open(directory.path());
        let error = SledStore::open(directory.path(), false).expect_err("in use");
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("stop that one"), "{error}");
    }

    #[test]
    fn a_store_that_held_events_and_opens_empty_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(open(directory.path()));
        std::fs::remove_dir_all(directory.path().join(DATABASE)).expect("removed");
        let error = SledStore::open(directory.path(), false).expect_err("emptied");
        assert!(error.to_string().contains("it held events before and is empty now"), "{error}");
    }

    #[test]
    fn a_damaged_store_is_an_error_that_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(open(directory.path()));
        let config = directory.path().join(DATABASE).join("conf");
        std::fs::write(config, b"this is no sled configuration").expect("overwritten");
        let error = SledStore::open(directory.path(), false).expect_err("damaged");
        assert!(error.to_string().contains("restore a backup"), "{error}");
    }

    #[test]
    fn a_snapshot_torn_by_a_crash_does_not_keep_the_store_from_opening() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(open(directory.path()));
        std::fs::write(directory.path().join(DATABASE).join("snap.0000.generating"), b"torn").expect("written");
        open(directory.path());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_file_is_written_synchronously_where_the_file_system_can() {
        use rustix::fs::{IFlags, ioctl_getflags};
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        if store.durability() != Durability::Synchronous {
            eprintln!("skipped: the file system of {:?} has no synchronous-write attributes", directory.path());
            return;
        }
        drop(store);
        for entry in std::fs::read_dir(directory.path().join(DATABASE)).expect("listed") {
            let path = entry.expect("an entry").path();
            let flags = ioctl_getflags(File::open(&path).expect("opened")).expect("flags");
            assert!(flags.contains(IFlags::SYNC), "{path:?}");
        }
    }

    /// A crash between any two writes of a group leaves a store that opens, knows every event that was acknowledged
    /// before, once, and takes the unfinished step again.
    #[tokio::test]
    async fn a_group_that_a_crash_left_applied_in_part_is_as_if_it_had_not_begun_or_had_ended() {
        let long_body = vec![b'x'; 3 * CHUNK];
        let steps: [&[State]; 4] = [
            &[State::Received],
            &[State::Received, State::Fetched],
            &[State::Fetched, State::Done],
            &[State::Done, State::Fetched],
        ];
        for (step, allowed) in steps.into_iter().enumerate() {
            for applied in 0.. {
                let directory = tempfile::tempdir().expect("a directory");
                let store = open(directory.path());
                store.record(&notification("before"), at(0)).await.expect("recorded");
                let claim = store.claim(LEASE, at(0)).await.expect("answers").expect("the one before");
                store.settle(claim, Settlement::Dead("out of the way".into()), at(0)).await.expect("settled");
                let id = notification("1").id();
                if step > 0 {
                    store.record(&notification("1"), at(0)).await.expect("recorded");
                }
                let mut claim = None;
                if step > 1 {
                    let received = store.claim(LEASE, at(1)).await.expect("answers").expect("the event");
                    let fetched = store.advance(received, fetched(None, b"{}"), LEASE, at(1)).await.expect("fetched");
                    let Advanced::Proceed(fetched) = fetched else { panic!("nothing is in its way") };
                    claim = Some(fetched);
                }
                if step == 3 {
                    store.settle(claim.take().expect("held"), Settlement::Done(None), at(2)).await.expect("settled");
                }
                if step == 1 {
                    claim = store.claim(LEASE, at(1)).await.expect("answers");
                }

                // What the writer would write for the next step, cut off after `applied` writes.
                let writer = Writer {
                    db: sled::Config::new().temporary(true).open().expect("opens"),
                    tree: store.tree.clone(),
                    log: PathBuf::new(),
                    durability: Durability::Memory,
                    next: next_sequence(&store.tree).expect("a number"),
                    agenda: Arc::clone(&store.agenda),
                    changed: Arc::default(),
                    watches: Arc::default(),
                    failure: Arc::default(),
                };
                let mut writer = writer;
                let mut group = Group::default();
                match step {
                    0 => {
                        let record = Arc::new(EventRecord::new(&notification("1"), at(1)));
                        let encoded = codec::encode(&record).expect("encodes");
                        writer.prepare_record(&mut group, &record, encoded).map(drop)
                    }
                    1 => writer
                        .prepare_advance(&mut group, claim.take().expect("held"), fetched(None, &long_body), at(2))
                        .map(drop),
                    2 => writer
                        .prepare_settle(&mut group, claim.take().expect("held"), Settlement::Done(None), at(2))
                        .map(drop),
                    _ => writer.prepare_amend(&mut group, id, Amendment::Rerun, at(3)).map(drop),
                }
                .expect("prepared");
                let cut = std::mem::take(&mut group.writes);
                let is_whole = applied >= cut.len();
                writer.apply(cut.into_iter().take(applied).collect()).expect("applied");
                drop((writer, store));

                let store = open(directory.path());
                let event = store.event(id).await.expect("answers");
                if let Some(event) = &event {
                    assert!(allowed.contains(&event.state), "step {step} after {applied} writes: {}", event.state);
                } else {
                    assert!(step == 0 && !is_whole, "step {step} after {applied} writes: gone");
                }
                // Another event takes the next place, and neither is confused with the other.
                let fresh = store.record(&notification("2"), at(9)).await.expect("recorded");
                assert_eq!(fresh, Recorded::New);
                let again = store.record(&notification("1"), at(9)).await.expect("recorded");
                assert_eq!(again == Recorded::New, event.is_none(), "step {step} after {applied} writes");
                let page = store.list(&Filter::default(), None, 10).await.expect("listed");
                let mut ids: Vec<_> = page.events.iter().map(|event| event.id).collect();
                ids.dedup();
                assert_eq!(ids.len(), 3, "step {step} after {applied} writes: {page:?}");
                let mut claimable = 0;
                while let Some(claim) = store.claim(LEASE, at(10)).await.expect("answers") {
                    claimable += 1;
                    if claim.event().id == id && claim.event().state == State::Received {
                        store.advance(claim, fetched(None, b"short"), LEASE, at(10)).await.expect("fetched");
                        assert_eq!(store.body(id).await.expect("read").as_deref(), Some(&b"short"[..]));
                    }
                }
                let is_unfinished =
                    store.event(id).await.expect("answers").is_some_and(|event| event.state.is_unfinished());
                assert_eq!(claimable, 1 + usize::from(is_unfinished), "step {step} after {applied} writes");
                if is_whole {
                    break;
                }
            }
        }
    }

    /// One thing that can happen to a store.
    #[derive(Debug, Clone)]
    enum Action {
        Record(u8),
        Claim,
        Fetch(u8),
        Handle,
        Settle(Settlement),
        Amend(u8, Amendment),
        Pass(u8),
        Reopen,
    }

    fn any_action() -> impl Strategy<Value = Action> {
        let settlement = prop_oneof![
            Just(Settlement::Done(None)),
            Just(Settlement::Deferred),
            Just(Settlement::Dead("dead".into())),
            (0_i64..90).prop_map(|due| Settlement::Retry { due: at(due), error: "passing".into() }),
        ];
        let amendment = prop_oneof![Just(Amendment::Rerun), Just(Amendment::Resolve(EventResult::success("outside")))];
        prop_oneof![
            4 => (0_u8..6).prop_map(Action::Record),
            6 => Just(Action::Claim),
            4 => (0_u8..3).prop_map(Action::Fetch),
            3 => Just(Action::Handle),
            4 => settlement.prop_map(Action::Settle),
            1 => (0_u8..6, amendment).prop_map(|(event, amendment)| Action::Amend(event, amendment)),
            2 => (0_u8..40).prop_map(Action::Pass),
            1 => Just(Action::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn sled_and_memory_agree_whatever_happens_and_whenever_sled_is_reopened(
            actions in prop::collection::vec(any_action(), 1..60)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(agree(actions));
        }
    }

    /// Does the same to both stores and compares every answer. A reopened sled forgets its leases, so before a
    /// reopening both sides' holders let theirs end.
    async fn agree(actions: Vec<Action>) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sled = open(directory.path());
        let memory = MemoryStore::new();
        let mut held: Vec<(Claim, Claim)> = Vec::new();
        let mut clock = 0;
        for action in actions {
            let now = at(clock);
            match action {
                Action::Record(event) => {
                    let notification = notification(&event.to_string());
                    assert_eq!(sled.record(&notification, now).await, memory.record(&notification, now).await);
                }
                Action::Claim => {
                    let claims = (
                        sled.claim(LEASE, now).await.expect("answers"),
                        memory.claim(LEASE, now).await.expect("answers"),
                    );
                    match claims {
                        (Some(a), Some(b)) => {
                            assert_eq!(a.event(), b.event());
                            held.push((a, b));
                        }
                        (a, b) => assert!(a.is_none() && b.is_none(), "{a:?} {b:?}"),
                    }
                }
                Action::Fetch(account) => {
                    if let Some((a, b)) = held.pop() {
                        let step = fetched(Some(&account.to_string()), b"{}");
                        let advanced = (
                            sled.advance(a, step.clone(), LEASE, now).await,
                            memory.advance(b, step, LEASE, now).await,
                        );
                        keep(&mut held, advanced);
                    }
                }
                Action::Handle => {
                    if let Some((a, b)) = held.pop() {
                        let step = Step::Handled(EventResult::success("handled"));
                        let advanced = (
                            sled.advance(a, step.clone(), LEASE, now).await,
                            memory.advance(b, step, LEASE, now).await,
                        );
                        keep(&mut held, advanced);
                    }
                }
                Action::Settle(settlement) => {
                    if let Some((a, b)) = held.pop() {
                        assert_eq!(
                            sled.settle(a, settlement.clone(), now).await,
                            memory.settle(b, settlement, now).await
                        );
                    }
                }
                Action::Amend(event, amendment) => {
                    let id = notification(&event.to_string()).id();
                    assert_eq!(sled.amend(id, amendment.clone(), now).await, memory.amend(id, amendment, now).await);
                }
                Action::Pass(seconds) => clock += i64::from(seconds),
                Action::Reopen => {
                    held.clear();
                    clock += 61;
                    // Lets memory's leases end as sled's do; what this hands out on both sides is let go again.
                    drop(sled);
                    sled = open(directory.path());
                    let both =
                        (sled.claim(Duration::ZERO, at(clock)).await, memory.claim(Duration::ZERO, at(clock)).await);
                    assert_eq!(
                        both.0.expect("answers").map(|claim| claim.record),
                        both.1.expect("answers").map(|claim| claim.record)
                    );
                }
            }
            let shown =
                (sled.list(&Filter::default(), None, 100).await, memory.list(&Filter::default(), None, 100).await);
            assert_eq!(shown.0, shown.1);
        }
    }

    fn keep(held: &mut Vec<(Claim, Claim)>, advanced: (Result<Advanced, StoreError>, Result<Advanced, StoreError>)) {
        match advanced {
            (Ok(Advanced::Proceed(a)), Ok(Advanced::Proceed(b))) => held.push((a, b)),
            (Ok(Advanced::Waiting), Ok(Advanced::Waiting)) => {}
            (Err(a), Err(b)) => assert_eq!(a, b),
            (a, b) => panic!("{a:?} is not {b:?}"),
        }
    }
}
