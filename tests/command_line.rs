//! The program as a user types it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use jsonwebtoken::Algorithm;
use reqwest::Client;
use serde_json::{Value, json};

use crate::support::identity::{IdentityProvider, Signer};
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};
use crate::support::receiver::json as body_of;
use crate::support::{PATIENCE, configuration};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    Command::new(doorbell())
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(directory.path())
        .output()
        .expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        "dev",
        "serve",
        "sandbox",
        "check",
        "token",
        "health",
        "keys rotate",
        "keys list",
        "events list",
        "events show",
        "events retry",
        "events resolve",
        "events export",
        "events import",
    ] {
        let arguments: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let output = run(&arguments, &[]);
        assert!(output.status.success(), "{command}");
        assert!(said(&output).contains("Example:\n  "), "{command}: {}", said(&output));
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [&["ring"][..], &["serve", "--port", "1"], &[]] {
        assert_eq!(run(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_mistake_in_the_configuration_exits_with_78_and_names_key_and_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    let file = path.to_str().expect("text");
    let good = configuration("http://127.0.0.1:1", "memory:");
    for (text, key, remedy) in [
        (
            good.replace("[server]", "[server]\nlisen = \"x\""),
            "server.lisen is not a key doorbell knows",
            "expected one of",
        ),
        (
            good.replace("client_secret = \"outbound-secret\"", ""),
            "integrations[0].outbound.client_secret is missing",
            "write client_secret",
        ),
        (
            good.replace("http://127.0.0.1:1", "marketplace"),
            "integrations[0].marketplaces[0].base_url is not a URL",
            "write it like",
        ),
        (
            good.replace("http://127.0.0.1:1", "http://market.example"),
            "marketplaces[0].base_url is http://",
            "write https://",
        ),
        ("listen = [".into(), "line 1: not TOML", ""),
    ] {
        std::fs::write(&path, text).expect("written");
        for command in ["serve", "check", "token", "sandbox", "health"] {
            let output = run(&[command, "--config", file], &[]);
            let message = said(&output);
            assert_eq!(output.status.code(), Some(78), "{command}: {message}");
            assert!(
                message.contains(file) && message.contains(key) && message.contains(remedy),
                "{command}: {message}"
            );
            assert!(!message.contains("outbound-secret"), "{message}");
        }
    }
    let output = run(&["serve", "--config", "/nowhere/doorbell.toml"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).contains("/nowhere/doorbell.toml: cannot be read"), "{}", said(&output));
    let output = run(&["serve"], &[("DOORBELL__SERVER__LISTEN", "nowhere")]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said(&output).contains("environment variable DOORBELL__SERVER__LISTEN: server.listen"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_value_that_makes_no_sense_exits_with_78_and_names_file_key_and_what_to_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    let file = path.to_str().expect("text");
    let good = configuration("http://127.0.0.1:1", "memory:");
    let off_loopback = |token: &str| {
        good.replacen(
            "[admin]\n        listen = \"127.0.0.1:0\"",
            &format!("[admin]\nlisten = \"0.0.0.0:0\"\ntoken = {token:?}"),
            1,
        )
    };
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    for (text, named) in [
        (
            good.replace("[store]", "[store]\nkeep = \"0s\""),
            "store.keep is 0s, which makes no sense; write a duration from",
        ),
        (off_loopback(""), "admin.token is empty; write a token of your own"),
        (off_loopback(" "), "admin.token is empty; write a token of your own"),
        (off_loopback("change-me"), "admin.token is a placeholder everybody knows"),
        (good.replace("[\"10ms\"]", "[\"0s\"]"), "delivery.retry[0] is 0s, which makes no sense"),
        (good.replace("\"json\"", "\"json\"\nlevel = \"loud\""), "log.level holds \"loud\", which is not a level"),
        (
            good.replace("[log]", "[egress]\nca_file = \"/nowhere.pem\"\n[log]"),
            "egress.ca_file names /nowhere.pem, which cannot be used",
        ),
        (
            good.replace("[log]", &format!("[egress]\nca_file = {empty:?}\n[log]")),
            "it holds no certificate; write the path",
        ),
        (good.replace("[log]", "[egress]\nproxy = \"\"\n[log]"), "egress.proxy is no proxy's address; write it like"),
    ] {
        std::fs::write(&path, text).expect("written");
        for command in ["check", "health"] {
            let output = run(&[command, "--config", file], &[]);
            let message = said(&output);
            assert_eq!(output.status.code(), Some(78), "{command}: {message}");
            assert!(message.contains(&format!("{file}: ")) && message.contains(named), "{named}: {message}");
        }
    }
    for (variable, value, named) in [
        ("DOORBELL__ADMIN__TOKEN", "", "environment variable DOORBELL__ADMIN__TOKEN: admin.token is empty"),
        ("DOORBELL__STORE__KEEP", "0s", "environment variable DOORBELL__STORE__KEEP: store.keep is 0s"),
        (
            "DOORBELL__EGRESS__PROXY",
            "::",
            "environment variable DOORBELL__EGRESS__PROXY: egress.proxy is no proxy's address",
        ),
        ("DOORBELL_CONFIG", "", "\"\": cannot be read: a file has a name; name a readable file"),
    ] {
        let output = run(&["check"], &[(variable, value)]);
        assert_eq!(output.status.code(), Some(78), "{}", said(&output));
        assert!(said(&output).contains(named), "{named}: {}", said(&output));
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_not_taken_for_one_that_is_not_set() {
    use std::os::unix::ffi::OsStrExt;
    let output = Command::new(doorbell())
        .arg("check")
        .env("DOORBELL__ADMIN__TOKEN", std::ffi::OsStr::from_bytes(b"s3cret\xff"))
        .env("DOORBELL__STORE__URL", "memory:")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    let named = "environment variable DOORBELL__ADMIN__TOKEN: admin.token is not UTF-8; write it as UTF-8";
    assert!(said(&output).contains(named) && !said(&output).contains("s3cret"), "{}", said(&output));
}

#[test]
fn a_configuration_mistake_is_found_before_any_port_is_bound_or_directory_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let data = directory.path().join("data");
    let text = configuration("http://127.0.0.1:1", &format!("sled:{}", data.display()))
        .replacen("127.0.0.1:0", &taken.local_addr().expect("an address").to_string(), 1)
        .replace("[server]", "[server]\nlisen = \"x\"");
    let path = directory.path().join("doorbell.toml");
    std::fs::write(&path, text).expect("written");
    let output = run(&["serve", "--config", path.to_str().expect("text")], &[]);
    assert_eq!(output.status.code(), Some(78), "the mistake is found first, not the port in use: {}", said(&output));
    assert!(!data.exists());
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let variables = [("DOORBELL__SERVER__LISTEN", address.as_str()), ("DOORBELL__STORE__URL", "memory:")];
    let output = run(&["serve"], &variables);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("server.listen") && said(&output).contains("stop what listens there"),
        "{}",
        said(&output)
    );
}

/// `doorbell dev` on free ports.
struct Dev {
    child: Child,
    market: String,
    operator: String,
    data: String,
}

impl Dev {
    fn start() -> Self {
        Self::start_with_log(Stdio::null())
    }

    fn start_with_log(log: Stdio) -> Self {
        let free = [("SERVER", ""), ("ADMIN", ""), ("SANDBOX", "")]
            .map(|(section, _)| (format!("DOORBELL__{section}__LISTEN"), "127.0.0.1:0"));
        let mut child =
            Command::new(doorbell()).arg("dev").envs(free).stdout(Stdio::piped()).stderr(log).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut value = |name: &str| {
            let line =
                lines.find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("no line for {name}"));
            line.trim_start().trim_start_matches(name).trim().to_owned()
        };
        let (operator, market, data) = (value("operator"), value("marketplace"), value("events in"));
        Self { child, market, operator, data }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

async fn until_complete(client: &Client, market: &str, id: &str) -> Value {
    let complete = async {
        loop {
            let event =
                body_of(client.get(format!("{market}/simulate/events/{id}")).send().await.expect("answers")).await;
            if event["state"] == "COMPLETE" {
                return event;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, complete).await.unwrap_or_else(|_| panic!("{id} is not complete"))
}

const KINDS: [&str; 13] = [
    "subscription-order",
    "subscription-change",
    "subscription-cancel",
    "subscription-notice",
    "subscription-status",
    "user-assignment",
    "user-unassignment",
    "user-updated",
    "addon-order",
    "addon-change",
    "addon-cancel",
    "addon-bind",
    "addon-unbind",
];

#[tokio::test]
async fn in_dev_every_kind_of_event_is_completed_by_either_route() {
    let dev = Dev::start();
    let client = Client::new();
    for route in ["", "?via=shared"] {
        for kind in KINDS {
            let answer = client.post(format!("{}/simulate/{kind}{route}", dev.market)).send().await.expect("answers");
            let simulated = body_of(answer).await;
            let id = simulated["id"].as_str().unwrap_or_else(|| panic!("{kind}: {simulated}"));
            let event = until_complete(&client, &dev.market, id).await;
            let account = event["accountIdentifier"].as_str().unwrap_or_default();
            assert!(!account.is_empty(), "{kind}: {event}");
            let results = i32::from(kind != "subscription-notice");
            assert_eq!(
                (&event["resultsTaken"], &event["resultsRefused"]),
                (&json!(results), &json!(0)),
                "{kind}{route}"
            );
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn asked_to_stop_it_stops_and_tidies_up_even_where_no_log_line_can_be_written() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that takes nothing");
    let mut dev = Dev::start_with_log(full.into());
    let pid = dev.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| ended.send(dev.child.wait()).expect("awaited"));
        let status = end.recv_timeout(PATIENCE);
        if status.is_err() {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
        assert!(status.expect("it stops").expect("a status").success());
    });
    assert!(!std::path::Path::new(&dev.data).exists(), "its temporary directory is gone");
}

#[tokio::test]
async fn in_dev_every_ping_passes_and_no_handler_runs_for_it() {
    let dev = Dev::start();
    let client = Client::new();
    let answer = client
        .post(format!("{}/simulate/ping", dev.market))
        .header("accept", "application/json")
        .send()
        .await
        .expect("answers");
    let pings = body_of(answer).await;
    let pings = pings.as_array().expect("a list");
    assert_eq!(pings.len(), 14);
    assert!(pings.iter().all(|ping| ping["passed"] == true), "{pings:?}");
    for ping in pings {
        let event = until_complete(&client, &dev.market, ping["id"].as_str().expect("an id")).await;
        assert_eq!((&event["resultsTaken"], &event["resultsRefused"]), (&json!(0), &json!(0)));
    }
    let table =
        client.post(format!("{}/simulate/ping", dev.market)).send().await.expect("answers").text().await.expect("text");
    assert!(table.contains("passed") && !table.contains("FAILED"), "{table}");
    let events = body_of(client.get(&dev.operator).send().await.expect("answers")).await;
    assert!(events["events"].as_array().expect("a list").iter().all(|event| event["result"].is_null()), "{events}");
}

#[tokio::test]
async fn in_dev_every_simulated_fault_heals() {
    let dev = Dev::start();
    let client = Client::new();
    for fault in ["duplicate", "slow", "error", "unauthorized", "garbage", "lost-result"] {
        let answer = client
            .post(format!("{}/simulate/subscription-order?fault={fault}", dev.market))
            .send()
            .await
            .expect("answers");
        let simulated = body_of(answer).await;
        let event = until_complete(&client, &dev.market, simulated["id"].as_str().expect("an id")).await;
        assert_eq!(event["resultsTaken"], 1, "{fault}");
    }
}

#[tokio::test]
async fn in_dev_an_event_that_is_given_out_in_xml_is_completed_all_the_same() {
    let dev = Dev::start();
    let client = Client::new();
    for kind in ["subscription-order", "user-assignment", "addon-order"] {
        let url = format!("{}/simulate/{kind}?format=xml", dev.market);
        let simulated = body_of(client.post(url).send().await.expect("answers")).await;
        let event = until_complete(&client, &dev.market, simulated["id"].as_str().expect("an id")).await;
        assert_eq!(event["result"]["success"], true, "{kind}");
    }
    let events = body_of(client.get(&dev.operator).send().await.expect("answers")).await;
    let id = events["events"][0]["id"].as_str().expect("an id");
    let shown = body_of(client.get(format!("{}/{id}", dev.operator)).send().await.expect("answers")).await;
    assert!(shown["body"].as_str().expect("a body").starts_with("<?xml"), "kept as received");
}

#[tokio::test]
async fn a_simulated_event_can_be_changed_by_a_body() {
    let dev = Dev::start();
    let client = Client::new();
    let overrides = json!({"flag": "DEVELOPMENT", "payload": {"order": {"editionCode": "GOLD"}}}).to_string();
    let answer = client
        .post(format!("{}/simulate/subscription-order?count=3", dev.market))
        .body(overrides)
        .send()
        .await
        .expect("answers");
    let simulated = body_of(answer).await;
    assert_eq!(simulated["events"].as_array().expect("a list").len(), 3);
    let event = until_complete(&client, &dev.market, simulated["events"][2]["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&event["body"]["flag"], &event["body"]["payload"]["order"]["editionCode"]),
        (&json!("DEVELOPMENT"), &json!("GOLD"))
    );
    let wrong =
        client.post(format!("{}/simulate/subscription-order", dev.market)).body("[]").send().await.expect("answers");
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn serve_and_sandbox_work_together_and_check_token_and_health_agree() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    let file = path.to_str().expect("text");
    let store = format!("sled:{}", directory.path().join("data").display());
    let text = configuration("http://127.0.0.1:9", &store);

    // The receiver has a free port by the time it is up; the others are told where it is.
    std::fs::write(&path, &text).expect("written");
    let output = run(&["check", "--config", file, "--output", "json"], &[]);
    assert_eq!(output.status.code(), Some(1), "the marketplace is out of reach");
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let oks: Vec<_> = findings.as_array().expect("a list").iter().map(|finding| finding["ok"] == true).collect();
    assert_eq!(oks, [true, true, false], "{findings}");

    let marketplace = crate::support::marketplace::Marketplace::start().await;
    std::fs::write(&path, configuration(&marketplace.base_url, &store)).expect("written");
    let process = Process::serve(&doorbell(), &path, &[]);
    let listen = process.public.trim_start_matches("http://").to_owned();
    let variables = [("DOORBELL__SERVER__LISTEN", listen.as_str())];
    let run = |arguments: &'static [&'static str]| {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--config", file]).map(str::to_owned).collect();
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        tokio::task::spawn_blocking(move || {
            Command::new(doorbell()).args(arguments).envs(variables).output().expect("runs")
        })
    };
    let output = run(&["check"]).await.expect("ran");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("in use by the doorbell at"), "{}", said(&output));
    let output = run(&["health"]).await.expect("ran");
    assert!(output.status.success(), "{}", said(&output));
    let output = run(&["token"]).await.expect("ran");
    let bearer = String::from_utf8(output.stdout).expect("text");
    let url = marketplace.order("1");
    let client = Client::new();
    let answer = crate::support::receiver::notify(&client, &process.public, bearer.trim(), "/create", &url).await;
    assert_eq!(answer.status(), 202);
    marketplace.until_settled("1").await;
    let output = run(&["token", "--integration", "nobody"]).await.expect("ran");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("there is default"), "{}", said(&output));

    let (status, _) = process.terminate();
    assert!(status.success());
    let output = run(&["health"]).await.expect("ran");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn keys_are_rotated_in_the_running_receiver() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    let file = path.to_str().expect("text");
    let text = configuration("http://127.0.0.1:1", "memory:");
    std::fs::write(&path, text.replace("[admin]", "[admin]\ntoken = \"operator\"")).expect("written");
    let process = Process::serve(&doorbell(), &path, &[]);
    let admin = process.admin.trim_start_matches("http://").to_owned();
    let keys = |arguments: &[&str], token: &str| {
        let arguments = [&["keys"], arguments, &["--config", file]].concat();
        run(&arguments, &[("DOORBELL__ADMIN__LISTEN", admin.as_str()), ("DOORBELL__ADMIN__TOKEN", token)])
    };
    let names = |output: &Output| -> Vec<Value> {
        let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        printed["keys"].as_array().expect("keys").clone()
    };
    let before = names(&keys(&["list", "--output", "json"], "operator"));
    let rotated = keys(&["rotate"], "operator");
    assert!(rotated.status.success(), "{}", said(&rotated));
    assert!(said(&rotated).contains("it signs") && said(&rotated).contains(before[0]["kid"].as_str().expect("a name")));
    assert_eq!(names(&keys(&["list", "--output", "json"], "operator")).len(), 2);
    assert_eq!(names(&keys(&["rotate", "--revoke", "--output", "json"], "operator")).len(), 1);
    let refused = keys(&["rotate"], "stranger");
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("answered 401"), "{}", said(&refused));
    let remedy = "set admin.token, or DOORBELL__ADMIN__TOKEN, to that one";
    let mistake = "admin.token of this configuration is not the one that the receiver runs with";
    assert!(said(&refused).contains(mistake) && said(&refused).contains(remedy), "{}", said(&refused));
    std::fs::write(&path, &text).expect("written");
    let nameless = run(&["keys", "list", "--config", file], &[("DOORBELL__ADMIN__LISTEN", admin.as_str())]);
    assert_eq!(nameless.status.code(), Some(1));
    let mistake = "the receiver runs with an admin.token, and this configuration has none";
    assert!(said(&nameless).contains(mistake) && said(&nameless).contains(remedy), "{}", said(&nameless));
    drop(process);
    let nobody = keys(&["rotate"], "operator");
    assert!(said(&nobody).contains("is `doorbell serve` running?"), "{}", said(&nobody));
}

#[tokio::test]
async fn output_as_json_is_the_document_that_the_receiver_answers() {
    let marketplace = Marketplace::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    std::fs::write(&path, configuration(&marketplace.base_url, "memory:")).expect("written");
    let process = Process::serve(&doorbell(), &path, &[]);
    let client = Client::new();
    let token = crate::support::receiver::token(&client, &process.public, "marketplace", "outbound-secret").await;
    crate::support::receiver::notify(&client, &process.public, &token, "/create", &marketplace.order("1")).await;
    marketplace.until_settled("1").await;

    let admin = process.admin.trim_start_matches("http://").to_owned();
    let printed = |arguments: &[&str]| {
        let arguments = [arguments, &["--output", "json", "--config", path.to_str().expect("text")]].concat();
        let output = run(&arguments, &[("DOORBELL__ADMIN__LISTEN", admin.as_str())]);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let answered =
        async |path: &str| body_of(client.get(format!("{}{path}", process.admin)).send().await.expect("answers")).await;
    let done = async {
        while answered("/api/v1/events?state=done").await["events"] == json!([]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("done");
    let listed = answered("/api/v1/events").await;
    assert_eq!(printed(&["events", "list"]), format!("{listed:#}\n"));
    let id = listed["events"][0]["id"].as_str().expect("an id");
    let shown = answered(&format!("/api/v1/events/{id}")).await;
    assert_eq!(printed(&["events", "show", id]), format!("{shown:#}\n"));
    let key = &answered("/api/v1/keys").await["keys"][0];
    assert_eq!(
        printed(&["keys", "list"]),
        format!(
            "{{\n  \"keys\": [\n    {{\n      \"kid\": {},\n      \"createdAt\": {},\n      \"verifiesUntil\": null\n    \
             }}\n  ]\n}}\n",
            key["kid"], key["createdAt"]
        )
    );
    let retried: Value = serde_json::from_str(&printed(&["events", "retry", id])).expect("JSON");
    let mut names: Vec<_> = retried.as_object().expect("an object").keys().collect();
    names.retain(|name| listed["events"][0].get(name.as_str()).is_none());
    assert!(names.is_empty(), "a summary as in the list: {retried}");
}

#[test]
fn a_token_of_somebody_elses_is_not_to_be_had_here_and_the_error_says_where() {
    let basic = [("DOORBELL__INTEGRATIONS__0__OUTBOUND__KIND", "basic")];
    let output = run(&["token"], &basic);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("takes basic, and doorbell issues tokens for the kind oauth2 only"),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn check_asks_the_identity_providers_too() {
    let (market, provider) = (Marketplace::start().await, IdentityProvider::start().await);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorbell.toml");
    let text = configuration(&market.base_url, "memory:");
    let (before, rest) = text.split_once("[integrations.outbound]").expect("a table");
    let (_, after) = rest.split_once("[[integrations.marketplaces]]").expect("marketplaces");
    let base_url = &provider.base_url;
    let outbound = format!(
        "[[integrations.outbound]]\nkind = \"jwt\"\nclient_id = \"m\"\nissuer = \"{base_url}\"\naudience = \"us\"\n\
         [[integrations.outbound]]\nkind = \"introspection\"\nclient_id = \"m\"\n\
         introspection_url = \"{base_url}/introspect\"\nintrospection_client_id = \"us\"\n\
         introspection_client_secret = \"s3cret\""
    );
    std::fs::write(&path, format!("{before}{outbound}\n[[integrations.marketplaces]]{after}")).expect("written");
    let check = async || {
        let file = path.to_str().expect("text").to_owned();
        tokio::task::spawn_blocking(move || run(&["check", "--config", &file, "--output", "json"], &[]))
            .await
            .expect("runs")
    };
    let without_keys = check().await;
    assert_eq!(without_keys.status.code(), Some(1));
    assert!(said(&without_keys).contains("has no key that a token could be verified with"), "{}", said(&without_keys));
    provider.publish(&[&Signer::new("key", Algorithm::ES256)]);
    let good = check().await;
    assert!(good.status.success(), "{}", said(&good));
    assert!(said(&good).contains(&format!("1 keys at {base_url}")), "{}", said(&good));
    provider.with(|state| state.out_of_service = Some(503));
    let bad = check().await;
    assert!(said(&bad).contains("/introspect: it answered 503"), "{}", said(&bad));
    assert!(!said(&bad).contains("s3cret"));
}
