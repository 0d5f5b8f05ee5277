//! Events in a directory of this machine: the store behind `sled:DIR`.
//!
//! One thread writes. It takes every write that waits, applies them, makes that durable and only then answers all
//! of them, so a hundred notifications cost one sync of the disk (group commit).
//!
//! A crash may leave a group applied in part: sled recovers the writes of one thread up to some point in their order.
//! None of those behind the last flush was acknowledged, so it is enough that every write is safe to find without the
//! ones after it:
//!
//! - what a group adds to the index comes before all else of it. That an event has ended counts only if the record it
//!   leads to has its id; how an account stands is left so again when the step that left it so is taken again;
//! - a body comes before the record that says it was read, and replaces whatever was left under its keys;
//! - of an event that is removed the status of its account is kept first, if nothing else has it, then the body goes, then the record; its index entry leads nowhere from then on;
//! - where a record stands both among the ended and in progress, the ended one counts: either the other was about to
//!   be removed, or it was an amendment that nobody was told of.
//!
//! sled's own batches would do the same at the price of two more synchronous writes each.

mod directory;
mod group;
mod index;
mod layout;
mod prepare;
mod prune;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use secrecy::SecretSlice;
use sled::Tree;
use tokio::sync::{Notify, mpsc, oneshot};

use self::directory::DataDirectory;
pub use self::directory::OpenError;
use self::index::{Index, IndexWriter, Name, Sizes, Standing, event_place};
use self::layout::{
    BODY, LAYOUT_KEY, RETENTION_KEY, account_key, key, newest_first, next_sequence, oldest_first, stored_record,
    unfinished,
};
use self::prune::{Found, Sweep};
use self::writer::{Write, Writer};
use super::agenda::{Agenda, Claimed};
use super::watch::{Watch, Watches};
use super::{
    Advanced, Amendment, Claim, Durability, EXPORTED_BYTES, EventStore, Exported, Filter, Page, Pruned, Recorded,
    Retention, Sequence, Settlement, Step, StoreError, StoredEvent, codec,
};
use crate::clock::{Moment, Now, Timestamp};
use crate::event::{AccountStatus, Body, EventId, EventRecord, Notification};

/// Writes that may wait; more are refused rather than kept in memory.
const QUEUE: usize = 4096;
/// How long a group of writes may take before the store is called not ready.
const LONGEST_WRITE: Duration = Duration::from_secs(5);
/// The store behind `sled:DIR`.
#[derive(Debug)]
pub struct SledStore {
    tree: Tree,
    index: Index,
    agenda: Arc<Mutex<Agenda>>,
    changed: Arc<Notify>,
    watches: Arc<Watches>,
    durability: Durability,
    /// How far the search for what is old has come.
    sweep: Mutex<Sweep>,
    waiting_to: Arc<AtomicU64>,
    /// Since when the writer has been at its present group.
    busy_since: Arc<Mutex<Option<Instant>>>,
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
    /// The first failure to make a group durable; nothing is acknowledged after it.
    failure: Arc<OnceLock<StoreError>>,
    /// Released last, when everything else has let go.
    _lock: File,
}

impl SledStore {
    /// Opens the store in `directory`, making it if need be.
    ///
    /// Blocks on the disk: call it where that is allowed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, require_durable: bool, now: Now) -> Result<Self, OpenError> {
        Self::open_with(directory, require_durable, now, Sizes::default())
    }

    fn open_with(directory: &Path, require_durable: bool, now: Now, sizes: Sizes) -> Result<Self, OpenError> {
        let DataDirectory { db, log, lock } = DataDirectory::open(directory, require_durable)?;
        let durability = log.durability();
        let tree: Tree = (*db).clone();
        let damaged =
            |error: StoreError| OpenError::Damaged { directory: directory.to_owned(), reason: error.to_string() };
        let changed = Arc::new(Notify::new());
        let agenda = unfinished(&tree, now, Arc::clone(&changed)).map_err(damaged)?;
        let next = next_sequence(&tree).map_err(damaged)?;
        let index_writer = IndexWriter::open(&tree, sizes).map_err(damaged)?;
        let index = index_writer.reader().clone();
        let agenda = Arc::new(Mutex::new(agenda));
        changed.notify_one();
        let watches = Arc::new(Watches::default());
        let failure = Arc::new(OnceLock::new());
        let waiting_to = Arc::new(AtomicU64::new(0));
        let (writes, waiting) = mpsc::channel(QUEUE);
        // One that cannot be read is found by retention, which says so.
        let seen = noted_retention(&tree).ok().flatten().map(|retention| retention.reached());
        let busy_since = Arc::default();
        let thread = Writer {
            db,
            tree: tree.clone(),
            index: index_writer,
            log: Some(log),
            next,
            seen,
            busy_since: Arc::clone(&busy_since),
            waiting_to: Arc::clone(&waiting_to),
            agenda: Arc::clone(&agenda),
            changed: Arc::clone(&changed),
            watches: Arc::clone(&watches),
            failure: Arc::clone(&failure),
        };
        let handle = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(waiting))
            .map_err(|source| OpenError::Directory { directory: directory.to_owned(), source })?;
        Ok(Self {
            tree,
            index,
            agenda,
            changed,
            watches,
            durability,
            failure,
            busy_since,
            sweep: Mutex::default(),
            waiting_to,
            writes: Some(writes),
            writer: Some(handle),
            _lock: lock,
        })
    }

    /// Whether something could not be made durable, so that nothing will be until the store is opened again.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    async fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        writes.try_send(write(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => self.is_without_writer(),
        })?;
        answer.await.map_err(|_| self.is_without_writer())?
    }

    /// For writes of work in hand: they wait for their turn instead of being refused, since refusing would only
    /// repeat the work.
    async fn write_in_turn<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        writes.send(write(reply)).await.map_err(|_| self.is_without_writer())?;
        answer.await.map_err(|_| self.is_without_writer())?
    }

    /// Has the writer panic, and waits until it is gone.
    #[cfg(test)]
    pub(super) fn end_writer(&self) {
        let (reply, _) = oneshot::channel();
        let writes = self.writes.as_ref().expect("open");
        writes.try_send(Write::Panic(reply)).map_err(drop).expect("sent");
        while !writes.is_closed() {
            std::thread::yield_now();
        }
    }

    /// The writer ends when the store is dropped and not before, unless it panics: then the store has failed.
    fn is_without_writer(&self) -> StoreError {
        let failure = self.failure.get_or_init(|| {
            let error = StoreError::Unavailable("its writer has panicked".to_owned());
            tracing::error!(%error, "the store has failed");
            error
        });
        failure.clone()
    }

    /// The body of an event, once one came. What lies under its keys before that is not its own: a crash may have
    /// left it there. One without a byte has no pieces; one that was understood has some, unless they are lost.
    fn body_of(&self, sequence: Sequence, record: &EventRecord) -> Result<Option<Vec<u8>>, StoreError> {
        let mut chunks = self.tree.scan_prefix(key(BODY, sequence)).values().peekable();
        if !record.has_body || (record.kind.is_some() && chunks.peek().is_none()) {
            return Ok(None);
        }
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend_from_slice(&chunk.map_err(failed)?);
        }
        Ok(Some(body))
    }

    fn find(&self, id: EventId) -> Result<Option<(Sequence, EventRecord)>, StoreError> {
        find(&self.tree, &self.index, &self.agenda, id)
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
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        let record = EventRecord::new(notification, now.wall);
        // Here and not in the writer, of which there is only one.
        let encoded = codec::encode(&record)?;
        self.write(|reply| Write::Record(Arc::new(record), encoded, now, reply)).await
    }

    async fn claim(&self, now: Now, busy: &[String]) -> Result<Option<Claim>, StoreError> {
        loop {
            let Some(claimed) = lock(&self.agenda).claim(now.monotonic, busy) else { return Ok(None) };
            let Claimed { sequence, lease, was_lost } = claimed;
            let error = match stored_record(&self.tree, sequence) {
                Ok(Some(record)) => return Ok(Some(Claim { record, sequence, lease, was_lost })),
                Ok(None) => StoreError::Unreadable("it is not there".to_owned()),
                Err(error @ StoreError::Unreadable(_)) => error,
                Err(error) => return Err(error),
            };
            // It would be in the way of all others for ever. It stays where it is, held by nobody.
            lease.end();
            lock(&self.agenda).remove(sequence);
            tracing::error!(number = sequence, %error, "an event is left alone until it can be read");
        }
    }

    async fn advance(&self, claim: Claim, step: Step, now: Now) -> Result<Advanced, StoreError> {
        self.write_in_turn(|reply| Write::Advance(claim, step, now, reply)).await
    }

    async fn give_way(&self, claim: &Claim) -> Result<(), StoreError> {
        lock(&self.agenda).give_way(claim.sequence, &claim.lease);
        self.changed.notify_one();
        Ok(())
    }

    async fn settle(&self, claim: Claim, settlement: Settlement, now: Now) -> Result<(), StoreError> {
        self.write_in_turn(|reply| Write::Settle(claim, settlement, now, reply)).await
    }

    async fn amend(&self, id: EventId, amendment: Amendment, now: Now) -> Result<EventRecord, StoreError> {
        self.write(|reply| Write::Amend(id, amendment, now, reply)).await
    }

    async fn hasten(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        let mut agenda = lock(&self.agenda);
        if let Some(sequence) = agenda.sequence(id) {
            agenda.hasten(sequence, now.monotonic);
            self.changed.notify_one();
        }
        Ok(())
    }

    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        let sweep = *self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        let (tree, waiting_to) = (self.tree.clone(), Arc::clone(&self.waiting_to));
        let looked = tokio::task::spawn_blocking(move || sweep.look(&tree, moment, now, limit, &waiting_to)).await;
        let Found { old, mut rest } = looked.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        let mut removed = 0;
        if !old.is_empty() {
            let outcome = self.write(|reply| Write::Prune(old, moment, reply)).await?;
            removed = outcome.count;
            if let Some(left) = outcome.left {
                rest = Some(rest.unwrap_or(sweep).from(left));
            }
        }
        *self.sweep.lock().unwrap_or_else(PoisonError::into_inner) = rest.unwrap_or_default();
        Ok(Pruned { removed, is_through: rest.is_none() })
    }

    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        noted_retention(&self.tree)
    }

    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        self.write(|reply| Write::Retention(retention, reply)).await
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreError> {
        Ok(self.find(id)?.map(|(_, record)| record))
    }

    async fn body(&self, id: EventId) -> Result<Option<Body>, StoreError> {
        let Some((sequence, record)) = self.find(id)? else { return Ok(None) };
        let bytes = self.body_of(sequence, &record)?;
        Ok(bytes.map(|bytes| Body { bytes, charset: record.charset }))
    }

    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError> {
        let mut exported = Exported::default();
        let mut bytes = 0;
        for entry in oldest_first(&self.tree, from) {
            let (sequence, encoded) = entry?;
            if exported.events.len() == limit || bytes > EXPORTED_BYTES {
                exported.next = Some(sequence);
                break;
            }
            match codec::decode(&encoded) {
                Ok(record) => {
                    let body = self.body_of(sequence, &record)?;
                    bytes += body.as_ref().map_or(0, Vec::len);
                    exported.events.push(StoredEvent { record, body });
                }
                Err(error) => exported.unreadable.push((sequence, error.to_string())),
            }
        }
        Ok(exported)
    }

    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError> {
        let encoded = events.iter().map(|event| codec::encode(&event.record)).collect::<Result<Vec<_>, _>>()?;
        let events = events.into_iter().zip(encoded).collect();
        self.write(|reply| Write::Import(events, now, reply)).await
    }

    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        let name = Name::of_account(integration, account);
        let standing = self.index.get(name)?.and_then(Standing::from_number);
        let Some(Standing { sequence, status }) = standing else { return Ok(None) };
        if status.is_some() {
            return Ok(status);
        }
        if let Some(record) = stored_record(&self.tree, sequence)? {
            return Ok(record.status_on_success);
        }
        let kept = self.tree.get(account_key(name)).map_err(failed)?;
        let status = kept.map(|kept| serde_json::from_slice(&kept)).transpose();
        status.map_err(|error| StoreError::Unreadable(error.to_string()))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        let mut page = Page { events: Vec::new(), unreadable: Vec::new(), next: None };
        for entry in newest_first(&self.tree, before) {
            let (sequence, bytes) = entry?;
            if page.events.len() + page.unreadable.len() == limit {
                page.next = Some(sequence + 1);
                break;
            }
            match codec::decode(&bytes) {
                Ok(event) if filter.shows(&event) => page.events.push(event),
                Ok(_) => {}
                Err(error) => page.unreadable.push((sequence, error.to_string())),
            }
        }
        Ok(page)
    }

    async fn next_due(&self, busy: &[String]) -> Result<Option<Moment>, StoreError> {
        Ok(lock(&self.agenda).next_due(busy))
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

    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, StoreError> {
        let held = held.clone();
        self.write(|reply| Write::ReplaceSecret(name.to_owned(), held, fresh, reply)).await
    }

    async fn use_nonce(&self, nonce: [u8; 16], until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|reply| Write::Nonce(nonce, until, now, reply)).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.tree.get(LAYOUT_KEY).map_err(failed)?;
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        if writes.is_closed() {
            return Err(self.is_without_writer());
        }
        let busy_since = *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = busy_since.map(|since| since.elapsed()).filter(|busy| *busy > LONGEST_WRITE) {
            return Err(StoreError::Unavailable(format!("its disk has not taken a write for {} s", busy.as_secs())));
        }
        if writes.capacity() == 0 { Err(StoreError::Overloaded) } else { Ok(()) }
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

/// The event with this id: in progress by the agenda, or ended by the index.
fn find(
    tree: &Tree,
    index: &Index,
    agenda: &Mutex<Agenda>,
    id: EventId,
) -> Result<Option<(Sequence, EventRecord)>, StoreError> {
    // An event that ends between the two looks is in the index before it leaves the agenda.
    let in_progress = lock(agenda).sequence(id);
    let place = match in_progress {
        Some(sequence) => Some(sequence),
        None => index.get(Name::of_event(id))?.and_then(event_place),
    };
    let Some(sequence) = place else { return Ok(None) };
    let record = stored_record(tree, sequence)?.filter(|record| record.id == id);
    Ok(record.map(|record| (sequence, record)))
}

fn noted_retention(tree: &Tree) -> Result<Option<Retention>, StoreError> {
    let noted = tree.get(RETENTION_KEY).map_err(failed)?;
    let retention = noted.map(|noted| serde_json::from_slice(&noted)).transpose();
    retention.map_err(|error| StoreError::Unreadable(error.to_string()))
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
