//! Product logic that blocks, overruns or panics: it holds up its own event and nothing else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::event::AccountIdentifier;
use doorbell::handler::{NewAccount, SubscriptionChange, SubscriptionOrder};
use doorbell::store::memory::MemoryStore;
use doorbell::{EventHandler, HandlerResult, Outcome, async_trait, retry};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell, gated_vendor};
use crate::support::receiver::{Receiver, json as json_of, notify, token};
use crate::support::{PATIENCE, configuration};

/// What the runs of an event do, by the edition that was bought.
#[derive(Clone, Default)]
struct Product(Arc<Inside>);

#[derive(Default)]
struct Inside {
    gate: Mutex<bool>,
    opened: Condvar,
    runs: Mutex<HashMap<String, Runs>>,
}

#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
struct Runs {
    begun: usize,
    now: usize,
    most_at_once: usize,
}

impl Inside {
    fn open(&self) {
        *self.gate.lock().expect("unpoisoned") = true;
        self.opened.notify_all();
    }

    /// Blocks the thread until the gate is open.
    fn block(&self) {
        let gate = self.gate.lock().expect("unpoisoned");
        let waited = self.opened.wait_timeout_while(gate, PATIENCE, |is_open| !*is_open);
        assert!(!waited.expect("unpoisoned").1.timed_out(), "nobody opened the gate");
    }

    fn runs(&self, edition: &str) -> Runs {
        self.runs.lock().expect("unpoisoned").get(edition).copied().unwrap_or_default()
    }

    fn change(&self, edition: &str, change: impl FnOnce(&mut Runs)) {
        change(self.runs.lock().expect("unpoisoned").entry(edition.to_owned()).or_default());
    }
}

/// Counts a run, until the last of it is dropped.
struct Counted(Arc<Inside>, String);

impl Counted {
    fn begin(inside: &Arc<Inside>, edition: &str) -> Self {
        inside.change(edition, |runs| {
            runs.begun += 1;
            runs.now += 1;
            runs.most_at_once = runs.most_at_once.max(runs.now);
        });
        Self(Arc::clone(inside), edition.to_owned())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(&self.1, |runs| runs.now -= 1);
        match self.1.as_str() {
            "blocks in drop" => self.0.block(),
            "panics in drop" if self.0.runs(&self.1).begun == 1 => panic!("a bug in Drop"),
            _ => {}
        }
    }
}

#[async_trait]
impl EventHandler for Product {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        let edition = event.order.edition_code.unwrap_or_default();
        let counted = Counted::begin(&self.0, &edition);
        let is_first = self.0.runs(&edition).begun == 1;
        match edition.as_str() {
            "blocks" => self.0.block(),
            "blocks and panics" if is_first => {
                self.0.block();
                panic!("after all that");
            }
            "blocks in drop" | "panics in drop" | "waits" if is_first => std::future::pending().await,
            "panics in a task" if is_first => tokio::spawn(async { panic!("in a task") }).await.map_err(retry)?,
            "uses the runtime" => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let spawned = tokio::spawn(async { tokio::task::yield_now().await });
                spawned.await.map_err(retry)?;
                tokio::task::spawn_blocking(|| ()).await.map_err(retry)?;
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(retry)?;
                let address = listener.local_addr().map_err(retry)?;
                let (accepted, _) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
                accepted.map_err(retry)?;
                tokio::task::block_in_place(|| ());
            }
            _ => {}
        }
        drop(counted);
        Ok(Outcome::account(AccountIdentifier::new("account")?, "welcome"))
    }

    async fn subscription_change(&self, event: SubscriptionChange) -> HandlerResult {
        let _counted = Counted::begin(&self.0, &event.order.edition_code.unwrap_or_default());
        self.0.block();
        Ok(Outcome::completed("changed"))
    }
}

fn change(marketplace: &Marketplace, id: &str, account: &str) -> String {
    let payload = json!({"account": {"accountIdentifier": account}, "order": {"editionCode": "blocks"}});
    marketplace.event(id, &json!({"type": "SUBSCRIPTION_CHANGE", "payload": payload}))
}

fn order(marketplace: &Marketplace, id: &str, edition: &str) -> String {
    marketplace.event(id, &json!({"type": "SUBSCRIPTION_ORDER", "payload": {"order": {"editionCode": edition}}}))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "waited in vain until {what}");
}

/// Lets minutes pass on `clock` within a second.
async fn let_time_pass(clock: &ManualClock) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        tick.tick().await;
        clock.advance(Duration::from_millis(100));
    }
}

/// Waits until an attempt of the one event there is has failed with this reason, and returns the event with its timeline.
async fn until_failed(receiver: &Receiver, reason: &str) -> Value {
    let event = receiver.events().await[0].clone();
    let url = format!("{}/api/v1/events/{}", receiver.admin, event["id"].as_str().expect("an id"));
    let mut whole = Value::Null;
    until(&format!("an attempt fails because {reason}"), async || {
        whole = json_of(receiver.client.get(&url).send().await.expect("answers")).await;
        whole["timeline"].to_string().contains(reason)
    })
    .await;
    whole
}

#[tokio::test]
async fn handlers_that_block_their_threads_hold_up_neither_other_events_nor_health() {
    let marketplace = Marketplace::start().await;
    let product = Product::default();
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), product.clone()).await;
    for number in 0..40 {
        receiver.notify("/create", &order(&marketplace, &format!("b{number}"), "blocks")).await;
    }
    until("all of them block", async || product.0.runs("blocks").now == 40).await;
    receiver.notify("/create", &order(&marketplace, "1", "quick")).await;
    marketplace.until_settled("1").await;
    receiver.notify("/create", &order(&marketplace, "2", "uses the runtime")).await;
    marketplace.until_settled("2").await;
    let health = receiver.client.get(format!("{}/health/ready", receiver.public)).send().await.expect("answers");
    assert_eq!(health.status(), StatusCode::OK);
    product.0.open();
    for number in 0..40 {
        marketplace.until_settled(&format!("b{number}")).await;
    }
}

#[tokio::test]
async fn a_run_that_blocks_past_its_limit_is_over_before_the_next_begins() {
    let marketplace = Marketplace::start().await;
    let product = Product::default();
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, product.clone(), clock.clone()).await;
    receiver.notify("/create", &order(&marketplace, "1", "blocks")).await;
    until("it runs", async || product.0.runs("blocks").now == 1).await;
    let event = tokio::select! {
        () = let_time_pass(&clock) => panic!("time does not end"),
        event = until_failed(&receiver, "a run before, of this event or of its account, has not ended") => event,
    };
    assert!(event["attempts"].as_u64() > Some(1), "{event}");
    let timeline = event["timeline"].to_string();
    assert!(timeline.contains("did not finish within 30s, and cannot be stopped"), "{timeline}");
    product.0.open();
    tokio::select! {
        () = let_time_pass(&clock) => {}
        _ = receiver.until_state("done") => {}
    }
    assert_eq!(product.0.runs("blocks"), Runs { begun: 2, now: 0, most_at_once: 1 });
    assert_eq!(marketplace.seen("1").taken.len(), 1);
}

#[tokio::test]
async fn a_run_that_blocks_lets_no_other_event_of_its_account_run_beside_it() {
    let marketplace = Marketplace::start().await;
    let product = Product::default();
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration =
        configuration(&marketplace.base_url, "memory:").replace("[delivery]", "[delivery]\ngive_up_after = \"1ms\"");
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, product.clone(), clock.clone()).await;
    for id in ["1", "2"] {
        receiver.notify("/upgrade", &change(&marketplace, id, "a")).await;
    }
    until("the first runs", async || product.0.runs("blocks").now == 1).await;
    let both_dead = async {
        until("both are given up", async || receiver.events().await.iter().all(|event| event["state"] == "dead")).await;
    };
    tokio::select! {
        () = let_time_pass(&clock) => panic!("time does not end"),
        () = both_dead => {}
    }
    assert_eq!(product.0.runs("blocks"), Runs { begun: 1, now: 1, most_at_once: 1 });
    product.0.open();
    // The marketplace rings again: whatever died of this is taken up.
    receiver.notify("/upgrade", &format!("{}/api/integration/v1/events/2", marketplace.base_url)).await;
    tokio::select! {
        () = let_time_pass(&clock) => {}
        () = marketplace.until_settled("2") => {}
    }
}

#[tokio::test]
async fn a_run_that_ends_a_moment_too_late_still_counts() {
    let marketplace = Marketplace::start().await;
    let product = Product::default();
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, product.clone(), clock.clone()).await;
    receiver.notify("/create", &order(&marketplace, "1", "blocks")).await;
    until("it runs", async || product.0.runs("blocks").now == 1).await;
    clock.advance(Duration::from_secs(30));
    product.0.open();
    let event = receiver.until_state("done").await;
    assert_eq!((&event["attempts"], product.0.runs("blocks").begun), (&json!(1), 1));
}

#[tokio::test]
async fn a_run_that_waits_past_its_limit_is_dropped_before_the_next_begins() {
    for (edition, reason) in [
        ("waits", "did not finish within 30s"),
        // It may take the time that passes here to say that it panics.
        ("panics in drop", "the handler"),
        ("blocks in drop", "has not ended"),
        ("blocks and panics", "has not ended"),
    ] {
        let marketplace = Marketplace::start().await;
        let product = Product::default();
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let configuration = configuration(&marketplace.base_url, "memory:");
        let store = Arc::new(MemoryStore::new());
        let receiver = Receiver::start_with(&configuration, store, product.clone(), clock.clone()).await;
        receiver.notify("/create", &order(&marketplace, "1", edition)).await;
        until("it runs", async || product.0.runs(edition).begun == 1).await;
        tokio::select! {
            () = let_time_pass(&clock) => {}
            _ = until_failed(&receiver, reason) => {}
        }
        product.0.open();
        tokio::select! {
            () = let_time_pass(&clock) => {}
            _ = receiver.until_state("done") => {}
        }
        assert_eq!(product.0.runs(edition), Runs { begun: 2, now: 0, most_at_once: 1 }, "{edition}");
    }
}

#[tokio::test]
async fn a_panic_in_a_task_of_the_handlers_own_reaches_the_handler_only() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Product::default()).await;
    receiver.notify("/create", &order(&marketplace, "1", "panics in a task")).await;
    let event = receiver.until_state("done").await;
    assert_eq!(event["attempts"], 2);
}

#[tokio::test]
async fn a_stop_within_the_process_does_not_wait_for_a_handler_that_blocks() {
    let marketplace = Marketplace::start().await;
    let product = Product::default();
    let configuration =
        configuration(&marketplace.base_url, "memory:").replace("[server]", "[server]\nshutdown_timeout = \"50ms\"");
    let receiver = Receiver::start(&configuration, product.clone()).await;
    receiver.notify("/create", &order(&marketplace, "1", "blocks")).await;
    until("it runs", async || product.0.runs("blocks").now == 1).await;
    tokio::time::timeout(PATIENCE, receiver.app.stop()).await.expect("stops");
    assert_eq!(product.0.runs("blocks").now, 1, "it stopped while the handler ran");
    product.0.open();
}

/// A vendor's program whose handler blocks, in as many events as there are processors.
struct Blocked {
    marketplace: Marketplace,
    directory: TempDir,
    process: Process,
    events: usize,
    /// The connections of the runs to the test.
    _runs: Vec<TcpStream>,
}

impl Blocked {
    async fn with(shutdown_timeout: &str) -> Self {
        let marketplace = Marketplace::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = gate.local_addr().expect("an address").to_string();
        let file = Self::configuration(&marketplace, &directory, shutdown_timeout);
        let process = Process::serve(&gated_vendor(), &file, &[("GATE", &address), ("BLOCKS", "1")]);
        let client = Client::new();
        let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
        let events = std::thread::available_parallelism().map_or(2, usize::from);
        let mut runs = Vec::new();
        for number in 0..events {
            let url = marketplace.order(&number.to_string());
            let answer = notify(&client, &process.public, &bearer, "/create", &url).await;
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            let (run, _) = gate.accept().expect("a run");
            BufReader::new(&run).read_line(&mut String::new()).expect("it runs");
            runs.push(run);
        }
        Self { marketplace, directory, process, events, _runs: runs }
    }

    /// Another start opens the store and finishes what was interrupted.
    async fn finish(marketplace: &Marketplace, directory: &TempDir, events: usize) {
        let file = Self::configuration(marketplace, directory, "1s");
        let _again = Process::serve(&doorbell(), &file, &[]);
        for number in 0..events {
            let id = number.to_string();
            marketplace.until_settled(&id).await;
            assert_eq!(marketplace.seen(&id).reads, 1, "the body was stored");
        }
    }

    fn configuration(marketplace: &Marketplace, directory: &TempDir, shutdown_timeout: &str) -> PathBuf {
        let path = directory.path().join("doorbell.toml");
        let store = format!("sled:{}", directory.path().join("data").display());
        let text = configuration(&marketplace.base_url, &store)
            .replace("[server]", &format!("[server]\nshutdown_timeout = \"{shutdown_timeout}\""));
        std::fs::write(&path, text).expect("written");
        path
    }
}

#[tokio::test]
async fn a_handler_that_blocks_does_not_keep_the_process_past_its_time_and_loses_nothing() {
    let blocked = Blocked::with("1s").await;
    let (status, log) = blocked.process.terminate();
    assert!(status.success(), "{status}: {log:?}");
    assert!(log.iter().any(|line| line.contains("work in hand did not finish in time")), "{log:?}");
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:?}");
    Blocked::finish(&blocked.marketplace, &blocked.directory, blocked.events).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_whatever_its_handler_does() {
    for second in ["TERM", "INT"] {
        let blocked = Blocked::with("1h").await;
        blocked.process.signal("TERM");
        blocked.process.until_logged("a second signal stops at once");
        blocked.process.signal(second);
        let (status, log) = blocked.process.wait();
        assert_eq!(status.code(), Some(1), "{log:?}");
        assert!(log.iter().any(|line| line.contains("stopped at once")), "{log:?}");
        Blocked::finish(&blocked.marketplace, &blocked.directory, blocked.events).await;
    }
}
