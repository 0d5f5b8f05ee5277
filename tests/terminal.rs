//! What others wrote, on the operator's terminal and in the operator's log: shown, never obeyed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell, gated_vendor};
use crate::support::receiver::{notify, token};
use crate::support::{PATIENCE, configuration};

/// Retitles the window, clears the screen in C0 and in C1, writes from right to left, hides, breaks lines.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J\u{7f}\u{8}\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\r\n\tx";

fn run(file: &Path, arguments: &[&str], admin: &str) -> Output {
    Command::new(doorbell())
        .args(arguments)
        .arg("--config")
        .arg(file)
        .env("DOORBELL__ADMIN__LISTEN", admin.trim_start_matches("http://"))
        .output()
        .expect("runs")
}

/// Whether a terminal that is shown this would do anything but show it and begin new lines.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || c.is_ascii_graphic() || c == ' ' || !c.is_control() && !HOSTILE.contains(c))
}

fn harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    assert!(is_harmless(&text), "{text:?}");
    text
}

#[tokio::test]
async fn what_a_marketplace_wrote_is_shown_by_every_command_and_obeyed_by_no_terminal() {
    let marketplace = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorbell.toml");
    std::fs::write(&file, configuration(&marketplace.base_url, "memory:")).expect("written");
    let process = Process::serve(&doorbell(), &file, &[]);
    let body = json!({
        "type": format!("NEW{HOSTILE}"),
        "flag": HOSTILE,
        "payload": {"account": {"accountIdentifier": format!("acct{HOSTILE}")}},
    });
    let client = reqwest::Client::new();
    let token = token(&client, &process.public, "marketplace", "outbound-secret").await;
    notify(&client, &process.public, &token, "/create", &marketplace.event("one", &body)).await;
    marketplace.until_settled("one").await;

    let listed = run(&file, &["events", "list", "--output", "json"], &process.admin);
    let events: Value = serde_json::from_str(&harmless(&listed.stdout)).expect("JSON");
    let event = &events["events"][0];
    assert_eq!(event["type"], format!("NEW{HOSTILE}"), "JSON means what was written");
    let id = event["id"].as_str().expect("an id");

    let account = format!("acct{HOSTILE}");
    for arguments in [
        &["events", "list"][..],
        &["events", "list", "--account", &account],
        &["events", "show", id],
        &["events", "show", id, "--output", "json"],
        &["events", "retry", id],
        &["events", "export"],
    ] {
        let output = run(&file, arguments, &process.admin);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = harmless(&output.stdout);
        assert!(text.contains("owned"), "{arguments:?} shows it: {text}");
        harmless(&output.stderr);
    }
    let table = harmless(&run(&file, &["events", "list"], &process.admin).stdout);
    let rows = table.lines().filter(|line| line.contains("acct")).count();
    assert_eq!(rows, 1, "a line end within a cell begins no row: {table}");
    let unknown = run(&file, &["events", "list", "--state", HOSTILE], &process.admin);
    assert!(harmless(&unknown.stderr).contains("owned"), "an error repeats it harmlessly");
}

/// Answers every request with this, on a thread of its own.
fn answering(status: &str, body: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("accepts");
            let _ = connection.read(&mut [0; 8192]);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn what_a_receiver_or_a_token_endpoint_wrote_is_shown_and_not_obeyed() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorbell.toml");
    let keys = json!({"keys": [{"kid": HOSTILE, "createdAt": HOSTILE, "verifiesUntil": HOSTILE}]});
    let problem = json!({"detail": HOSTILE, "error": HOSTILE, "error_description": HOSTILE});
    std::fs::write(&file, configuration(&format!("http://{}", answering("400 Bad Request", &problem)), "memory:"))
        .expect("written");
    for (arguments, admin) in [
        (&["keys", "list"][..], answering("200 OK", &keys)),
        (&["keys", "list", "--output", "json"], answering("200 OK", &keys)),
        (&["keys", "rotate"], answering("409 Conflict", &problem)),
        (&["events", "show", "x"], answering("404 Not Found", &problem)),
        (&["check"], answering("200 OK", &keys)),
        (&["check", "--output", "json"], answering("200 OK", &keys)),
    ] {
        let output = run(&file, arguments, &admin);
        let said = harmless(&[output.stdout, output.stderr].concat());
        // What a token endpoint says of a refusal may hold the secret, so no more than a known code is shown.
        assert_eq!(said.contains("owned"), arguments[0] != "check", "{arguments:?} shows it: {said}");
    }
}

#[tokio::test]
async fn what_a_marketplace_wrote_is_a_part_of_a_log_line_and_never_one_of_its_own() {
    for format in ["text", "json"] {
        let marketplace = Marketplace::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("doorbell.toml");
        std::fs::write(&file, configuration(&marketplace.base_url, "memory:")).expect("written");
        let process =
            Process::serve(&doorbell(), &file, &[("DOORBELL__LOG__FORMAT", format), ("DOORBELL__LOG__LEVEL", "debug")]);
        let client = reqwest::Client::new();
        let token = token(&client, &process.public, "marketplace", "outbound-secret").await;
        let account = json!({"account": {"accountIdentifier": HOSTILE}});
        let odd = json!({"type": format!("NEW{HOSTILE}"), "flag": HOSTILE, "payload": account});
        let known = json!({"type": "SUBSCRIPTION_CANCEL", "payload": account});
        let broken = format!("{{\"type\": {HOSTILE}");
        for (id, url) in [
            ("odd", marketplace.event("odd", &odd)),
            ("known", marketplace.event("known", &known)),
            ("broken", marketplace.raw_event("broken", broken.as_bytes())),
        ] {
            notify(&client, &process.public, &token, "/create", &url).await;
            if id == "broken" {
                marketplace.until("it was read", |state| state.events["broken"].reads > 0).await;
            } else {
                marketplace.until_settled(id).await;
            }
        }
        let begun = process.said.clone();
        let (status, lines) = process.terminate();
        assert!(status.success());
        let lines: Vec<_> = begun.into_iter().chain(lines).collect();
        assert!(lines.iter().filter(|line| line.contains("owned")).count() > 1, "{lines:#?}");
        for line in &lines {
            assert!(is_harmless(line), "{line:?}");
            match format {
                "json" => assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}"),
                _ => assert!(line.starts_with("20"), "begins with a time: {line}"),
            }
        }
    }
}

#[tokio::test]
async fn a_panic_of_a_handler_is_a_log_line_like_any_other() {
    let gate = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = gate.local_addr().expect("an address").to_string();
    for (format, backtrace) in [("text", "0"), ("json", "1")] {
        let marketplace = Marketplace::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("doorbell.toml");
        std::fs::write(&file, configuration(&marketplace.base_url, "memory:")).expect("written");
        let variables = [("GATE", address.as_str()), ("DOORBELL__LOG__FORMAT", format), ("RUST_BACKTRACE", backtrace)];
        let process = Process::serve(&gated_vendor(), &file, &variables);
        let client = reqwest::Client::new();
        let token = token(&client, &process.public, "marketplace", "outbound-secret").await;
        notify(&client, &process.public, &token, "/create", &marketplace.order("one")).await;
        for word in [b"!", b"y"] {
            let (mut handler, _) =
                tokio::time::timeout(PATIENCE, gate.accept()).await.expect("it runs in time").expect("runs");
            tokio::io::AsyncWriteExt::write_all(&mut handler, word).await.expect("told");
            tokio::io::AsyncReadExt::read_to_end(&mut handler, &mut Vec::new()).await.expect("done");
        }
        marketplace.until_settled("one").await;
        let (status, lines) = process.terminate();
        assert!(status.success());
        let panic = lines.iter().find(|line| line.contains("panicked: ")).unwrap_or_else(|| panic!("{lines:#?}"));
        assert!(panic.contains("gated_vendor.rs"), "and where: {panic}");
        for line in &lines {
            assert!(is_harmless(line), "{line:?}");
            assert_eq!(serde_json::from_str::<Value>(line).is_ok(), format == "json", "{line}");
        }
    }
}
