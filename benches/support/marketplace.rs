//! A marketplace that answers at once: tokens, one event body for every id, and a count of results.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorbell::clock::{Clock, SystemClock};
use serde_json::json;

use super::load::ask;

/// A body of the usual size.
pub const ORDER: &str = r#"{"type":"SUBSCRIPTION_ORDER","marketplace":{"partner":"BENCH","baseUrl":"http://127.0.0.1:8090"},
"applicationUuid":null,"flag":null,"creator":{"uuid":"4b1c7f0e-6f3d-4f0c-9a51-0d8e2f6a7c11","openId":null,
"email":"grace.hopper@emcc.example","firstName":"Grace","lastName":"Hopper","language":"en","locale":"en-US",
"address":null,"attributes":null},"payload":{"user":null,"company":{"uuid":"b8a1c6a2-52a7-4f44-8a54-2f0b8f7c9e21",
"externalId":null,"name":"Eckert-Mauchly Computing","email":"office@emcc.example","phoneNumber":null,
"website":"https://emcc.example","country":"US"},"account":null,"addonInstance":null,"addonBinding":null,
"order":{"editionCode":"BASIC","addonOfferingCode":null,"pricingDuration":"MONTHLY",
"items":[{"unit":"USER","quantity":"5"}]},"notice":null,"configuration":{}},"returnUrl":null,"links":[]}"#;

/// Serves until it is killed; prints its address once it listens.
pub async fn serve() {
    let results = web::Data::new(Results::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(results.clone())
            .route("/oauth2/token", web::post().to(issue))
            .route(
                "/api/integration/v1/events/{id}",
                web::get().to(async || HttpResponse::Ok().content_type("application/json").body(ORDER)),
            )
            .route("/api/integration/v1/events/{id}/result", web::post().to(take))
            .route("/results", web::get().to(count))
            .route("/latencies", web::get().to(tell_latencies))
    })
    .workers(1)
    .bind("127.0.0.1:0")
    .expect("a free port");
    println!("http://{}", server.addrs()[0]);
    server.run().await.expect("serves");
}

async fn issue() -> HttpResponse {
    HttpResponse::Ok().json(json!({"access_token": "bench", "token_type": "bearer", "expires_in": 43199}))
}

/// What came back.
#[derive(Default)]
struct Results {
    count: AtomicU64,
    /// Milliseconds from when an event was due, which its id begins with, until its result came.
    latencies: Mutex<Vec<i64>>,
}

async fn take(results: web::Data<Results>, id: web::Path<String>) -> HttpResponse {
    if let Some(due) = id.split_once('.').and_then(|(due, _)| due.parse::<i64>().ok()) {
        let latency = SystemClock.now().as_millis() - due;
        results.latencies.lock().expect("whole").push(latency);
    }
    results.count.fetch_add(1, Ordering::Relaxed);
    HttpResponse::NoContent().finish()
}

async fn count(results: web::Data<Results>) -> String {
    results.count.load(Ordering::Relaxed).to_string()
}

async fn tell_latencies(results: web::Data<Results>) -> HttpResponse {
    let mut latencies = std::mem::take(&mut *results.latencies.lock().expect("whole"));
    latencies.sort_unstable();
    let quantile = |of: usize| latencies.get(latencies.len().saturating_sub(1) * of / 100).copied().unwrap_or(0);
    HttpResponse::Ok().json([quantile(50), quantile(99), quantile(100)])
}

/// Milliseconds at the median, at 99 % and at most since this was last asked.
pub fn latencies(base_url: &str) -> [i64; 3] {
    let address: SocketAddr = base_url.trim_start_matches("http://").parse().expect("an address");
    serde_json::from_str(ask(address, "GET", "/latencies", "", "").trim()).expect("JSON")
}

/// Waits until the marketplace at `base_url` has taken `events` results.
pub fn until_settled(base_url: &str, events: u64) {
    let address: SocketAddr = base_url.trim_start_matches("http://").parse().expect("an address");
    while ask(address, "GET", "/results", "", "").trim().parse::<u64>().expect("a count") < events {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A bearer token of the receiver at `address`, which runs with the default credentials.
pub fn token(address: SocketAddr) -> String {
    let credentials = STANDARD.encode("marketplace:change-me");
    let headers = format!("Authorization: Basic {credentials}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    let answer = ask(address, "POST", "/oauth2/token", &headers, "grant_type=client_credentials");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    answer["access_token"].as_str().expect("a token").to_owned()
}
