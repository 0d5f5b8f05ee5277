//! What the whole way of an event costs, and what its history costs the public listener.
//!
//! `cargo bench --bench deliver` drives a whole `doorbell serve` against a marketplace that answers at once, all of
//! them and the load generator on the same cores: first as fast as notifications are taken, then at half the rate
//! that came of it, when an event's latency counts from the moment its notification was due until its result was
//! taken. Then it compares what the public listener takes while delivery is stalled, and on a store with a long history, with
//! what it takes on an empty store whose delivery is idle.
//!
//! `DOORBELL_BENCH_DIR` and `DOORBELL_BENCH_SECONDS` are those of `receive`; `DOORBELL_BENCH_HISTORY` is the number of
//! finished events (default 100000, the long form is 1000000 and takes several minutes to prepare).

#![allow(clippy::expect_used, clippy::panic, unreachable_pub, reason = "a benchmark fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpServer};
use doorbell::app::{authenticator, open_public_listener, open_store};
use doorbell::clock::{Clock, Now, SystemClock};
use doorbell::config::{Config, StoreUrl};
use doorbell::event::{BaseUrl, Body, Event, EventResult, EventUrl, ExtractedFields, Notification};
use doorbell::store::sled::SledStore;
use doorbell::store::{Advanced, Completion, Inbox, Progress, Queue};
use support::load::{Measured, Pace, Until, request, run};
use support::marketplace::{self, ORDER, latencies, until_settled};
use support::process::{ROLE, Served};
use support::{bytes_below, median, variable};

/// As the `doorbell` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const STORE: &str = "DOORBELL_BENCH_STORE";
/// Events of the whole way, as fast as they go.
const EVENTS: u64 = 50_000;

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("marketplace") => actix_web::rt::System::new().block_on(marketplace::serve()),
        Ok("listener") => actix_web::rt::System::new().block_on(serve_door()),
        _ => measure(),
    }
}

fn measure() {
    let length = Duration::from_secs(variable("DOORBELL_BENCH_SECONDS", 3));
    let place = std::env::var("DOORBELL_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let directory = tempfile::tempdir_in(&place).expect("a directory to write in");
    whole_way(directory.path(), length);
    listener(directory.path(), length);
}

/// A running `doorbell serve`.
struct Receiver {
    served: Served,
    address: SocketAddr,
    bearer: String,
    ready: Duration,
}

fn receiver(store: &Path, market: &str) -> Receiver {
    let started = Instant::now();
    let served = Served::doorbell(&[
        ("DOORBELL__STORE__URL", &format!("sled:{}", store.display())),
        ("DOORBELL__SERVER__LISTEN", "127.0.0.1:0"),
        ("DOORBELL__ADMIN__LISTEN", "127.0.0.1:0"),
        ("DOORBELL__LOG__LEVEL", "info,doorbell::deliver=off,doorbell::handler=off"),
        ("DOORBELL__INTEGRATIONS__0__MARKETPLACES__0__BASE_URL", market),
    ]);
    let greeting: serde_json::Value = serde_json::from_str(&served.greeting).expect("a log line");
    let address: SocketAddr = greeting["public"].as_str().expect("an address").parse().expect("an address");
    run(address, 1, Until::Requests(1), Pace::Closed, 200, move |_, out| {
        request(out, address, "GET", "/health/ready", "", "");
    });
    Receiver { served, address, bearer: marketplace::token(address), ready: started.elapsed() }
}

impl Receiver {
    /// Notifies of events whose ids say when they were due.
    fn notify(&self, market: &str, until: Until, pace: Pace) -> Measured {
        let (address, bearer) = (self.address, self.bearer.clone());
        let market = market.replace(':', "%3A").replace('/', "%2F");
        let start = SystemClock.now();
        run(address, CONNECTIONS, until, pace, 202, move |number, out| {
            let due = match pace {
                Pace::Closed => SystemClock.now(),
                #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
                Pace::PerSecond(rate) => start.plus(Duration::from_secs_f64(number as f64 / rate)),
            };
            let due = due.as_millis();
            let id = uuid::Uuid::new_v4();
            let path =
                format!("/notifications/create?eventUrl={market}%2Fapi%2Fintegration%2Fv1%2Fevents%2F{due}.{id}");
            request(out, address, "GET", &path, &format!("Authorization: Bearer {bearer}\r\n"), "");
        })
    }
}

fn whole_way(directory: &Path, length: Duration) {
    let market = Served::start("marketplace", &[]);
    let receiver = receiver(&directory.join("whole-way"), &market.greeting);
    receiver.notify(&market.greeting, Until::Requests(2000), Pace::Closed);
    until_settled(&market.greeting, 2000);

    let started = Instant::now();
    let taken = receiver.notify(&market.greeting, Until::Requests(EVENTS), Pace::Closed);
    until_settled(&market.greeting, 2000 + EVENTS);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = EVENTS as f64 / started.elapsed().as_secs_f64();
    println!("\nwhole way: {CONNECTIONS} connections, {EVENTS} events as fast as they are taken");
    println!("notified           {:>7.0} /s", taken.per_second());
    println!("result confirmed   {rate:>7.0} /s  (at least 4000)");
    latencies(&market.greeting);

    let half = rate / 2.0;
    let taken = receiver.notify(&market.greeting, Until::Elapsed(length * 3), Pace::PerSecond(half));
    until_settled(&market.greeting, 2000 + EVENTS + taken.requests);
    let [p50, p99, most] = latencies(&market.greeting);
    println!("\nat half that rate, {half:.0}/s for {} s: due → result taken", length.as_secs() * 3);
    println!("p50 {p50} ms, p99 {p99} ms (at most 250), at most {most} ms");
}

fn listener(directory: &Path, length: Duration) {
    let history: u32 = variable("DOORBELL_BENCH_HISTORY", 100_000);
    let old = directory.join("history");
    fill(&old, history);
    let on_disk = bytes_below(&old);

    println!("\nserve on {history} finished events:");
    // The first one reads the log, since nobody has opened the store after all that was written to it.
    for start in ["ready after        ", "ready after again  "] {
        let whole = receiver(&old, "http://127.0.0.1:9");
        println!("{start}{:>6} ms  (at most 3000)", whole.ready.as_millis());
        println!("memory             {:>6.1} MB", whole.served.memory().0);
        drop(whole);
    }
    let recorded = bytes_recorded(&old);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let amplification = on_disk as f64 / recorded as f64;
    println!("bytes on disk / recorded {amplification:>6.2}  (at most 3), {} MB of {}", on_disk >> 20, recorded >> 20);

    let whole = receiver(&old, "http://127.0.0.1:9");
    whole.notify("http://127.0.0.1:9", Until::Requests(20_000), Pace::Closed);
    println!("after 20000 more   {:>6.1} MB  (at most 250)", whole.served.memory().0);
    drop(whole);

    // Nobody answers there, and whoever connects waits.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let deaf = format!("http://{}", deaf.local_addr().expect("an address"));
    let nowhere = "http://127.0.0.1:8090";
    let variants = [("delivery idle", nowhere), ("delivery stalled", deaf.as_str()), ("long history", nowhere)];
    let receivers =
        [door_alone(&directory.join("idle")), receiver(&directory.join("stalled"), &deaf), door_alone(&old)];
    let mut measured: [Vec<Measured>; 3] = Default::default();
    for round in 0..=ROUNDS {
        for turn in 0..variants.len() {
            let variant = (round + turn) % variants.len();
            let load = receivers[variant].notify(variants[variant].1, Until::Elapsed(length), Pace::Closed);
            if round > 0 {
                measured[variant].push(load);
            }
        }
    }
    println!("\ndoor: {CONNECTIONS} connections, {ROUNDS} rounds of {} s, medians", length.as_secs());
    for ((name, ..), loads) in variants.iter().zip(&measured) {
        println!("{name:<18}{:>9.0} /s", median(loads.iter().map(Measured::per_second).collect()));
    }
    let ratio = |variant: usize| {
        let pairs = measured[variant].iter().zip(&measured[0]);
        median(pairs.map(|(own, idle)| own.per_second() / idle.per_second()).collect())
    };
    println!("stalled / idle       {:>6.2}   (at least 0.9)", ratio(1));
    println!("long history / idle  {:>6.2}   (at least 0.9)", ratio(2));
}

/// A public listener without delivery, in a process of its own.
fn door_alone(store: &Path) -> Receiver {
    let started = Instant::now();
    let served = Served::start("listener", &[(STORE, store.to_str().expect("a name in UTF-8"))]);
    let address: SocketAddr = served.greeting.parse().expect("an address");
    Receiver { served, address, bearer: marketplace::token(address), ready: started.elapsed() }
}

async fn serve_door() {
    let mut config = Config::defaults();
    config.store.url = StoreUrl::Sled(std::env::var_os(STORE).expect("a directory").into());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_store(&config, &clock).await.expect("opens");
    let authenticator = Arc::new(authenticator(&config, &store, &clock).await.expect("sets up"));
    let listener = Arc::new(open_public_listener(&config, &store, &authenticator, &clock));
    let server = HttpServer::new(move || {
        let listener = Arc::clone(&listener);
        App::new().configure(move |app| listener.routes(app))
    });
    let server = server.workers(2).bind("127.0.0.1:0").expect("a free port");
    println!("{}", server.addrs()[0]);
    server.run().await.expect("serves");
}

/// A store with so many finished events.
fn fill(directory: &Path, events: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let started = Instant::now();
    let store = Arc::new(SledStore::open(directory, false, SystemClock.read()).expect("opens"));
    let base = BaseUrl::parse("http://127.0.0.1:8090").expect("a base URL");
    let fields = ExtractedFields::of(&Event::read(ORDER.as_bytes(), None).expect("an event")).expect("a short account");
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..256 {
            let (store, base, fields) = (Arc::clone(&store), base.clone(), fields.clone());
            tasks.spawn(async move {
                for _ in (task..events).step_by(256) {
                    let url = format!("{base}/api/integration/v1/events/{}", uuid::Uuid::new_v4());
                    let url = EventUrl::parse(&url, [&base]).expect("an event URL");
                    let notification = Notification::new("default".to_owned(), url, None, String::new());
                    let now = SystemClock.read();
                    store.record(&notification, now).await.expect("recorded");
                    // Later than any of the tasks has recorded anything.
                    let now = Now { monotonic: now.monotonic.plus(Duration::from_mins(1)), ..now };
                    let claims = store.claim(1, &[], now).await.expect("answers").claims;
                    let claim = claims.into_iter().next().expect("one event at least");
                    let step = Progress::Fetched {
                        fields: fields.clone(),
                        body: Body { bytes: ORDER.as_bytes().to_vec(), charset: None },
                    };
                    let Ok(Advanced::Proceed(claim)) = store.advance(claim, &step, now).await else { panic!() };
                    let mut result = EventResult::success("accepted");
                    result.account_identifier = Some(format!("account-{}", claim.event().id));
                    let step = Progress::Handled(result);
                    let Ok(Advanced::Proceed(claim)) = store.advance(claim, &step, now).await else { panic!() };
                    store.settle(claim, &Completion::Done(None), now).await.expect("settled");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("worked");
        }
    });
    drop(store);
    println!("\n{events} events recorded and finished in {:.0} s", started.elapsed().as_secs_f64());
}

/// Bytes of the records and bodies in a store.
fn bytes_recorded(directory: &Path) -> u64 {
    let tree = sled::Config::new().path(directory.join("sled")).open().expect("opens");
    let (mut records, mut bodies, mut others) = (0, 0, 0);
    for entry in &*tree {
        let (key, value) = entry.expect("read");
        match key[0] {
            b'e' | b'p' => records += value.len() as u64,
            b'b' => bodies += value.len() as u64,
            _ => others += (key.len() + value.len()) as u64,
        }
    }
    println!("{} MB of records, {} MB of bodies, {} MB of indexes", records >> 20, bodies >> 20, others >> 20);
    records + bodies
}
