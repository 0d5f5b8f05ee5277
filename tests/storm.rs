//! The real program under load, killed over and over at moments nobody chose, on one store that grows (G1–G5, G9).
//!
//! `DOORBELL_STORM_ROUNDS` is the number of kills (default 6; the long form is 200), and tells how large an import is.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use doorbell::clock::{Clock, SystemClock, Timestamp};
use doorbell::event::{
    AccountStatus, BaseUrl, Change, EventId, EventRecord, EventResult, EventType, EventUrl, ExtractedFields,
    Notification,
};
use doorbell::store::export::Line;
use doorbell::store::sled::SledStore;
use doorbell::store::{Accounts, Backup, History, StoredEvent};
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell, gated_vendor};
use crate::support::receiver::{json, notify, token};

/// Notifications on their way at once.
const CALLERS: usize = 16;
/// The most acknowledgements between a start and the kill.
const MOST_ACKNOWLEDGED: u64 = 150;

/// The vendor's side: lets every run go on at once, and keeps the round of each.
#[derive(Default)]
struct Vendor {
    /// Rounds in which the handler ran, by the event's id.
    runs: Mutex<HashMap<String, Vec<usize>>>,
}

impl Vendor {
    /// Serves the runs of one round; returns the address that the vendor's binary calls in it.
    async fn open(self: &Arc<Self>, round: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let vendor = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let vendor = Arc::clone(&vendor);
                tokio::spawn(async move {
                    let mut connection = BufReader::new(connection);
                    let mut event = String::new();
                    if connection.read_line(&mut event).await.is_ok_and(|length| length > 0) {
                        vendor.runs.lock().expect("whole").entry(event.trim().to_owned()).or_default().push(round);
                        let _ = connection.write_all(b"g").await;
                    }
                });
            }
        });
        address
    }
}

struct Storm {
    marketplace: Arc<Marketplace>,
    vendor: Arc<Vendor>,
    directory: TempDir,
    client: Client,
}

impl Storm {
    async fn brew() -> Self {
        Self {
            marketplace: Arc::new(Marketplace::start().await),
            vendor: Arc::default(),
            directory: tempfile::tempdir().expect("a directory"),
            client: Client::new(),
        }
    }

    async fn serve(&self, round: usize) -> Process {
        let gate = self.vendor.open(round).await;
        let path: PathBuf = self.directory.path().join("doorbell.toml");
        let store = format!("sled:{}", self.directory.path().join("data").display());
        std::fs::write(&path, configuration(&self.marketplace.base_url, &store)).expect("written");
        Process::serve(
            &gated_vendor(),
            &path,
            &[("GATE", &gate), ("DOORBELL__LOG__LEVEL", "warn,doorbell=info,doorbell::deliver=warn")],
        )
    }

    async fn bearer(&self, process: &Process) -> String {
        token(&self.client, &process.public, "marketplace", "outbound-secret").await
    }

    /// Every event in the store: its state by the last segment of its URL.
    async fn stored(&self, process: &Process) -> HashMap<String, (String, String)> {
        let mut stored = HashMap::new();
        let mut page = format!("{}/api/v1/events?limit=500", process.admin);
        loop {
            let shown = json(self.client.get(&page).send().await.expect("answers")).await;
            for event in shown["events"].as_array().expect("a list") {
                let text = |name: &str| event[name].as_str().expect("text").to_owned();
                let known = stored.insert(text("token"), (text("id"), text("state")));
                assert_eq!(known, None, "one event is listed twice");
            }
            match &shown["next"] {
                Value::String(next) => page = format!("{}/api/v1/events?limit=500&cursor={next}", process.admin),
                _ => return stored,
            }
        }
    }

    /// Waits until everything that is stored is done.
    async fn until_all_done(&self, process: &Process) -> HashMap<String, (String, String)> {
        let all_done = async {
            loop {
                let stored = self.stored(process).await;
                if stored.values().all(|(_, state)| state == "done") {
                    return stored;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE * 6, all_done).await.expect("everything is done at last")
    }
}

/// A draw from 0 up to `most`.
fn draw(most: u64) -> u64 {
    getrandom::u64().expect("randomness") % (most + 1)
}

fn rounds() -> usize {
    std::env::var("DOORBELL_STORM_ROUNDS").ok().map_or(6, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_moments_it_is_killed_at_every_acknowledged_event_is_done_exactly_once() {
    let storm = Storm::brew().await;
    let mut acknowledged: HashSet<String> = HashSet::new();
    let mut notified = 0;
    for round in 1..=rounds() {
        // Whose result was taken before this start must not run again.
        let taken: HashSet<String> = storm.marketplace.with(|state| {
            state.events.iter().filter(|(_, event)| !event.taken.is_empty()).map(|(id, _)| id.clone()).collect()
        });
        let process = storm.serve(round).await;
        let stored = storm.stored(&process).await;
        for id in &acknowledged {
            assert!(stored.contains_key(id), "event {id} was acknowledged and is gone after kill {}", round - 1);
        }

        let (limit, enough, over) =
            (draw(MOST_ACKNOWLEDGED), Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let bearer = storm.bearer(&process).await;
        let mut callers = JoinSet::new();
        let count = Arc::new(AtomicUsize::new(0));
        for caller in 0..CALLERS {
            let (marketplace, client) = (Arc::clone(&storm.marketplace), storm.client.clone());
            let (public, bearer) = (process.public.clone(), bearer.clone());
            let (enough, over, count) = (Arc::clone(&enough), Arc::clone(&over), Arc::clone(&count));
            callers.spawn(async move {
                let mut taken = Vec::new();
                for number in 0.. {
                    let id = format!("{round}-{caller}-{number}");
                    let url = marketplace.order(&id);
                    let request = client.get(format!("{public}/notifications/create?eventUrl={url}"));
                    let answer = request.bearer_auth(&bearer).send().await;
                    match answer {
                        Ok(answer) if answer.status().is_success() => taken.push(id),
                        Ok(answer) => panic!("{}", answer.status()),
                        // Killed; whether this one was recorded nobody knows.
                        Err(_) => break,
                    }
                    if count.fetch_add(1, Ordering::SeqCst) as u64 + 1 >= limit {
                        enough.notify_one();
                    }
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                taken
            });
        }
        if limit > 0 {
            enough.notified().await;
        }
        process.kill();
        over.store(true, Ordering::SeqCst);
        for taken in callers.join_all().await {
            notified += taken.len();
            acknowledged.extend(taken);
        }

        let runs = storm.vendor.runs.lock().expect("whole").clone();
        for (event, in_rounds) in &runs {
            let mut once: Vec<_> = in_rounds.clone();
            once.dedup();
            assert_eq!(&once, in_rounds, "{event} ran twice without a kill in between");
        }
        for id in &taken {
            if let Some((event, _)) = stored.get(id) {
                let again = runs.get(event).is_some_and(|rounds| rounds.contains(&round));
                assert!(!again, "{id} ran again after its result was taken");
            }
        }
    }
    assert_eq!(notified, acknowledged.len());

    let process = storm.serve(rounds() + 1).await;
    let done = storm.until_all_done(&process).await;
    for id in &acknowledged {
        assert!(done.contains_key(id), "event {id} was acknowledged and is gone");
    }
    let runs = storm.vendor.runs.lock().expect("whole").clone();
    for (id, (event, _)) in &done {
        assert_eq!(storm.marketplace.seen(id).taken.len(), 1, "{id}");
        assert!(runs.contains_key(event), "{id} is done and never ran");
    }
    let repeated = runs.values().filter(|rounds| rounds.len() > 1).count();
    eprintln!(
        "{} kills, {} events acknowledged, {} stored, {repeated} ran again after a kill",
        rounds(),
        acknowledged.len(),
        done.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_notifications_of_each_event_at_once_and_across_a_kill_are_one_event_and_one_result() {
    const EVENTS: usize = 40;
    let storm = Storm::brew().await;
    let urls: Vec<_> = (0..EVENTS).map(|number| storm.marketplace.order(&number.to_string())).collect();
    for round in 1..=2 {
        let process = storm.serve(round).await;
        let bearer = storm.bearer(&process).await;
        let mut callers = JoinSet::new();
        for url in urls.iter().cycle().take(5 * EVENTS) {
            let (client, public) = (storm.client.clone(), process.public.clone());
            let (bearer, url) = (bearer.clone(), url.clone());
            callers.spawn(async move { notify(&client, &public, &bearer, "/create", &url).await.status() });
        }
        let statuses = callers.join_all().await;
        assert!(statuses.iter().all(reqwest::StatusCode::is_success), "{statuses:?}");
        if round == 1 {
            process.kill();
            continue;
        }
        let done = storm.until_all_done(&process).await;
        assert_eq!(done.len(), EVENTS);
        for (id, (event, _)) in &done {
            assert_eq!(storm.marketplace.seen(id).taken.len(), 1, "{id}");
            let runs = storm.vendor.runs.lock().expect("whole")[event].clone();
            assert!(runs == [1] || runs == [2] || runs == [1, 2], "{id} ran in rounds {runs:?}");
        }
    }
}

/// An event as a copy has it: it cancelled an account of its own.
fn cancelled(number: u64) -> EventRecord {
    let base = BaseUrl::parse("https://market.example").expect("a base URL");
    let url = EventUrl::parse(&format!("{base}/events/{number}"), [&base]).expect("an event URL");
    let at = Timestamp::from_millis(1_700_000_000_000);
    let mut record = EventRecord::new(&Notification::new("default".into(), url, None, String::new()), at);
    let fields = ExtractedFields {
        kind: EventType::SubscriptionCancel,
        flag: None,
        account: Some(format!("account-{number}")),
        status_on_success: Some(AccountStatus::Cancelled),
    };
    for change in [Change::Fetched(fields, None), Change::Handled(EventResult::success("bye")), Change::Done(None)] {
        record.apply(change, at).expect("legal");
    }
    record
}

/// Gives so many events of a copy to an import; nothing says yet that these are all.
fn import(configuration: &Path, events: u64) -> Child {
    let mut import = Command::new(doorbell())
        .args(["events", "import", "-", "--config"])
        .arg(configuration)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut copy = std::io::BufWriter::new(import.stdin.as_mut().expect("piped"));
    let event = |number| StoredEvent { record: cancelled(number), body: Some(b"{}".to_vec()) };
    let lines = (0..events).map(|number| Line::Event(Box::new(event(number))));
    for line in [Line::Head].into_iter().chain(lines) {
        writeln!(copy, "{}", line.into_text().expect("JSON")).expect("it reads on");
    }
    copy.flush().expect("it reads on");
    drop(copy);
    import
}

/// In the long form the second kill comes while runs of the index are merged, which is done before the end.
#[tokio::test]
async fn an_import_that_is_killed_over_and_over_brings_every_event_once_and_in_order() {
    let events = rounds() as u64 * 1600;
    let directory = tempfile::tempdir().expect("a directory");
    let (file, store) = (directory.path().join("doorbell.toml"), directory.path().join("data"));
    let text = configuration("https://market.example", &format!("sled:{}", store.display()));
    std::fs::write(&file, text).expect("written");
    for kill in 1..=2 {
        let mut killed = import(&file, events * kill / 5 + draw(events / 5));
        killed.kill().expect("it runs");
        killed.wait().expect("ends");
    }
    let mut import = import(&file, events);
    writeln!(import.stdin.take().expect("piped"), "{}", Line::End(events).into_text().expect("JSON")).expect("read");
    let said = import.wait_with_output().expect("ends");
    assert!(said.status.success(), "{said:?}");
    eprintln!("after 2 kills: {}", String::from_utf8_lossy(&said.stdout).trim());

    let store = SledStore::open(&store, false, SystemClock.read()).expect("opens");
    let (mut place, mut next) = (Some(0), 0);
    while let Some(from) = place {
        let exported = store.export(from, 1000).await.expect("exported");
        for event in exported.events {
            assert_eq!(event.record, cancelled(next));
            next += 1;
        }
        place = exported.next;
    }
    assert_eq!(next, events);
    for number in 0..events {
        let id: EventId = cancelled(number).id;
        assert!(store.load(id, false).await.expect("read").is_some(), "event {number} is not found");
        let status = store.account_status("default", &format!("account-{number}")).await.expect("read");
        assert_eq!(status, Some(AccountStatus::Cancelled), "account {number}");
    }
}
