//! How long a client may take for each of its moves, and who makes room for whom.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::handler::Accept;
use doorbell::receive::LimitExceeded;
use doorbell::store::memory::MemoryStore;
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::marketplace::{Marketplace, Twist};
use crate::support::process::{Process, doorbell};
use crate::support::raw::{answer, ask, connect, connect_from, next_answer, until_closed};
use crate::support::receiver::{Receiver, notify, token};
use crate::support::{PATIENCE, configuration, let_time_pass};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A receiver with `server` in its configuration, by a clock of the test's.
async fn start(server: &str) -> (Marketplace, Receiver, Arc<ManualClock>) {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let text = configuration(&marketplace.base_url, "memory:").replace("[admin]", &format!("{server}\n[admin]"));
    let receiver = Receiver::start_with(&text, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    (marketplace, receiver, clock)
}

/// What the other side says before it closes, while time passes and `piece` is sent again and again.
async fn trickling(connection: TcpStream, piece: &[u8], clock: &ManualClock) -> String {
    let (mut incoming, mut outgoing) = connection.into_split();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while outgoing.write_all(piece).await.is_ok() {
            tick.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let mut bytes = Vec::new();
    tokio::select! {
        read = tokio::time::timeout(PATIENCE, incoming.read_to_end(&mut bytes)) => drop(read.expect("it is closed")),
        () = trickle => {}
        () = let_time_pass(clock) => {}
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for_whether_a_handler_reads_it_or_not() {
    let (_marketplace, receiver, clock) = start("").await;
    let (public, admin) = (&receiver.public, &receiver.admin);
    for (base, request, status) in [
        (public, "GET /health/live", "200"),
        (public, "GET /notifications/create", "401"),
        (public, "GET /nowhere", "404"),
        (public, "POST /oauth2/token", "408"),
        (admin, "GET /health/live", "200"),
        (admin, "GET /api/v1/events", "200"),
        (admin, "POST /api/v1/events/00000000-0000-4000-8000-000000000000/result", "4"),
    ] {
        for head in ["Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "Content-Length: 9999\r\n\r\n{"] {
            let mut connection = connect(base).await;
            let kind = if request.ends_with("result") { "Content-Type: application/json\r\n" } else { FORM };
            let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\n{kind}{head}");
            connection.write_all(head.as_bytes()).await.expect("sent");
            let piece = if head.contains("chunked") { &b"1\r\n \r\n"[..] } else { b" " };
            let said = trickling(connection, piece, &clock).await;
            assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {said}");
        }
    }
    assert_eq!(receiver.app.limit_counters().count(LimitExceeded::Slow), 2);
}

#[tokio::test]
async fn every_head_on_a_connection_has_a_deadline_from_its_first_byte() {
    let (_marketplace, receiver, clock) = start("").await;
    for base in [&receiver.public, &receiver.admin] {
        for requests_before in 0..3 {
            let mut connection = connect(base).await;
            for _ in 0..requests_before {
                assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
            }
            connection.write_all(b"GET /health/live HTTP/1.1\r\nX-Slow: ").await.expect("sent");
            let said = trickling(connection, b"a", &clock).await;
            assert!(said.starts_with("HTTP/1.1 408"), "after {requests_before}: {said}");
            assert!(said.to_ascii_lowercase().contains("connection: close"), "{said}");
        }
    }
    assert_eq!(receiver.app.limit_counters().count(LimitExceeded::Slow), 3, "those of the public listener");
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_not_waited_for() {
    let (_marketplace, receiver, clock) = start("").await;
    for base in [&receiver.public, &receiver.admin] {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let address = base.trim_start_matches("http://").parse().expect("an address");
        let mut connection = socket.connect(address).await.expect("connects");
        let requests = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
        let write = async { while connection.write_all(requests.as_bytes()).await.is_ok() {} };
        tokio::select! {
            written = tokio::time::timeout(PATIENCE, write) => written.expect("it is closed"),
            () = let_time_pass(&clock) => {}
        }
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_as_long_as_keep_alive_says() {
    let (_marketplace, receiver, clock) = start("keep_alive = \"20s\"").await;
    for base in [&receiver.public, &receiver.admin] {
        let mut connection = connect(base).await;
        for _ in 0..3 {
            assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
            clock.advance(Duration::from_secs(19));
        }
        let mut silent = connect(base).await;
        assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
        // Empty lines are no request.
        connection.write_all(b"\r\n").await.expect("sent");
        tokio::select! {
            said = until_closed(&mut connection) => assert_eq!(said, "", "an idle connection is closed without a word"),
            () = let_time_pass(&clock) => {}
        }
        assert_eq!(until_closed(&mut silent).await, "", "so is one that never said anything");
    }
    assert_eq!(receiver.app.limit_counters().count(LimitExceeded::Slow), 0);
}

#[tokio::test]
async fn requests_that_follow_each_other_closely_are_all_answered_on_one_connection() {
    let (_marketplace, receiver, _clock) = start("").await;
    let get = "GET /health/live HTTP/1.1\r\nHost: x\r\nX-Padding: abcdefghijklmnopqrstuvwxyz\r\n\r\n";
    let body = "grant_type=client_credentials&client_id=marketplace&client_secret=outbound-secret";
    let post = format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let mut connection = connect(&receiver.public).await;
    // More than the largest head, in one piece.
    connection.write_all(get.repeat(1000).as_bytes()).await.expect("sent");
    for _ in 0..1000 {
        assert_eq!(next_answer(&mut connection).await.0, 200);
    }
    connection.write_all([get, &post, &chunked, &post, get].concat().as_bytes()).await.expect("sent");
    for _ in 0..5 {
        assert_eq!(next_answer(&mut connection).await.0, 200);
    }
    let (head, body) = post.split_once("\r\n\r\n").expect("a head");
    connection.write_all(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.expect("sent");
    assert_eq!(next_answer(&mut connection).await.0, 100);
    connection.write_all(body.as_bytes()).await.expect("sent");
    assert_eq!(next_answer(&mut connection).await.0, 200);
}

#[tokio::test]
async fn a_client_that_has_said_all_it_has_to_say_is_answered() {
    let marketplace = Marketplace::start().await;
    for answered in ["async", "sync"] {
        let text = configuration(&marketplace.base_url, "memory:")
            .replace("name = \"default\"", &format!("name = \"default\"\nanswer = \"{answered}\""));
        let receiver = Receiver::start(&text, Accept).await;
        let bearer = receiver.token().await;
        let url = marketplace.order(answered);
        let body = "grant_type=client_credentials&client_id=marketplace&client_secret=outbound-secret";
        let notification = format!(
            "GET /notifications/create?eventUrl={url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n"
        );
        for (request, expected) in [
            (notification, if answered == "sync" { 200 } else { 202 }),
            ("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
            ("GET /notifications HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 401),
            (
                format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {}\r\n\r\n{body}", body.len()),
                200,
            ),
        ] {
            let mut connection = connect(&receiver.public).await;
            connection.write_all(request.as_bytes()).await.expect("sent");
            connection.shutdown().await.expect("said");
            assert_eq!(answer(&mut connection).await.0, expected, "{request}");
        }
    }
}

/// Every way to hold a connection without having anything to be worked on.
const IDLERS: [&str; 5] = [
    "",
    "GET /notifications HTTP/1.1\r\nHost: ",
    "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /notifications HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na",
];

#[tokio::test]
async fn where_all_connections_are_taken_the_idlest_makes_room_for_whoever_has_credentials() {
    let (marketplace, receiver, _clock) =
        start("[server.limits]\nmax_connections = 4\nmax_connections_per_address = 3").await;
    let bearer = receiver.token().await;
    for (number, idler) in IDLERS.iter().enumerate() {
        let mut idle = Vec::new();
        for host in 2..30 {
            let mut connection = connect_from(&format!("127.0.0.{host}"), &receiver.public).await;
            connection.write_all(idler.as_bytes()).await.expect("sent");
            idle.push(connection);
        }
        // A connection of its own, not one that was kept.
        let client = Client::new();
        let url = marketplace.order(&number.to_string());
        let answer = notify(&client, &receiver.public, &bearer, "/create", &url);
        assert_eq!(answer.await.status(), StatusCode::ACCEPTED, "{idler}");
        until_closed(&mut idle[0]).await;
    }
    assert_eq!(receiver.app.limit_counters().count(LimitExceeded::Connections), 0);
}

#[tokio::test]
async fn a_network_that_holds_its_share_makes_room_for_itself_and_for_nobody_else() {
    let (_marketplace, receiver, _clock) =
        start("[server.limits]\nmax_connections = 100\nmax_connections_per_address = 3").await;
    let mut other = connect_from("127.0.0.2", &receiver.public).await;
    assert_eq!(ask(&mut other, "/health/live").await.0, 200);
    let mut connections = Vec::new();
    for _ in 0..6 {
        let mut connection = connect(&receiver.public).await;
        assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
        connections.push(connection);
    }
    for closed in &mut connections[..3] {
        assert_eq!(until_closed(closed).await, "");
    }
    for open in &mut connections[3..] {
        assert_eq!(ask(open, "/health/live").await.0, 200);
    }
    assert_eq!(ask(&mut other, "/health/live").await.0, 200, "it was there first, and is of another network");
}

#[tokio::test]
async fn a_connection_whose_request_is_worked_on_makes_room_for_nobody_and_the_newcomer_is_told() {
    for (limits, excess, status) in [
        ("max_connections = 1\nmax_connections_per_address = 2", LimitExceeded::Connections, 503),
        ("max_connections_per_address = 1", LimitExceeded::ConnectionsOfAddress, 429),
    ] {
        let marketplace = Marketplace::start().await;
        let text = configuration(&marketplace.base_url, "memory:")
            .replace("[admin]", &format!("[server.limits]\n{limits}\n[admin]"))
            .replace("name = \"default\"", "name = \"default\"\nanswer = \"sync\"");
        let receiver = Receiver::start(&text, Accept).await;
        marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
        let bearer = receiver.token().await;
        let url = marketplace.order("1");
        let mut busy = connect(&receiver.public).await;
        let request = format!(
            "GET /notifications/create?eventUrl={url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n"
        );
        busy.write_all(request.as_bytes()).await.expect("sent");
        marketplace.until("the event is being read", |state| state.arrived.get("read") == Some(&1)).await;

        // That newcomers make room for each other is the limiter's own test: which of them is let in first is the system's
        // choice.
        let mut newcomer = connect(&receiver.public).await;
        let (answered, head) = ask(&mut newcomer, "/health/live").await;
        assert_eq!(answered, status, "{head}");
        assert_eq!(until_closed(&mut newcomer).await, "");
        assert_eq!(receiver.app.limit_counters().count(excess), 1);
        assert_eq!(next_answer(&mut busy).await.0, 202, "whoever was there is answered");
    }
}

#[tokio::test]
async fn a_body_that_no_handler_reads_does_not_make_a_busy_connection_one_that_waits() {
    for body in
        ["Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Content-Length: 9\r\n\r\n{"]
    {
        let marketplace = Marketplace::start().await;
        let text = configuration(&marketplace.base_url, "memory:")
            .replace("[admin]", "[server.limits]\nmax_connections_per_address = 1\n[admin]")
            .replace("name = \"default\"", "name = \"default\"\nanswer = \"sync\"");
        let receiver = Receiver::start(&text, Accept).await;
        marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
        let bearer = receiver.token().await;
        let url = marketplace.order("1");
        let mut busy = connect(&receiver.public).await;
        let request = format!(
            "GET /notifications/create?eventUrl={url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n{body}"
        );
        busy.write_all(request.as_bytes()).await.expect("sent");
        marketplace.until("the event is being read", |state| state.arrived.get("read") == Some(&1)).await;
        let mut newcomer = connect(&receiver.public).await;
        assert_eq!(ask(&mut newcomer, "/health/live").await.0, 429, "{body}");
        assert_eq!(next_answer(&mut busy).await.0, 202, "{body}");
    }
}

#[tokio::test]
async fn after_an_answer_that_closes_the_connection_no_other_follows() {
    let (_marketplace, receiver, _clock) = start("").await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    for first in [
        get("/health/live", "Connection: close\r\n"),
        get("/health/live", "Connection: close, Upgrade\r\nUpgrade: h2c\r\n"),
        get(&format!("/{}", "a".repeat(9000)), "Connection: close\r\n"),
        "GET /health/live HTTP/1.0\r\nHost: x\r\n\r\n".to_owned(),
        get("/health/live", "Content-Length: 2\r\n") + "{}",
    ] {
        for base in [&receiver.public, &receiver.admin] {
            for next in ["", "Expect: 100-continue\r\nContent-Length: 2\r\n"] {
                let mut connection = connect(base).await;
                let all = format!("{first}{0}{0}", get("/nowhere", next));
                connection.write_all(all.as_bytes()).await.expect("sent");
                let said = until_closed(&mut connection).await;
                assert_eq!(said.matches("HTTP/1.").count(), 1, "{first:.80}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_is_asked_for_is_not_taken_and_the_answer_says_that_the_connection_ends() {
    let (_marketplace, receiver, _clock) = start("").await;
    for base in [&receiver.public, &receiver.admin] {
        for upgrade in [
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ] {
            let mut connection = connect(base).await;
            let request = format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n");
            connection.write_all(request.as_bytes()).await.expect("sent");
            let (status, head) = next_answer(&mut connection).await;
            assert!(status == 200 && head.contains("connection: close\r\n"), "{head}");
            assert_eq!(until_closed(&mut connection).await, "");
        }
    }
}

#[tokio::test]
async fn a_client_that_speaks_http_1_0_may_keep_its_connection_and_costs_nobody_else_theirs() {
    let (_marketplace, receiver, _clock) = start("").await;
    // Enough of each that they meet on every worker.
    for _ in 0..8 {
        let mut old = connect(&receiver.public).await;
        for _ in 0..4 {
            let request = b"GET /health/live HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
            old.write_all(request).await.expect("sent");
            let (status, head) = next_answer(&mut old).await;
            assert!(status == 200 && head.to_lowercase().contains("connection: keep-alive\r\n"), "{head}");
        }
        let mut once = connect(&receiver.public).await;
        once.write_all(b"GET /health/live HTTP/1.0\r\nHost: x\r\n\r\n").await.expect("sent");
        next_answer(&mut once).await;
        assert_eq!(until_closed(&mut once).await, "");
        let mut new = connect(&receiver.public).await;
        for _ in 0..4 {
            new.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
            let (status, head) = next_answer(&mut new).await;
            assert!(status == 200 && !head.contains("connection: close"), "{head}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_request_is_answered_with_what_is_wrong() {
    let (_marketplace, receiver, _clock) = start("").await;
    let good = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
    for (bytes, named) in [
        (b"no request at all\r\n\r\n".as_slice(), "not well-formed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA header\r\n\r\n", "not well-formed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "not well-formed"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "not well-formed",
        ),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    ] {
        for before in 0..2 {
            let bytes = [&good.repeat(before), bytes].concat();
            for (base, kind) in [(&receiver.public, "text/plain"), (&receiver.admin, "application/problem+json")] {
                let mut connection = connect(base).await;
                connection.write_all(&bytes).await.expect("sent");
                for _ in 0..before {
                    assert_eq!(next_answer(&mut connection).await.0, 200);
                }
                let (status, head, body) = answer(&mut connection).await;
                assert_eq!(status, 400, "{named}: {body}");
                let head = head.to_ascii_lowercase();
                for header in
                    [&format!("content-type: {kind}"), "connection: close", "cache-control: no-store", "nosniff"]
                {
                    assert!(head.contains(header), "{named}: {head}");
                }
                // Behind a request it is not looked at how it begins.
                assert!(before > 0 || body.contains(named), "{named}: {body}");
                assert!(kind == "text/plain" || body.starts_with('{'), "{body}");
            }
        }
    }
    assert_eq!(receiver.app.limit_counters().malformed(), 12, "those of the public listener");
}

#[tokio::test]
async fn a_head_that_is_too_large_or_too_slow_is_a_problem_at_the_private_listener() {
    let (_marketplace, receiver, clock) = start("").await;
    for (piece, status) in [("a".repeat(1024), 431), ("a".to_owned(), 408)] {
        let mut connection = connect(&receiver.admin).await;
        connection.write_all(b"GET /health/live HTTP/1.1\r\nX-Padding: ").await.expect("sent");
        let said = if status == 431 {
            for _ in 0..40 {
                let _ = connection.write_all(piece.as_bytes()).await;
            }
            until_closed(&mut connection).await
        } else {
            trickling(connection, piece.as_bytes(), &clock).await
        };
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
        let said = said.to_ascii_lowercase();
        for part in ["application/problem+json", "cache-control: no-store", "nosniff", &format!("\"status\":{status}")]
        {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[tokio::test]
async fn a_request_for_no_path_is_answered_like_one_for_no_route() {
    let (_marketplace, receiver, _clock) = start("").await;
    for base in [&receiver.public, &receiver.admin] {
        for request in ["OPTIONS *", "CONNECT localhost:80"] {
            let mut connection = connect(base).await;
            let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            connection.write_all(request.as_bytes()).await.expect("sent");
            let (status, _, body) = answer(&mut connection).await;
            assert!(status == 404 && body.contains("no such route"), "{request}: {status} {body}");
        }
    }
}

/// The real program with few files, on a store that reopens its own.
fn serve_with_files(marketplace: &Marketplace, directory: &Path, limit: &str, limits: &str) -> Process {
    let program = directory.join("doorbell.sh");
    let script = format!("#!/bin/sh\nulimit {limit}\nexec {:?} \"$@\"\n", doorbell());
    std::fs::write(&program, script).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("executable");
    let file = directory.join("doorbell.toml");
    let store = format!("sled:{}", directory.join("data").display());
    let text =
        configuration(&marketplace.base_url, &store).replace("[admin]", &format!("[server.limits]\n{limits}\n[admin]"));
    std::fs::write(&file, text).expect("written");
    Process::serve(&program, &file, &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_never_take_the_files_of_the_store_or_of_the_private_listener() {
    let (directory, marketplace) = (tempfile::tempdir().expect("a directory"), Marketplace::start().await);
    let process = serve_with_files(&marketplace, directory.path(), "-n 300", "max_connections_per_address = 1000");
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(connect(&process.public).await);
    }
    for number in 0..20 {
        let client = Client::new();
        let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
        let url = marketplace.order(&number.to_string());
        let answer = notify(&client, &process.public, &bearer, "/create", &url).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{number}");
        let live = client.get(format!("{}/api/v1/events", process.admin)).send().await.expect("the operator gets in");
        assert_eq!(live.status(), StatusCode::OK);
        marketplace.until_settled(&number.to_string()).await;
    }
    let (status, lines) = process.terminate();
    assert!(status.success());
    assert!(lines.iter().all(|line| !line.contains("Too many open files")), "{lines:#?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_system_lets_no_more_files_be_opened_listeners_wait_and_go_on_when_it_does() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let (directory, marketplace) = (tempfile::tempdir().expect("a directory"), Marketplace::start().await);
    let process = serve_with_files(&marketplace, directory.path(), "-Sn 256", "");
    let pid = Some(Pid::from_raw(process.id().try_into().expect("an id")).expect("a process"));
    let unlimited = getrlimit(Resource::Nofile);
    let set = |limit| prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    let mut kept = connect(&process.public).await;
    assert_eq!(ask(&mut kept, "/health/live").await.0, 200);
    for base in [&process.public, &process.admin] {
        set(Rlimit { current: Some(1), maximum: unlimited.maximum });
        let mut waiting = connect(base).await;
        process.until_said("Too many open files");
        assert_eq!(ask(&mut kept, "/health/live").await.0, 200, "whoever is there is served");
        set(Rlimit { current: unlimited.maximum, maximum: unlimited.maximum });
        assert_eq!(ask(&mut waiting, "/health/live").await.0, 200);
    }
    let (_, lines) = process.terminate();
    let said = lines.iter().filter(|line| line.contains("Too many open files")).count();
    assert!(said < 20, "{said} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let (directory, marketplace) = (tempfile::tempdir().expect("a directory"), Marketplace::start().await);
    let process = serve_with_files(&marketplace, directory.path(), "-Sn 200", "max_connections_per_address = 1000");
    let mut connections = Vec::new();
    for _ in 0..400 {
        let mut connection = connect(&process.public).await;
        assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
        connections.push(connection);
    }
    for connection in &mut connections {
        assert_eq!(ask(connection, "/health/live").await.0, 200, "all of them are kept");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_goes_on_and_on_takes_no_more_memory_than_the_largest_head_may() {
    let resident = |process: &Process| -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    };
    let (directory, marketplace) = (tempfile::tempdir().expect("a directory"), Marketplace::start().await);
    let process = serve_with_files(&marketplace, directory.path(), "-Sn 256", "max_connections_per_address = 1000");
    let before = resident(&process);
    let mut connections = Vec::new();
    for _ in 0..400 {
        let mut connection = connect(&process.public).await;
        assert_eq!(ask(&mut connection, "/health/live").await.0, 200);
        // As much as may be, and then what may not be.
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "a".repeat(120_000));
        let _ = connection.write_all(head.as_bytes()).await;
        connections.push(connection);
    }
    for connection in &mut connections {
        assert_eq!(next_answer(connection).await.0, 431);
    }
    let grown = resident(&process).saturating_sub(before);
    assert!(grown < 400 * 48, "{grown} KiB for 400 connections");
}

#[tokio::test]
async fn strangers_who_send_slowly_take_no_turn_of_whoever_has_credentials() {
    let (marketplace, receiver, _clock) = start("[server.limits]\nmax_requests_in_flight = 2").await;
    let bearer = receiver.token().await;
    let mut slow = Vec::new();
    for (host, path) in (2..8).zip(["/oauth2/token", "//oauth2/token/"].into_iter().cycle()) {
        let mut connection = connect_from(&format!("127.0.0.{host}"), &receiver.public).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: 100\r\n\r\ng");
        connection.write_all(head.as_bytes()).await.expect("sent");
        slow.push(connection);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = notify(&Client::new(), &receiver.public, &bearer, "/create", &marketplace.order("1")).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(receiver.app.limit_counters().count(LimitExceeded::RequestsInFlight), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_follow_one_another_before_any_answer_is_read_take_little_memory() {
    let resident = |process: &Process| -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    };
    let (directory, marketplace) = (tempfile::tempdir().expect("a directory"), Marketplace::start().await);
    let process = serve_with_files(&marketplace, directory.path(), "-Sn 256", "max_connections_per_address = 1000");
    let before = resident(&process);
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(connect(&process.public).await);
    }
    let requests = "G / HTTP/1.1\r\nHost:\r\n\r\n".repeat(5000);
    for _ in 0..200 {
        for connection in &connections {
            // No further than the network takes it; what is cut off is no request, and the connection is over.
            let _ = connection.try_write(requests.as_bytes());
        }
    }
    let client = Client::new();
    let answer = client.get(format!("{}/health/ready", process.public)).send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::OK);
    drop(connections);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = resident(&process).saturating_sub(before);
    assert!(grown < 100 * 256, "{grown} KiB for 100 connections");
}
