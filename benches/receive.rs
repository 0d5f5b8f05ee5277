//! What a durable 202 costs.
//!
//! `cargo bench --bench receive` rotates three routes of one server under one load (64 connections, generator on the
//! same machine): the real notification route on sled, a route that does nothing but answer 202, and a route that
//! inserts and flushes for each request, in a directory with the same synchronous-write attributes. Then it measures
//! what a whole `doorbell serve` takes of memory, and how soon it is ready.
//!
//! `DOORBELL_BENCH_DIR` names the directory to write in (default: the build directory, since /tmp may lie in memory);
//! `DOORBELL_BENCH_SECONDS` the length of one measurement (default 3).

#![allow(clippy::expect_used, clippy::panic, unreachable_pub, reason = "a benchmark fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use doorbell::app::{authenticator, open_door, open_store};
use doorbell::clock::{Clock, SystemClock};
use doorbell::config::{Config, StoreUrl};
use serde_json::json;
use support::load::{Measured, Pace, Until, request, run};
use support::process::{ROLE, Served};
use support::{marketplace, median, variable};

/// As the `doorbell` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
/// Events of the memory measurement.
const EVENTS: u64 = 200_000;
const STORE: &str = "DOORBELL_BENCH_STORE";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("routes") => actix_web::rt::System::new().block_on(serve_routes()),
        Ok("marketplace") => actix_web::rt::System::new().block_on(marketplace::serve()),
        _ => measure(),
    }
}

fn measure() {
    let seconds = variable("DOORBELL_BENCH_SECONDS", 3);
    let place = std::env::var("DOORBELL_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let directory = tempfile::tempdir_in(&place).expect("a directory to write in");
    receive_routes(directory.path(), Duration::from_secs(seconds));
    whole_program(directory.path());
}

fn receive_routes(directory: &Path, length: Duration) {
    let store = directory.join("routes");
    let served = Served::start("routes", &[(STORE, store.to_str().expect("a name in UTF-8"))]);
    let (address, token) = served.greeting.split_once(' ').expect("address and token");
    let address: SocketAddr = address.parse().expect("an address");
    let bearer = token.to_owned();

    let variants = ["/notifications/create", "/nothing", "/insert-and-flush"];
    let mut measured: [Vec<Measured>; 3] = Default::default();
    let mut base = 0;
    for round in 0..=ROUNDS {
        for turn in 0..variants.len() {
            let variant = (round + turn) % variants.len();
            let (route, bearer, first) = (variants[variant], bearer.clone(), base);
            let load = run(address, CONNECTIONS, Until::Elapsed(length), Pace::Closed, 202, move |number, out| {
                notification(out, address, route, &bearer, "http://127.0.0.1:8090", first + number);
            });
            base += load.requests;
            // The first round warms up.
            if round > 0 {
                measured[variant].push(load);
            }
        }
    }

    println!("\nreceive: {CONNECTIONS} connections, {ROUNDS} rounds of {} s, medians", length.as_secs());
    println!("{:<26}{:>12}{:>10}{:>10}", "route", "requests/s", "p50 ms", "p99 ms");
    for (route, rounds) in variants.iter().zip(&measured) {
        let middle = |of: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(of).collect());
        println!(
            "{route:<26}{:>12.0}{:>10.2}{:>10.2}",
            middle(&Measured::per_second),
            middle(&|load| load.quantile_ms(0.5)),
            middle(&|load| load.quantile_ms(0.99)),
        );
    }
    let ratio = |other: usize| {
        median(
            measured[0]
                .iter()
                .zip(&measured[other])
                .map(|(own, other)| own.per_second() / other.per_second())
                .collect(),
        )
    };
    println!("durable receive / do nothing        {:>6.2}   (at least 0.30)", ratio(1));
    println!("durable receive / insert and flush  {:>6.2}   (at least 3)", ratio(2));
    let (now, highest) = served.memory();
    println!("memory of this server: {now:.0} MB, at its highest {highest:.0} MB, with {base} requests served");
}

fn whole_program(directory: &Path) {
    let market = Served::start("marketplace", &[]);
    for (name, base_url) in
        [("marketplace answers", market.greeting.as_str()), ("marketplace is down", "http://127.0.0.1:9")]
    {
        let store = format!("sled:{}", directory.join(name.replace(' ', "-")).display());
        let started = Instant::now();
        let served = Served::doorbell(&[
            ("DOORBELL__STORE__URL", &store),
            ("DOORBELL__SERVER__LISTEN", "127.0.0.1:0"),
            ("DOORBELL__ADMIN__LISTEN", "127.0.0.1:0"),
            ("DOORBELL__LOG__LEVEL", "info,doorbell::deliver=off,doorbell::handler=off"),
            ("DOORBELL__INTEGRATIONS__0__MARKETPLACES__0__BASE_URL", base_url),
        ]);
        let greeting: serde_json::Value = serde_json::from_str(&served.greeting).expect("a log line");
        let address: SocketAddr = greeting["public"].as_str().expect("an address").parse().expect("an address");
        run(address, 1, Until::Requests(1), Pace::Closed, 200, move |_, out| {
            request(out, address, "GET", "/health/ready", "", "");
        });
        let ready = started.elapsed();
        let (idle, _) = served.memory();

        let bearer = marketplace::token(address);
        let base = base_url.to_owned();
        let load = run(address, CONNECTIONS, Until::Requests(EVENTS), Pace::Closed, 202, move |number, out| {
            notification(out, address, "/notifications/create", &bearer, &base, number);
        });
        if base_url == market.greeting {
            marketplace::until_settled(base_url, EVENTS);
        }
        let (now, highest) = served.memory();
        println!("\ndoorbell serve, {name}:");
        println!("ready after        {:>6} ms  (at most 200, on an empty store)", ready.as_millis());
        println!("memory idle        {idle:>6.1} MB  (at most 25)");
        println!("memory after {EVENTS} {now:>6.1} MB  (at most 120), at its highest {highest:.1} MB");
        println!(
            "received           {:>6.0} /s, p99 {:.1} ms, with delivery on the same cores",
            load.per_second(),
            load.quantile_ms(0.99)
        );
    }
}

fn notification(out: &mut Vec<u8>, host: SocketAddr, route: &str, bearer: &str, market: &str, number: u64) {
    // A marketplace's ids are UUIDs of version 4: spread evenly, not in order.
    let scattered = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let id = uuid::Builder::from_random_bytes(scattered.to_be_bytes()).into_uuid();
    let market = market.replace(':', "%3A").replace('/', "%2F");
    let path = format!("{route}?eventUrl={market}%2Fapi%2Fintegration%2Fv1%2Fevents%2F{id}");
    request(out, host, "GET", &path, &format!("Authorization: Bearer {bearer}\r\n"), "");
}

/// The server whose three routes are compared.
async fn serve_routes() {
    let directory = std::env::var_os(STORE).expect("a directory");
    let mut config = Config::defaults();
    config.store.url = StoreUrl::Sled(directory.clone().into());
    let store = open_store(&config).await.expect("opens");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authenticator = Arc::new(authenticator(&config, &store, &clock).await.expect("sets up"));
    let door = Arc::new(open_door(&config, &store, &authenticator, &clock));
    // Below the store's directory, whose attributes it inherits.
    let naive = sled::Config::new()
        .path(Path::new(&directory).join("naive"))
        .cache_capacity(32 << 20)
        .flush_every_ms(None)
        .open()
        .expect("opens");

    let server = HttpServer::new(move || {
        let door = Arc::clone(&door);
        App::new()
            .app_data(web::Data::new(naive.clone()))
            .route("/nothing", web::get().to(async || HttpResponse::Accepted().json(json!({"success": true}))))
            .route("/insert-and-flush", web::get().to(insert_and_flush))
            .configure(move |app| door.routes(app))
    })
    .workers(2)
    .bind("127.0.0.1:0")
    .expect("a free port");
    let address = server.addrs()[0];
    let running = server.run();
    let running = tokio::spawn(running);
    let bearer = actix_web::web::block(move || marketplace::token(address)).await.expect("a token");
    println!("{address} {bearer}");
    running.await.expect("runs").expect("serves");
}

#[derive(serde::Deserialize)]
struct Query {
    #[serde(rename = "eventUrl")]
    event_url: String,
}

async fn insert_and_flush(db: web::Data<sled::Db>, query: web::Query<Query>) -> HttpResponse {
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, query.event_url.as_bytes());
    let record = json!({"id": id, "eventUrl": query.event_url, "state": "received", "padding": "x".repeat(350)});
    // `flush_async` would deadlock: sled's threads would all wait for writes that only they can do.
    web::block(move || {
        db.insert(id.as_bytes(), record.to_string().into_bytes()).expect("inserted");
        db.flush().expect("flushed");
    })
    .await
    .expect("done");
    HttpResponse::Accepted().json(json!({"success": true}))
}
