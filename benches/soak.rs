//! What stays flat while events keep coming.
//!
//! `cargo bench --bench soak` runs `doorbell serve` and `doorbell sandbox`, lets the sandbox make a thousand events
//! happen each second, and shows the receiver's memory, open files and store as time goes on. In the end every event
//! must be done. `DOORBELL_SOAK_SECONDS` is its length (default 10, the long form is 900), and `DOORBELL_SOAK_KEEP` is
//! `store.keep` (default 400d; with `2m` the long form shows what a store of one size costs).

#![allow(clippy::expect_used, clippy::panic, unreachable_pub, reason = "a benchmark fails by panicking")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::load::ask;
use support::process::memory;
use support::{bytes_below, variable};

/// Events a second.
const RATE: usize = 1000;
/// Requests by which a second's events are made to happen.
const STREAMS: usize = 8;
/// Lines that are printed.
const SAMPLES: u64 = 15;

fn main() {
    let seconds: u64 = variable("DOORBELL_SOAK_SECONDS", 10);
    let place = std::env::var("DOORBELL_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let directory = tempfile::tempdir_in(place).expect("a directory to write in");
    let [public, admin, market] = [free(), free(), free()];
    let keep = std::env::var("DOORBELL_SOAK_KEEP").unwrap_or_else(|_| "400d".to_owned());
    let variables = [
        ("DOORBELL__STORE__KEEP", keep),
        ("DOORBELL__SERVER__LISTEN", public.to_string()),
        ("DOORBELL__SERVER__PUBLIC_URL", format!("http://{public}")),
        ("DOORBELL__ADMIN__LISTEN", admin.to_string()),
        ("DOORBELL__SANDBOX__LISTEN", market.to_string()),
        ("DOORBELL__STORE__URL", format!("sled:{}", directory.path().join("data").display())),
        ("DOORBELL__INTEGRATIONS__0__MARKETPLACES__0__BASE_URL", format!("http://{market}")),
        ("DOORBELL__LOG__LEVEL", "warn".to_owned()),
    ];
    let start = |command: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_doorbell"));
        child.arg(command).envs(variables.iter().map(|(name, value)| (name, value))).stderr(Stdio::inherit());
        Running(child.spawn().expect("starts"))
    };
    let receiver = start("serve");
    until_listening(public);
    let _sandbox = start("sandbox");
    until_listening(market);

    println!("{:>8}{:>12}{:>12}{:>10}{:>12}", "seconds", "events", "memory MB", "files", "store MB");
    let started = Instant::now();
    let path = format!("/simulate/subscription-order?count={}", RATE / STREAMS);
    let every = (seconds / SAMPLES).max(1);
    for second in 1..=seconds {
        std::thread::scope(|scope| {
            for _ in 0..STREAMS {
                scope.spawn(|| ask(market, "POST", &path, "", ""));
            }
        });
        if second % every == 0 || second == seconds {
            println!(
                "{second:>8}{:>12}{:>12.1}{:>10}{:>12}",
                usize::try_from(second).expect("fits") * RATE,
                memory(&receiver.0).0,
                receiver.open_files(),
                bytes_below(&directory.path().join("data")) >> 20
            );
        }
        std::thread::sleep((started + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
    }
    println!("{} events over {:.0} s", usize::try_from(seconds).expect("fits") * RATE, started.elapsed().as_secs_f64());
    for state in ["received", "fetched", "handled", "dead"] {
        let path = format!("/api/v1/events?limit=1&state={state}");
        while ask(admin, "GET", &path, "", "").contains("\"eventUrl\"") {
            assert!(state != "dead", "an event is dead");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    println!("every event is done");
}

/// An address nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address")
}

fn until_listening(address: SocketAddr) {
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is killed in the end.
struct Running(Child);

impl Running {
    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
