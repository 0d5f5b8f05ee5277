//! A store in a directory that comes back by itself when its disk does.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretSlice;
use tokio::sync::Notify;

use super::sled::{OpenError, SledStore};
use super::watch::{Watch, Watches};
use super::{
    Advanced, Amendment, Claim, Durability, EventStore, Exported, Filter, Page, Pruned, Recorded, Retention, Sequence,
    Settlement, Step, StoreError, StoredEvent,
};
use crate::clock::{Clock, Moment, Now, Timestamp};
use crate::event::{AccountStatus, Body, EventId, EventRecord, Notification};

/// The pause between two tries to open the store again.
const PAUSE: Duration = Duration::from_secs(1);
/// What must fit on the disk before the store is opened again.
const ROOM: usize = 4 << 20;
/// Written to see whether there is room.
const PROBE: &str = "room";

/// [`SledStore`], opened again after a failure to make something durable.
///
/// A full disk, or an I/O error, leaves a store that acknowledges nothing any more: its log may have a hole. Everything
/// acknowledged lies before that, so the remedy is to open it again, which is what a restart of the process does. This
/// does it without one, as soon as there is room.
#[derive(Clone)]
pub struct RecoveringStore(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    directory: PathBuf,
    require_durable: bool,
    durability: Durability,
    /// Nothing while it is being opened again.
    store: Mutex<Option<Arc<SledStore>>>,
    /// It has been opened again.
    turned: Notify,
    /// For those who watch while there is no store.
    watches: Arc<Watches>,
}

impl RecoveringStore {
    /// Opens the store in `directory`, making it if need be.
    ///
    /// Blocks on the disk: call it where that is allowed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, require_durable: bool, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let store = SledStore::open(directory, require_durable, clock.read())?;
        Ok(Self(Arc::new(Inner {
            clock,
            directory: directory.to_owned(),
            require_durable,
            durability: store.durability(),
            store: Mutex::new(Some(Arc::new(store))),
            turned: Notify::new(),
            watches: Arc::default(),
        })))
    }

    fn store(&self) -> Result<Arc<SledStore>, StoreError> {
        self.0.slot().clone().ok_or_else(|| StoreError::Unavailable("it waits for its disk to come back".to_owned()))
    }

    /// Passes an answer on, and has the store opened again if it has failed for good.
    fn seen<T>(&self, store: &Arc<SledStore>, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(answer, Err(StoreError::Unavailable(_))) && store.has_failed() {
            self.close(store);
        }
        answer
    }

    /// Lets go of `store`, unless that was done, and has it opened again.
    fn close(&self, store: &Arc<SledStore>) {
        let mut slot = self.0.slot();
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, store)) {
            *slot = None;
            // Whoever waits for the store to change has to let go of it, or it could never be opened again.
            self.0.turned.notify_one();
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move { inner.reopen().await });
        }
    }
}

impl Inner {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<SledStore>>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reopen(self: Arc<Self>) {
        tracing::error!(directory = %self.directory.display(), "the store is closed until its disk takes writes again");
        let mut said = String::new();
        loop {
            tokio::time::sleep(PAUSE).await;
            let (directory, require_durable) = (self.directory.clone(), self.require_durable);
            let now = self.clock.read();
            let opened = tokio::task::spawn_blocking(move || {
                has_room(&directory).map_err(|source| OpenError::Directory { directory: directory.clone(), source })?;
                SledStore::open(&directory, require_durable, now)
            });
            match opened.await {
                Ok(Ok(store)) => {
                    *self.slot() = Some(Arc::new(store));
                    self.turned.notify_one();
                    tracing::info!(directory = %self.directory.display(), "the store is open again");
                    return;
                }
                Ok(Err(error)) => say_once(&mut said, &error),
                Err(error) => say_once(&mut said, &error),
            }
        }
    }
}

/// Tells the operator why a store stays closed, and again only when the reason is another.
fn say_once(said: &mut String, error: &dyn std::fmt::Display) {
    let reason = error.to_string();
    if *said == reason {
        tracing::debug!(%error, "the store cannot be opened yet");
    } else {
        tracing::error!(%error, "the store cannot be opened yet");
        *said = reason;
    }
}

/// Whether something can be written in `directory` and synced.
fn has_room(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(PROBE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0; ROOM])?;
        file.sync_all()
    });
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

/// Delegates to the store that is open.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {{
        let store = $self.store()?;
        let answer = store.$method($($argument),*).await;
        $self.seen(&store, answer)
    }};
}

#[async_trait]
impl EventStore for RecoveringStore {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        delegate!(self.record(notification, now))
    }

    async fn claim(&self, now: Now, busy: &[String]) -> Result<Option<Claim>, StoreError> {
        delegate!(self.claim(now, busy))
    }

    async fn advance(&self, claim: Claim, step: Step, now: Now) -> Result<Advanced, StoreError> {
        delegate!(self.advance(claim, step, now))
    }

    async fn give_way(&self, claim: &Claim) -> Result<(), StoreError> {
        delegate!(self.give_way(claim))
    }

    async fn settle(&self, claim: Claim, settlement: Settlement, now: Now) -> Result<(), StoreError> {
        delegate!(self.settle(claim, settlement, now))
    }

    async fn hasten(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        delegate!(self.hasten(id, now))
    }

    async fn amend(&self, id: EventId, amendment: Amendment, now: Now) -> Result<EventRecord, StoreError> {
        delegate!(self.amend(id, amendment, now))
    }

    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        delegate!(self.prune(moment, now, limit))
    }

    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        delegate!(self.retention())
    }

    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        delegate!(self.note_retention(retention))
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreError> {
        delegate!(self.event(id))
    }

    async fn body(&self, id: EventId) -> Result<Option<Body>, StoreError> {
        delegate!(self.body(id))
    }

    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError> {
        delegate!(self.export(from, limit))
    }

    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError> {
        delegate!(self.import(events, now))
    }

    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        delegate!(self.account_status(integration, account))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        delegate!(self.list(filter, before, limit))
    }

    async fn next_due(&self, busy: &[String]) -> Result<Option<Moment>, StoreError> {
        delegate!(self.next_due(busy))
    }

    fn watch(&self, id: EventId) -> Watch {
        self.store().map_or_else(|_| self.0.watches.begin(id), |store| store.watch(id))
    }

    async fn changed(&self) {
        match self.store() {
            Ok(store) => {
                tokio::select! {
                    () = store.changed() => {}
                    () = self.0.turned.notified() => {}
                }
            }
            Err(_) => self.0.turned.notified().await,
        }
    }

    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        delegate!(self.secret(name, fresh))
    }

    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, StoreError> {
        delegate!(self.replace_secret(name, held, fresh))
    }

    async fn use_nonce(&self, nonce: [u8; 16], until: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        delegate!(self.use_nonce(nonce, until, now))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        delegate!(self.ready())
    }

    fn durability(&self) -> Durability {
        self.0.durability
    }
}

#[cfg(test)]
mod tests {
    crate::store::conformance::conformance!({
        let directory = tempfile::tempdir().expect("a directory");
        let store = crate::store::recovering::RecoveringStore::open(
            directory.path(),
            false,
            std::sync::Arc::new(crate::clock::SystemClock),
        )
        .expect("opens");
        (store, directory)
    });

    #[tokio::test]
    async fn whoever_waits_for_a_change_lets_go_of_a_store_that_is_to_be_opened_again() {
        use crate::store::EventStore;
        let directory = tempfile::tempdir().expect("a directory");
        let store =
            super::RecoveringStore::open(directory.path(), false, std::sync::Arc::new(crate::clock::SystemClock))
                .expect("opens");
        // The first change is that it was opened.
        store.changed().await;
        let waiting = store.clone();
        let waiting = tokio::spawn(async move { waiting.changed().await });
        tokio::task::yield_now().await;
        let failed = store.store().expect("it is open");
        store.close(&failed);
        drop(failed);
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, waiting).await.expect("is told").expect("does not panic");
        tokio::time::timeout(patience, store.changed()).await.expect("is opened");
        assert_eq!(store.ready().await, Ok(()), "it is open again");
    }

    #[tokio::test]
    async fn a_store_that_stays_closed_says_why_and_says_it_once() {
        use std::io::Write;
        use std::sync::{Arc, Mutex};

        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);

        impl Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("not poisoned").write(bytes)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut said = String::new();
            let damaged = |reason: &str| super::OpenError::Damaged { directory: "store".into(), reason: reason.into() };
            for reason in ["torn", "torn", "empty", "empty"] {
                super::say_once(&mut said, &damaged(reason));
            }
        });
        let said = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(said.matches("ERROR").count(), 2, "{said}");
        assert!(said.contains("is damaged: torn; move the directory away"), "{said}");
    }

    #[tokio::test]
    async fn a_store_whose_writer_panics_is_opened_again() {
        use crate::store::EventStore;
        use crate::store::conformance::{at, notification};
        let directory = tempfile::tempdir().expect("a directory");
        let clock = std::sync::Arc::new(crate::clock::SystemClock);
        let store = super::RecoveringStore::open(directory.path(), false, clock).expect("opens");
        store.record(&notification("before"), at(0)).await.expect("recorded");
        store.changed().await;
        let failed = store.store().expect("it is open");
        failed.end_writer();
        drop(failed);
        assert!(store.ready().await.is_err());
        let patience = std::time::Duration::from_secs(20);
        // It is told once that the store is closed, and once that it is open.
        while store.ready().await.is_err() {
            tokio::time::timeout(patience, store.changed()).await.expect("is opened");
        }
        assert_eq!(store.record(&notification("after"), at(0)).await, Ok(crate::store::Recorded::New));
        assert!(store.event(notification("before").id()).await.expect("answers").is_some());
    }
}
