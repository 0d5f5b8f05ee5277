//! Copies of a store: a backup while the receiver runs, and the way back.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use reqwest::Client;
use serde_json::Value;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};
use crate::support::receiver::{notify, token};

fn events(file: &Path, arguments: &[&str], admin: &str) -> Output {
    Command::new(doorbell())
        .arg("events")
        .args(arguments)
        .arg("--config")
        .arg(file)
        .env("DOORBELL__ADMIN__LISTEN", admin)
        .stdin(Stdio::null())
        .output()
        .expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_backup_of_a_running_receiver_brings_everything_back_and_runs_nothing_again() {
    let market = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let write = |name: &str, store: &str| {
        let text = configuration(&market.base_url, &format!("sled:{}", at(store).display()));
        std::fs::write(at(name), text).expect("written");
        at(name)
    };
    let (old, new) = (write("old.toml", "old"), write("new.toml", "new"));
    let backup = at("backup.ndjson");
    let backup_name = backup.to_str().expect("text");

    let receiver = Process::serve(&doorbell(), &old, &[]);
    let admin = receiver.admin.trim_start_matches("http://").to_owned();
    let client = Client::new();
    let bearer = token(&client, &receiver.public, "marketplace", "outbound-secret").await;
    for number in 0..20 {
        let id = number.to_string();
        notify(&client, &receiver.public, &bearer, "/create", &market.order(&id)).await;
        market.until_settled(&id).await;
    }
    // It is done in the marketplace's state a moment before it is in ours.
    let done = async {
        loop {
            let listed = events(&old, &["list", "--state", "done", "--output", "json"], &admin);
            let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
            if listed["events"].as_array().is_some_and(|events| events.len() == 20) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, done).await.expect("all are done");
    let copied = events(&old, &["export", "--to", backup_name], &admin);
    assert!(copied.status.success() && said(&copied).contains("20 events in"), "{}", said(&copied));
    let running = events(&old, &["import", backup_name], &admin);
    assert!(said(&running).contains("in use by another doorbell"), "{}", said(&running));
    receiver.kill();

    let offline = events(&old, &["export", "--offline"], &admin);
    assert_eq!(offline.stdout, std::fs::read(&backup).expect("readable"), "both ways give the same copy");

    let whole = std::fs::read_to_string(&backup).expect("text");
    let lines: Vec<&str> = whole.lines().collect();
    let damaged = at("damaged.ndjson");
    let damaged_name = damaged.to_str().expect("text");
    for (text, complaint) in [
        (
            lines[..10].join("\n"),
            "line 11: the copy ends here, after 9 events, and not where it should: it was cut off",
        ),
        (whole[..whole.len() / 2].to_owned(), "it is no line of a doorbell export"),
        ([&lines[..3], &lines[4..]].concat().join("\n"), "the copy had 20 events, and 19 were read"),
        (lines[1..].join("\n"), "line 1: it is not what stands here"),
        (String::new(), "line 1: the copy ends here"),
        ("PK\u{3}\u{4}".to_owned(), "line 1: it is no line of a doorbell export"),
    ] {
        std::fs::write(&damaged, text).expect("written");
        let output = events(&new, &["import", damaged_name], &admin);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(complaint), "{complaint}: {}", said(&output));
    }
    let imported = events(&new, &["import", backup_name], &admin);
    assert!(imported.status.success(), "{}", said(&imported));
    let again = events(&new, &["import", backup_name], &admin);
    assert_eq!(said(&again), "0 events imported, 20 were there already\n");

    let receiver = Process::serve(&doorbell(), &new, &[]);
    let admin = receiver.admin.trim_start_matches("http://").to_owned();
    let bearer = token(&client, &receiver.public, "marketplace", "outbound-secret").await;
    let url = format!("{}/api/integration/v1/events/7", market.base_url);
    let answer = notify(&client, &receiver.public, &bearer, "/create", &url).await;
    assert_eq!(answer.status().as_u16(), 200, "a finished event is known");
    assert_eq!(market.seen("7").reads, 1, "and not read again");
    let copied = events(&new, &["export"], &admin);
    assert_eq!(copied.stdout, std::fs::read(&backup).expect("readable"), "the copy of the copy is the same");

    let listed = events(&new, &["list", "--limit", "3"], &admin);
    assert!(
        said(&listed).contains("SUBSCRIPTION_ORDER") && said(&listed).contains("there are more: --cursor"),
        "{}",
        said(&listed)
    );
    let listed = events(&new, &["list", "--limit", "1", "--output", "json"], &admin);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let id = listed["events"][0]["id"].as_str().expect("an id").to_owned();
    let shown = events(&new, &["show", &id], &admin);
    assert!(said(&shown).contains("handled") && said(&shown).contains("\"editionCode\":\"BASIC\""), "{}", said(&shown));
    let retried = events(&new, &["retry", &id], &admin);
    assert!(retried.status.success() && said(&retried).contains("fetched"), "{}", said(&retried));
    let refused = events(&new, &["resolve", &id, "--account-identifier", "a"], &admin);
    assert!(said(&refused).contains("answered 409"), "{}", said(&refused));
    let unknown = events(&new, &["show", "../keys"], &admin);
    assert!(said(&unknown).contains("there is no event with this id"), "{}", said(&unknown));
}

#[test]
fn what_can_be_read_is_copied_though_something_cannot() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data, file, copy) =
        (directory.path().join("data"), directory.path().join("doorbell.toml"), directory.path().join("copy.ndjson"));
    let text = configuration("http://127.0.0.1:1", &format!("sled:{}", data.display()));
    std::fs::write(&file, text).expect("written");
    let export = || events(&file, &["export", "--offline", "--to", copy.to_str().expect("text")], "127.0.0.1:1");
    assert!(export().status.success(), "an empty store");
    let database = sled::open(data.join("sled")).expect("opens");
    database.insert([b"e".as_slice(), &7_u64.to_be_bytes()].concat(), b"no record".as_slice()).expect("written");
    database.flush().expect("flushed");
    drop(database);
    std::fs::remove_file(&copy).expect("removed");
    let output = export();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("event number 7 is not in the copy"), "{}", said(&output));
    assert!(std::fs::read_to_string(&copy).expect("it is there").contains("\"end\":true"));
}
