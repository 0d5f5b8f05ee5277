//! The open store: what it is made of, how it is opened and closed, and how writes reach the writer.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sled::Tree;
use tokio::sync::{Notify, mpsc, oneshot};

use super::directory::{DataDirectory, OpenError};
use super::error::{closed, failed};
use super::index::{IndexWriter, Sizes};
use super::layout::{LAYOUT_KEY, VERSION};
use super::lookup::Lookup;
use super::prepare::Preparer;
use super::records::{next_sequence, unfinished};
use super::retention::Sweep;
use super::writer::{Reply, Write, Writer};
use crate::clock::Now;
use crate::store::local::lock;
use crate::store::local::scheduler::Scheduler;
use crate::store::local::subscriptions::Subscriptions;
use crate::store::{Description, Durability, EventStore, StoreError};

/// Writes that may wait; more are refused rather than kept in memory.
const QUEUE: usize = 4096;
/// How long a group of writes may take before the store is called not ready.
const LONGEST_WRITE: Duration = Duration::from_secs(5);

/// The store behind `sled:DIR`.
#[derive(Debug)]
pub struct SledStore {
    pub(super) lookup: Lookup,
    pub(super) kept: Kept,
    durability: Durability,
    /// How far the search for what is old has come.
    pub(super) sweep: Mutex<Sweep>,
    pub(super) waiting_to: Arc<AtomicU64>,
    /// Since when the writer has been at its present group.
    busy_since: Arc<Mutex<Option<Instant>>>,
    writes: Option<mpsc::Sender<Write>>,
    is_closed: AtomicBool,
    writer: Option<JoinHandle<()>>,
    /// The first failure to make a group durable; nothing is acknowledged after it.
    pub(super) failure: Arc<OnceLock<StoreError>>,
    /// Released last, when everything else has let go.
    _lock: File,
}

/// What goes on when a store is opened again in one process: who waits for it, and who holds what.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) wakeup: Arc<Notify>,
    pub(super) subscriptions: Arc<Subscriptions>,
    /// That of the store before.
    pub(super) scheduler: Option<Arc<Mutex<Scheduler>>>,
}

impl SledStore {
    /// Opens the store in `directory`, making it if need be.
    ///
    /// Blocks on the disk: call it where that is allowed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, require_durable: bool, now: Now) -> Result<Self, OpenError> {
        Self::open_with(directory, require_durable, now, Sizes::default(), Kept::default())
    }

    pub(super) fn open_with(
        directory: &Path,
        require_durable: bool,
        now: Now,
        sizes: Sizes,
        kept: Kept,
    ) -> Result<Self, OpenError> {
        let DataDirectory { db, log, lock: directory_lock } = DataDirectory::open(directory, require_durable)?;
        let durability = log.durability();
        let tree: Tree = (*db).clone();
        let damaged =
            |error: StoreError| OpenError::Damaged { directory: directory.to_owned(), reason: error.to_string() };
        let mut scheduler = unfinished(&tree, now, Arc::clone(&kept.wakeup)).map_err(damaged)?;
        if let Some(before) = &kept.scheduler {
            scheduler.take_over(&mut lock(before), now.monotonic);
        }
        let next = next_sequence(&tree).map_err(damaged)?;
        let index = IndexWriter::open(&tree, sizes).map_err(damaged)?;
        let lookup = Lookup { tree, index: index.reader().clone(), scheduler: Arc::new(Mutex::new(scheduler)) };
        let failure = Arc::new(OnceLock::new());
        let waiting_to = Arc::new(AtomicU64::new(0));
        let (writes, waiting) = mpsc::channel(QUEUE);
        // One that cannot be read is found by retention, which says so.
        let seen = lookup.retention().ok().flatten().map(|retention| retention.reached());
        let busy_since = Arc::default();
        let thread = Writer {
            db,
            index,
            preparer: Preparer { lookup: lookup.clone(), next, seen },
            log: Some(log),
            busy_since: Arc::clone(&busy_since),
            waiting_to: Arc::clone(&waiting_to),
            counter: None,
            wakeup: Arc::clone(&kept.wakeup),
            subscriptions: Arc::clone(&kept.subscriptions),
            failure: Arc::clone(&failure),
        };
        let handle = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(waiting))
            .map_err(|source| OpenError::Directory { directory: directory.to_owned(), source })?;
        Ok(Self {
            lookup,
            kept: Kept { scheduler: None, ..kept },
            durability,
            sweep: Mutex::default(),
            waiting_to,
            busy_since,
            writes: Some(writes),
            is_closed: AtomicBool::new(false),
            writer: Some(handle),
            failure,
            _lock: directory_lock,
        })
    }

    /// What the store that is opened next in this place is to go on with.
    pub(super) fn kept(&self) -> Kept {
        Kept { scheduler: Some(Arc::clone(&self.lookup.scheduler)), ..self.kept.clone() }
    }

    /// Whether something could not be made durable, so that nothing will be until the store is opened again.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    fn writes(&self) -> Result<&mpsc::Sender<Write>, StoreError> {
        self.writes.as_ref().filter(|_| !self.is_closed.load(Ordering::Relaxed)).ok_or_else(closed)
    }

    pub(super) async fn write<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes()?.try_send(write(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => self.is_without_writer(),
        })?;
        answer.await.map_err(|_| self.is_without_writer())?
    }

    /// For writes of work in hand: they wait for their turn instead of being refused, since refusing would only
    /// repeat the work.
    pub(super) async fn write_in_turn<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes()?.send(write(reply)).await.map_err(|_| self.is_without_writer())?;
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

    /// Whether a write would be taken now.
    pub(super) fn is_ready(&self) -> Result<(), StoreError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.lookup.tree.get(LAYOUT_KEY).map_err(failed)?;
        let writes = self.writes()?;
        if writes.is_closed() {
            return Err(self.is_without_writer());
        }
        let busy_since = *lock(&self.busy_since);
        if let Some(busy) = busy_since.map(|since| since.elapsed()).filter(|busy| *busy > LONGEST_WRITE) {
            return Err(StoreError::Unavailable(format!("its disk has not taken a write for {} s", busy.as_secs())));
        }
        if writes.capacity() == 0 { Err(StoreError::Overloaded) } else { Ok(()) }
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
    fn describe(&self) -> Description {
        Description { durability: self.durability, version: VERSION }
    }

    async fn close(&self) {
        let last = self.write_in_turn(Write::Barrier);
        let is_open = !self.is_closed.load(Ordering::Relaxed);
        if is_open && let Err(error) = last.await {
            tracing::warn!(%error, "the store was closed with writes that could not be made durable");
        }
        self.is_closed.store(true, Ordering::Relaxed);
        self.kept.wakeup.notify_one();
    }
}
