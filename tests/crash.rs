//! Whatever moment the program dies at, what it acknowledged is done once (G1, G2, G4, G9).

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use reqwest::{Client, StatusCode};
use tempfile::TempDir;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::process::{Process, doorbell, gated_vendor};
use crate::support::receiver::{json, notify, token};

struct Stage {
    marketplace: Marketplace,
    directory: TempDir,
    client: Client,
}

impl Stage {
    async fn set() -> Self {
        Self {
            marketplace: Marketplace::start().await,
            directory: tempfile::tempdir().expect("a directory"),
            client: Client::new(),
        }
    }

    fn configuration(&self) -> PathBuf {
        let path = self.directory.path().join("doorbell.toml");
        let store = format!("sled:{}", self.directory.path().join("data").display());
        std::fs::write(&path, configuration(&self.marketplace.base_url, &store)).expect("written");
        path
    }

    fn serve(&self) -> Process {
        Process::serve(&doorbell(), &self.configuration(), &[])
    }

    async fn notify(&self, process: &Process, url: &str) {
        let bearer = token(&self.client, &process.public, "marketplace", "outbound-secret").await;
        let answer = notify(&self.client, &process.public, &bearer, "/create", url).await;
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// Waits until the event has a result and the program knows it.
    async fn until_done(&self, process: &Process, id: &str) {
        self.marketplace.until_settled(id).await;
        loop {
            let answer = self.client.get(format!("{}/api/v1/events", process.admin)).send().await.expect("answers");
            assert_eq!(answer.status(), StatusCode::OK);
            let events = json(answer).await;
            assert_eq!(
                events["events"].as_array().expect("a list").len(),
                1,
                "one event, however often it was notified"
            );
            if events["events"][0]["state"] == "done" {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn killed_after_the_acknowledgement_and_before_the_event_was_read() {
    let stage = Stage::set().await;
    stage.marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
    let url = stage.marketplace.order("1");
    let process = stage.serve();
    stage.notify(&process, &url).await;
    stage.marketplace.until("the reading has begun", |state| state.events["1"].reads == 1).await;
    process.kill();
    let process = stage.serve();
    stage.notify(&process, &url).await;
    stage.until_done(&process, "1").await;
    let seen = stage.marketplace.seen("1");
    assert_eq!((seen.reads, seen.taken.len(), seen.refused), (2, 1, 0));
}

#[tokio::test]
async fn killed_while_the_handler_runs() {
    let stage = Stage::set().await;
    let url = stage.marketplace.order("1");
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = gate.local_addr().expect("an address").to_string();
    let serve = || Process::serve(&gated_vendor(), &stage.configuration(), &[("GATE", &address)]);

    let process = serve();
    stage.notify(&process, &url).await;
    let (first, _) = run_of(&gate);
    process.kill();
    let process = serve();
    let (second, mut connection) = run_of(&gate);
    assert_eq!(first, second, "a repeated run has the same event id");
    connection.write_all(b"g").expect("opened");
    stage.until_done(&process, "1").await;
    let seen = stage.marketplace.seen("1");
    assert_eq!((seen.reads, seen.taken.len(), seen.refused), (1, 1, 0), "the body was stored, and is not read again");
    assert_no_run(&gate);
}

#[tokio::test]
async fn killed_after_the_outcome_was_stored_and_before_it_was_taken() {
    let stage = Stage::set().await;
    stage.marketplace.with(|state| state.result_twists.push_back(Twist::Hang));
    let url = stage.marketplace.order("1");
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = gate.local_addr().expect("an address").to_string();
    let serve = || Process::serve(&gated_vendor(), &stage.configuration(), &[("GATE", &address)]);

    let process = serve();
    stage.notify(&process, &url).await;
    run_of(&gate).1.write_all(b"g").expect("opened");
    stage.marketplace.until("the report has begun", |state| state.arrived.get("result") == Some(&1)).await;
    process.kill();
    let process = serve();
    stage.until_done(&process, "1").await;
    let seen = stage.marketplace.seen("1");
    assert_eq!((seen.reads, seen.taken.len(), seen.refused), (1, 1, 0));
    assert_no_run(&gate);
}

#[tokio::test]
async fn killed_after_the_result_was_taken_and_before_that_was_noted() {
    let stage = Stage::set().await;
    let url = stage.marketplace.order("1");
    // The marketplace takes the result, and its answer never comes.
    let process = stage.serve();
    stage.marketplace.with(|state| state.result_twists.push_back(Twist::TakeAndHang));
    stage.notify(&process, &url).await;
    stage.marketplace.until_settled("1").await;
    process.kill();
    let process = stage.serve();
    stage.until_done(&process, "1").await;
    let seen = stage.marketplace.seen("1");
    assert_eq!((seen.taken.len(), seen.refused), (1, 1), "taken once; the repetition was refused and settled it");
}

#[tokio::test]
async fn killed_at_once_after_a_burst_of_acknowledgements() {
    let stage = Stage::set().await;
    let process = stage.serve();
    let bearer = token(&stage.client, &process.public, "marketplace", "outbound-secret").await;
    let mut burst = tokio::task::JoinSet::new();
    for number in 0..100 {
        let url = stage.marketplace.order(&number.to_string());
        let (client, public, bearer) = (stage.client.clone(), process.public.clone(), bearer.clone());
        burst.spawn(async move { notify(&client, &public, &bearer, "/create", &url).await.status() });
    }
    let statuses = burst.join_all().await;
    process.kill();
    assert!(statuses.iter().all(StatusCode::is_success), "{statuses:?}");
    let _process = stage.serve();
    stage
        .marketplace
        .until("every event has a result", |state| state.events.values().all(|event| event.taken.len() == 1))
        .await;
}

#[tokio::test]
async fn asked_to_stop_it_finishes_what_is_in_hand_and_says_so() {
    let stage = Stage::set().await;
    let url = stage.marketplace.order("1");
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = gate.local_addr().expect("an address").to_string();
    let process = Process::serve(&gated_vendor(), &stage.configuration(), &[("GATE", &address)]);
    stage.notify(&process, &url).await;
    let (_, mut connection) = run_of(&gate);
    let stopping = std::thread::spawn(move || process.terminate());
    connection.write_all(b"g").expect("opened");
    let (status, log) = stopping.join().expect("stopped");
    assert!(status.success(), "{status}");
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:?}");
    assert_eq!(stage.marketplace.seen("1").taken.len(), 1);
}

/// The next run of the handler: the event it is for, and the connection that lets it go on.
fn run_of(gate: &TcpListener) -> (String, TcpStream) {
    gate.set_nonblocking(false).expect("set");
    let (connection, _) = gate.accept().expect("a run");
    let mut event = String::new();
    BufReader::new(&connection).read_line(&mut event).expect("an id");
    (event, connection)
}

fn assert_no_run(gate: &TcpListener) {
    gate.set_nonblocking(true).expect("set");
    assert!(gate.accept().is_err(), "the handler ran again");
}
