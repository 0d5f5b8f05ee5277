//! How the worker holds what it has claimed: through failures of the store, lost wake-ups and stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorbell::app::StoreParts;
use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::handler::{NewAccount, SubscriptionOrder};
use doorbell::store::memory::MemoryStore;
use doorbell::store::sled::SledStore;
use doorbell::store::{EventStore, LEASE, Queue};
use doorbell::{EventHandler, HandlerResult, Outcome, async_trait};
use tokio::sync::Semaphore;

use crate::support::faulty_queue::{Fault, FaultyQueue};
use crate::support::marketplace::Marketplace;
use crate::support::receiver::Receiver;
use crate::support::{PATIENCE, configuration, let_time_pass};

/// Counts its runs, and lets each wait until it may end.
#[derive(Clone)]
struct Gated {
    runs: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

/// Counts itself when it ends, however that is.
struct Run(Arc<AtomicUsize>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gated {
    fn with(permits: usize) -> Self {
        Self { runs: Arc::default(), ended: Arc::default(), gate: Arc::new(Semaphore::new(permits)) }
    }

    async fn until_run(&self) {
        until("the handler runs", || self.runs.load(Ordering::SeqCst) > 0).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "waited in vain until {what}");
}

#[async_trait]
impl EventHandler for Gated {
    async fn subscription_order(&self, _: SubscriptionOrder) -> HandlerResult<NewAccount> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let _run = Run(Arc::clone(&self.ended));
        self.gate.acquire().await.expect("open").forget();
        Ok(Outcome::account(doorbell::event::AccountIdentifier::new("acct")?, "welcome"))
    }
}

/// A store in memory whose queue has a fault.
fn faulty(fault: Fault) -> (Arc<dyn EventStore>, StoreParts, Arc<FaultyQueue>) {
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let queue = Arc::new(FaultyQueue::new(Arc::clone(&store) as _, fault));
    let parts = StoreParts { queue: Arc::clone(&queue) as Arc<dyn Queue>, ..Arc::clone(&store).into() };
    (store, parts, queue)
}

#[tokio::test]
async fn a_settle_that_failed_in_passing_is_repeated_by_its_holder() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let (store, parts, queue) = faulty(Fault::FailsToSettle(3));
    let handler = Gated::with(9);
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_on(&text, &store, parts, handler.clone(), clock.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    let done = tokio::select! {
        done = receiver.until_state("done") => done,
        () = let_time_pass(&clock) => unreachable!("time does not end"),
    };
    assert_eq!(done["attempts"], 1, "{done}");
    assert_eq!(queue.settled.load(Ordering::SeqCst), 4);
    assert_eq!((handler.runs.load(Ordering::SeqCst), marketplace.seen("1").taken.len()), (1, 1), "it is told once");
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_its_event_is_worked() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let (store, parts, queue) = faulty(Fault::None);
    let handler = Gated::with(0);
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_on(&text, &store, parts, handler.clone(), clock.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    handler.until_run().await;
    let renewed = || queue.renewed.load(Ordering::SeqCst);
    let started = clock.monotonic();
    until("it is renewed twice", || {
        clock.advance(Duration::from_millis(100));
        renewed() == 2
    })
    .await;
    assert!(clock.monotonic().since(started) < LEASE, "before it ends");
    handler.gate.add_permits(1);
    receiver.until_state("done").await;
    assert_eq!(handler.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_work_on_an_event_ends_when_its_lease_is_lost() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let (store, parts, _) = faulty(Fault::LosesLeases);
    let handler = Gated::with(0);
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_on(&text, &store, parts, handler.clone(), clock.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    handler.until_run().await;
    assert_eq!(handler.ended.load(Ordering::SeqCst), 0);
    clock.advance(LEASE / 3);
    until("its run is stopped", || handler.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_lost_wake_up_costs_one_poll() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let (store, parts, _) = faulty(Fault::NeverWakes);
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_on(&text, &store, parts, Gated::with(9), clock.clone()).await;
    let started = clock.monotonic();
    receiver.notify("/create", &marketplace.order("1")).await;
    // Whoever asks too early finds nothing, so that the only way to it is to ask again.
    tokio::select! {
        _ = receiver.until_state("done") => {}
        () = let_time_pass(&clock) => unreachable!("time does not end"),
    }
    let waited = clock.monotonic().since(started);
    assert!(waited <= Duration::from_secs(20), "{waited:?}");
}

#[tokio::test]
async fn a_stop_gives_back_what_does_not_end_and_a_stopped_process_claims_are_taken_at_once_after_its_restart() {
    let marketplace = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let text =
        configuration(&marketplace.base_url, "memory:").replace("[server]", "[server]\nshutdown_timeout = \"10ms\"");
    let open = || -> Arc<dyn EventStore> {
        Arc::new(SledStore::open(directory.path(), false, SystemClock.read()).expect("opens"))
    };
    let endless = Gated::with(0);
    let receiver = Receiver::start_with(&text, open(), endless.clone(), Arc::new(SystemClock)).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    endless.until_run().await;
    let Receiver { app, store, .. } = receiver;
    app.stop().await;
    drop(store);

    // The next process waits for no lease.
    let started = SystemClock.monotonic();
    let receiver = Receiver::start_with(&text, open(), Gated::with(9), Arc::new(SystemClock)).await;
    let done = receiver.until_state("done").await;
    assert!(SystemClock.monotonic().since(started) < Duration::from_secs(20), "{done}");
    assert_eq!(done["attempts"], 1, "what was given back is no failed attempt: {done}");
}

#[tokio::test]
async fn what_a_stop_gives_back_can_be_claimed_by_another_replica_at_once() {
    let marketplace = Marketplace::start().await;
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let text =
        configuration(&marketplace.base_url, "memory:").replace("[server]", "[server]\nshutdown_timeout = \"10ms\"");
    let endless = Gated::with(0);
    let receiver = Receiver::start_with(&text, Arc::clone(&store), endless.clone(), Arc::new(SystemClock)).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    endless.until_run().await;
    receiver.app.stop().await;
    let claims = store.claim(9, &[], SystemClock.read()).await.expect("answers").claims;
    assert_eq!(claims.iter().map(doorbell::store::Claim::was_lost).collect::<Vec<_>>(), [false]);
}
