//! A store in a directory that comes back by itself when its disk does.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretSlice;

use super::directory::OpenError;
use super::error::closed;
use super::index::Sizes;
use super::store::{Kept, SledStore};
use crate::clock::{Clock, Now, Timestamp};
use crate::event::{AccountStatus, Body, EventId, EventRecord, Notification};
use crate::store::local::lock;
use crate::store::{
    Accounts, Advanced, Backup, Claim, Claims, Completion, Counts, Description, EventStore, Exported, Filter, History,
    Inbox, Lease, OperatorAction, Page, Progress, Pruned, Queue, QueueError, Recorded, Retention, Secrets, Sequence,
    StoreError, StoredEvent, Subscription,
};

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
/// does it without one, as soon as there is room. Whoever holds an event meanwhile holds it still, and may repeat a write that
/// failed.
#[derive(Clone)]
pub struct RecoveringStore(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    directory: PathBuf,
    require_durable: bool,
    description: Description,
    kept: Kept,
    slot: Mutex<Slot>,
}

/// The store, as far as there is one.
enum Slot {
    Open(Arc<SledStore>),
    /// It is being opened again.
    Opening(Kept),
    /// It has been closed, for good.
    Closed,
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
            description: store.describe(),
            kept: store.kept.clone(),
            slot: Mutex::new(Slot::Open(Arc::new(store))),
        })))
    }

    fn store(&self) -> Result<Arc<SledStore>, StoreError> {
        match &*self.0.slot() {
            Slot::Open(store) => Ok(Arc::clone(store)),
            Slot::Opening(_) => Err(StoreError::Unavailable("it waits for its disk to come back".to_owned())),
            Slot::Closed => Err(closed()),
        }
    }

    /// Has the store opened again if it has failed for good.
    fn note(&self, store: &Arc<SledStore>, error: &StoreError) {
        if matches!(error, StoreError::Unavailable(_)) && store.has_failed() {
            self.open_again(store);
        }
    }

    /// Lets go of `store`, unless that was done, and has it opened again.
    fn open_again(&self, store: &Arc<SledStore>) {
        let mut slot = self.0.slot();
        if matches!(&*slot, Slot::Open(current) if Arc::ptr_eq(current, store)) {
            *slot = Slot::Opening(store.kept());
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move { inner.reopen().await });
        }
    }
}

impl Inner {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.slot)
    }

    /// What the store to be opened goes on with, unless it has been closed.
    fn opening(&self) -> Option<Kept> {
        match &*self.slot() {
            Slot::Opening(kept) => Some(kept.clone()),
            Slot::Open(_) | Slot::Closed => None,
        }
    }

    async fn reopen(self: Arc<Self>) {
        tracing::error!(directory = %self.directory.display(), "the store is closed until its disk takes writes again");
        let mut said = String::new();
        loop {
            tokio::time::sleep(PAUSE).await;
            let Some(kept) = self.opening() else { return };
            let (directory, require_durable) = (self.directory.clone(), self.require_durable);
            let now = self.clock.read();
            let opened = tokio::task::spawn_blocking(move || {
                has_room(&directory).map_err(|source| OpenError::Directory { directory: directory.clone(), source })?;
                SledStore::open_with(&directory, require_durable, now, Sizes::default(), kept)
            });
            match opened.await {
                Ok(Ok(store)) => {
                    let mut slot = self.slot();
                    if matches!(&*slot, Slot::Opening(_)) {
                        *slot = Slot::Open(Arc::new(store));
                        tracing::info!(directory = %self.directory.display(), "the store is open again");
                    }
                    drop(slot);
                    // What was written just before may have been made durable without a word.
                    self.kept.subscriptions.publish_all();
                    self.kept.wakeup.notify_one();
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
        store.$method($($argument),*).await.inspect_err(|error| $self.note(&store, error))
    }};
}

/// The same for a step of a holder, who has the claim back if it fails.
macro_rules! delegate_step {
    ($self:ident.$method:ident($claim:ident, $($argument:expr),*)) => {{
        match $self.store() {
            Ok(store) => {
                store.$method($claim, $($argument),*).await.inspect_err(|error| $self.note(&store, &error.error))
            }
            Err(error) => Err(QueueError { claim: $claim, error }),
        }
    }};
}

#[async_trait]
impl Inbox for RecoveringStore {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        delegate!(self.record(notification, now))
    }

    async fn amend(&self, id: EventId, action: OperatorAction, now: Now) -> Result<EventRecord, StoreError> {
        delegate!(self.amend(id, action, now))
    }

    async fn make_due(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        delegate!(self.make_due(id, now))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        delegate!(self.ready())
    }
}

#[async_trait]
impl Queue for RecoveringStore {
    async fn claim(&self, limit: usize, saturated: &[String], now: Now) -> Result<Claims, StoreError> {
        delegate!(self.claim(limit, saturated, now))
    }

    async fn advance(&self, claim: Claim, progress: &Progress, now: Now) -> Result<Advanced, QueueError> {
        delegate_step!(self.advance(claim, progress, now))
    }

    async fn settle(&self, claim: Claim, completion: &Completion, now: Now) -> Result<(), QueueError> {
        delegate_step!(self.settle(claim, completion, now))
    }

    async fn renew(&self, lease: &Lease, now: Now) -> Result<(), StoreError> {
        delegate!(self.renew(lease, now))
    }

    async fn release(&self, lease: Lease, now: Now) -> Result<(), StoreError> {
        if let Some(Kept { scheduler: Some(scheduler), .. }) = self.0.opening() {
            lock(&scheduler).give_back(&lease);
            lease.end();
            return Ok(());
        }
        delegate!(self.release(lease, now))
    }

    async fn body(&self, claim: &Claim) -> Result<Option<Body>, StoreError> {
        delegate!(self.body(claim))
    }

    async fn wakeup(&self) {
        // Without the store itself: whoever waits must not hold it, or it could never be opened again.
        self.0.kept.wakeup.notified().await;
    }
}

#[async_trait]
impl History for RecoveringStore {
    async fn load(&self, id: EventId, with_body: bool) -> Result<Option<StoredEvent>, StoreError> {
        delegate!(self.load(id, with_body))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        delegate!(self.list(filter, before, limit))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        delegate!(self.counts())
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

    fn subscribe(&self, id: EventId) -> Subscription {
        self.0.kept.subscriptions.begin(id)
    }
}

#[async_trait]
impl Accounts for RecoveringStore {
    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        delegate!(self.account_status(integration, account))
    }
}

#[async_trait]
impl Secrets for RecoveringStore {
    async fn get(&self, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
        delegate!(self.get(name))
    }

    async fn create(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        delegate!(self.create(name, fresh))
    }

    async fn replace(&self, name: &str, held: &SecretSlice<u8>, fresh: SecretSlice<u8>) -> Result<bool, StoreError> {
        delegate!(self.replace(name, held, fresh))
    }

    async fn put(
        &self,
        key: [u8; 16],
        until: Timestamp,
        value: SecretSlice<u8>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        delegate!(self.put(key, until, value, now))
    }

    async fn take(
        &self,
        key: [u8; 16],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<SecretSlice<u8>>, StoreError> {
        delegate!(self.take(key, until, now))
    }
}

#[async_trait]
impl Backup for RecoveringStore {
    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError> {
        delegate!(self.export(from, limit))
    }

    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError> {
        delegate!(self.import(events, now))
    }
}

#[async_trait]
impl EventStore for RecoveringStore {
    fn describe(&self) -> Description {
        self.0.description
    }

    async fn close(&self) {
        let slot = std::mem::replace(&mut *self.0.slot(), Slot::Closed);
        if let Slot::Open(store) = slot {
            store.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::{ManualClock, Moment, SystemClock};
    use crate::store::conformance::{at, claim, dead, fetched, notification, proceed, record};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn open(directory: &tempfile::TempDir) -> RecoveringStore {
        RecoveringStore::open(directory.path(), false, Arc::new(SystemClock)).expect("opens")
    }

    crate::store::conformance::conformance!(
        48,
        {
            let directory = tempfile::tempdir().expect("a directory");
            (super::open(&directory), directory)
        },
        Some(|directory: &tempfile::TempDir, now| {
            let clock = super::ManualClock::starting_at(now.wall);
            clock.advance(now.monotonic.since(super::Moment::default()));
            clock.set(now.wall);
            let store = super::RecoveringStore::open(directory.path(), false, std::sync::Arc::new(clock));
            crate::store::conformance::both_handles(store.expect("opens"))
        })
    );

    /// Has the store fail, and waits until it is open again.
    async fn fail(store: &RecoveringStore) {
        let failed = store.store().expect("it is open");
        failed.end_writer();
        drop(failed);
        assert!(store.ready().await.is_err());
        until_open(store).await;
    }

    async fn until_open(store: &RecoveringStore) {
        let opened = async {
            while store.ready().await.is_err() {
                store.wakeup().await;
            }
        };
        tokio::time::timeout(PATIENCE, opened).await.expect("is opened");
    }

    #[tokio::test]
    async fn an_earlier_event_of_an_account_waits_for_the_one_that_is_held_over_a_store_that_is_opened_again_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        for token in ["1", "2"] {
            store.record(&notification(token), at(0)).await.expect("recorded");
        }
        let first = claim(&store, at(0)).await.expect("one event");
        let first = proceed(&store, first, &fetched(Some("a"), b"{}"), at(0)).await;
        store.settle(first, &dead("over"), at(0)).await.expect("settled");
        let second = claim(&store, at(0)).await.expect("the other");
        let second = proceed(&store, second, &fetched(Some("a"), b"{}"), at(0)).await;
        store.amend(notification("1").id(), OperatorAction::Rerun, at(1)).await.expect("run again");
        assert!(claim(&store, at(2)).await.is_none(), "the second one runs");
        fail(&store).await;
        assert!(claim(&store, at(2)).await.is_none(), "it still does");
        store.settle(second, &dead("over"), at(3)).await.expect("settled");
        let first = claim(&store, at(3)).await.expect("its turn");
        assert_eq!(first.event().id, notification("1").id());
    }

    #[tokio::test]
    async fn who_holds_an_event_while_the_store_fails_holds_it_still_and_repeats_what_was_not_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        for token in ["1", "2"] {
            store.record(&notification(token), at(0)).await.expect("recorded");
        }
        let first = claim(&store, at(0)).await.expect("one event");
        let vanishing = claim(&store, at(0)).await.expect("the other");
        store.store().expect("open").end_writer();
        let failed = store.advance(first, &fetched(Some("a"), b"{}"), at(1)).await.expect_err("nobody writes");
        assert!(failed.error.is_transient(), "{}", failed.error);
        until_open(&store).await;
        assert!(claim(&store, at(1)).await.is_none(), "both are held");
        store.renew(&failed.claim.lease(), at(1)).await.expect("it is held");
        drop(vanishing);
        let other = claim(&store, at(1)).await.expect("its holder is gone");
        assert_eq!((other.event().id, other.was_lost()), (notification("2").id(), true));
        let advanced = store.advance(failed.claim, &fetched(Some("a"), b"{}"), at(1)).await.expect("taken now");
        let Advanced::Proceed(first) = advanced else { panic!("nothing is in its way") };
        let blocked = store.advance(other, &fetched(Some("a"), b"{}"), at(1)).await.expect("taken");
        assert!(matches!(blocked, Advanced::Blocked), "the first one runs");
        store.settle(first, &dead("over"), at(2)).await.expect("settled");
    }

    #[tokio::test]
    async fn what_was_written_before_the_store_failed_is_not_written_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        for token in ["1", "2"] {
            store.record(&notification(token), at(0)).await.expect("recorded");
        }
        let first = claim(&store, at(0)).await.expect("one event");
        let second = claim(&store, at(0)).await.expect("the other");
        let (first_again, second_again) = (first.again(), second.again());
        let advanced = store.advance(first, &fetched(Some("a"), b"{}"), at(1)).await.expect("taken");
        store.settle(second, &dead("over"), at(1)).await.expect("settled");
        fail(&store).await;
        let before = record(&store, notification("2").id()).await;
        store.settle(second_again, &dead("over"), at(1)).await.expect("it is so already");
        assert_eq!(record(&store, notification("2").id()).await, before);
        let before = record(&store, notification("1").id()).await;
        let again = store.advance(first_again, &fetched(Some("a"), b"{}"), at(1)).await.expect("it is so already");
        assert_eq!(record(&store, notification("1").id()).await, before);
        drop((advanced, again));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_wakeup_lets_go_of_a_store_that_is_to_be_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        let waiting = store.clone();
        let waiting = tokio::spawn(async move { waiting.wakeup().await });
        tokio::task::yield_now().await;
        let failed = store.store().expect("it is open");
        store.open_again(&failed);
        drop(failed);
        tokio::time::timeout(PATIENCE, waiting).await.expect("is woken").expect("does not panic");
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
            let damaged = |reason: &str| OpenError::Damaged { directory: "store".into(), reason: reason.into() };
            for reason in ["torn", "torn", "empty", "empty"] {
                say_once(&mut said, &damaged(reason));
            }
        });
        let said = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(said.matches("ERROR").count(), 2, "{said}");
        assert!(said.contains("is damaged: torn; move the directory away"), "{said}");
    }

    #[tokio::test]
    async fn a_store_whose_writer_panics_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory);
        store.record(&notification("before"), at(0)).await.expect("recorded");
        fail(&store).await;
        assert_eq!(store.record(&notification("after"), at(0)).await, Ok(Recorded::New));
        assert!(record(&store, notification("before").id()).await.is_some());
    }
}
