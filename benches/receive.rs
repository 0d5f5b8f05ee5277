//! What a durable 202 costs.
//!
//! `cargo bench --bench receive` rotates three routes of one server under one load (64 connections, generator on the
//! same machine): the real notification route on sled, a route that does nothing but answer 202, and a route that
//! inserts and flushes for each request, in a directory with the same synchronous-write attributes. Beside them it
//! rotates the real route with callers that authenticate in the other ways: by tokens of an identity provider that are
//! signed (RS256) or asked about, by name and password. Then it measures what a whole `doorbell serve` takes of memory, and how soon it is ready.
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
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorbell::app::{authenticator, open_public_listener, open_store};
use doorbell::clock::{Clock, SystemClock};
use doorbell::config::{Config, StoreUrl};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
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
    let doors: Vec<DoorOf> = serde_json::from_str(&served.greeting).expect("the doors");
    let ours = &doors[0];
    let real = |listener: &DoorOf| Variant {
        name: format!("notification, {}", listener.kind),
        address: listener.address,
        route: "/notifications/create",
        authorization: listener.authorization.clone(),
    };
    let simple = |route: &'static str| Variant { name: route.to_owned(), route, ..real(ours) };
    let mut variants = vec![real(ours), simple("/nothing"), simple("/insert-and-flush")];
    variants.extend(doors[1..].iter().map(real));

    let mut measured: Vec<Vec<Measured>> = variants.iter().map(|_| Vec::new()).collect();
    let mut base = 0;
    for round in 0..=ROUNDS {
        for turn in 0..variants.len() {
            // Back and forth, so that none always follows the one that leaves most for the disk to do.
            let step = if round % 2 == 0 { turn } else { variants.len() - turn };
            let number = (round + step) % variants.len();
            let (variant, first) = (variants[number].clone(), base);
            let address = variant.address;
            let load = run(address, CONNECTIONS, Until::Elapsed(length), Pace::Closed, 202, move |number, out| {
                let Variant { route, authorization, .. } = &variant;
                notification(out, address, route, authorization, "http://127.0.0.1:8090", first + number);
            });
            base += load.requests;
            // The first round warms up.
            if round > 0 {
                measured[number].push(load);
            }
        }
    }

    println!("\nreceive: {CONNECTIONS} connections, {ROUNDS} rounds of {} s, medians", length.as_secs());
    println!("{:<30}{:>12}{:>10}{:>10}", "route", "requests/s", "p50 ms", "p99 ms");
    for (Variant { name, .. }, rounds) in variants.iter().zip(&measured) {
        let middle = |of: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(of).collect());
        println!(
            "{name:<30}{:>12.0}{:>10.2}{:>10.2}",
            middle(&Measured::per_second),
            middle(&|load| load.quantile_ms(0.5)),
            middle(&|load| load.quantile_ms(0.99)),
        );
    }
    let ratio = |one: usize, other: usize| {
        let rounds = measured[one].iter().zip(&measured[other]);
        median(rounds.map(|(one, other)| one.per_second() / other.per_second()).collect())
    };
    println!("durable receive / do nothing        {:>6.2}   (at least 0.30)", ratio(0, 1));
    println!("durable receive / insert and flush  {:>6.2}   (at least 3)", ratio(0, 2));
    for (number, listener) in doors.iter().enumerate().skip(1) {
        println!("{:<14} / {:<19} {:>6.2}   (at least 0.80)", listener.kind, ours.kind, ratio(number + 2, 0));
    }
    let (now, highest) = served.memory();
    println!("memory of this server: {now:.0} MB, at its highest {highest:.0} MB, with {base} requests served");
}

/// A listener whose callers authenticate in one way, and how.
#[derive(serde::Serialize, serde::Deserialize)]
struct DoorOf {
    kind: String,
    address: SocketAddr,
    authorization: String,
}

/// What is measured beside others.
#[derive(Clone)]
struct Variant {
    name: String,
    address: SocketAddr,
    route: &'static str,
    authorization: String,
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

        let bearer = format!("Bearer {}", marketplace::token(address));
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

fn notification(out: &mut Vec<u8>, host: SocketAddr, route: &str, authorization: &str, market: &str, number: u64) {
    // A marketplace's ids are UUIDs of version 4: spread evenly, not in order.
    let scattered = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let id = uuid::Builder::from_random_bytes(scattered.to_be_bytes()).into_uuid();
    let market = market.replace(':', "%3A").replace('/', "%2F");
    let path = format!("{route}?eventUrl={market}%2Fapi%2Fintegration%2Fv1%2Fevents%2F{id}");
    request(out, host, "GET", &path, &format!("Authorization: {authorization}\r\n"), "");
}

/// The server whose routes are compared, and one on the same store for each other way to authenticate.
async fn serve_routes() {
    let directory = std::env::var_os(STORE).expect("a directory");
    let mut config = Config::defaults();
    config.store.url = StoreUrl::Sled(directory.clone().into());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_store(&config, &clock).await.expect("opens");
    // Below the store's directory, whose attributes it inherits.
    let naive = sled::Config::new()
        .path(Path::new(&directory).join("naive"))
        .cache_capacity(32 << 20)
        .flush_every_ms(None)
        .open()
        .expect("opens");
    let (provider, signed) = identity_provider(clock.now().as_seconds());
    let jwt =
        format!("kind = \"jwt\"\nissuer = \"{provider}\"\naudience = \"doorbell\"\njwks_url = \"{provider}/jwks\"");
    let introspection = format!(
        "kind = \"introspection\"\nintrospection_url = \"{provider}/introspect\"\nintrospection_client_id = \
         \"doorbell\"\nintrospection_client_secret = \"s\""
    );
    let basic = "kind = \"basic\"\nclient_secret = \"s\"".to_owned();
    let mut doors = Vec::new();
    for (kind, outbound, authorization) in [
        ("oauth2", None, String::new()),
        ("jwt RS256", Some(jwt), format!("Bearer {signed}")),
        ("introspection", Some(introspection), "Bearer opaque".to_owned()),
        ("basic", Some(basic), format!("Basic {}", STANDARD.encode("market:s"))),
    ] {
        let config = outbound.map_or_else(|| config.clone(), |outbound| with_outbound(&outbound));
        let authenticator = Arc::new(authenticator(&config, &store, &clock).await.expect("sets up"));
        let listener = Arc::new(open_public_listener(&config, &store, &authenticator, &clock));
        let naive = naive.clone();
        let server = HttpServer::new(move || {
            let listener = Arc::clone(&listener);
            App::new()
                .app_data(web::Data::new(naive.clone()))
                .route("/nothing", web::get().to(async || HttpResponse::Accepted().json(json!({"success": true}))))
                .route("/insert-and-flush", web::get().to(insert_and_flush))
                .configure(move |app| listener.routes(app))
        })
        .workers(2)
        .bind("127.0.0.1:0")
        .expect("a free port");
        let address = server.addrs()[0];
        tokio::spawn(server.run());
        doors.push(DoorOf { kind: kind.to_owned(), address, authorization });
    }
    let address = doors[0].address;
    let bearer = actix_web::web::block(move || marketplace::token(address)).await.expect("a token");
    doors[0].authorization = format!("Bearer {bearer}");
    println!("{}", serde_json::to_string(&doors).expect("JSON"));
    std::future::pending::<()>().await;
}

/// A configuration whose marketplace authenticates as `outbound` says.
fn with_outbound(outbound: &str) -> Config {
    let inbound = "base_url = \"http://127.0.0.1:8090\"\n[integrations.marketplaces.inbound]\nclient_id = \"v\"\n\
                   client_secret = \"s\"";
    let text = format!(
        "[[integrations]]\nname = \"default\"\n[integrations.outbound]\nclient_id = \"market\"\n{outbound}\n\
         [[integrations.marketplaces]]\n{inbound}"
    );
    Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// An identity provider that vouches for every opaque token, and a token it signed.
fn identity_provider(now: i64) -> (String, String) {
    // What a key of 2048 bits has before it as PKCS #8 and not as PKCS #1.
    const PKCS8_HEAD: usize = 26;
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
    let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("DER");
    let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[PKCS8_HEAD..]);
    let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256).expect("a public key");
    public.common.key_id = Some("key".to_owned());
    let keys = json!({ "keys": [public] });
    let active = json!({"active": true, "client_id": "market"});
    let server = HttpServer::new(move || {
        let (keys, active) = (keys.clone(), active.clone());
        App::new()
            .route("/jwks", web::get().to(move || std::future::ready(HttpResponse::Ok().json(&keys))))
            .route("/introspect", web::post().to(move || std::future::ready(HttpResponse::Ok().json(&active))))
    })
    .workers(1)
    .bind("127.0.0.1:0")
    .expect("a free port");
    let base_url = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    let header = Header { kid: Some("key".to_owned()), ..Header::new(Algorithm::RS256) };
    let claims = json!({"iss": base_url, "aud": "doorbell", "azp": "market", "exp": now + 86_400});
    let token = encode(&header, &claims, &key).expect("signs");
    (base_url, token)
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
