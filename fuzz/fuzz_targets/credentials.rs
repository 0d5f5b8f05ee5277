//! No header and no query authenticates anybody who knows no secret, and none panics.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use doorbell::app::authenticator;
use doorbell::authenticate::{Authenticator, RequestCredentials};
use doorbell::clock::{Clock, SystemClock};
use doorbell::config::Config;
use doorbell::store::EventStore;
use doorbell::store::memory::MemoryStore;
use doorbell_fuzz::within_limit;
use tokio::runtime::{Builder, Runtime};

const CONFIGURATION: &str = r#"
[[integrations]]
name = "a"
[[integrations.outbound]]
kind = "oauth2"
client_id = "market"
client_secret = "a1b83c6f-8d6b-4e0f-93a1-5d3cd6a6a0b1"
[[integrations.outbound]]
kind = "basic"
client_id = "market"
client_secret = "a1b83c6f-8d6b-4e0f-93a1-5d3cd6a6a0b1"
[[integrations.outbound]]
kind = "oauth1"
client_id = "market"
client_secret = "a1b83c6f-8d6b-4e0f-93a1-5d3cd6a6a0b1"
[[integrations.marketplaces]]
base_url = "http://127.0.0.1:8090"
[integrations.marketplaces.inbound]
client_id = "vendor"
client_secret = "s"
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));
static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let config = Config::from_toml(CONFIGURATION).expect("valid");
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    RUNTIME.block_on(authenticator(&config, &store, &clock)).expect("sets up")
});

libfuzzer_sys::fuzz_target!(|input: (Option<&[u8]>, &str)| {
    let (header, query) = input;
    let presented = RequestCredentials {
        method: "GET",
        authorization: header.into_iter().collect(),
        path: "/notifications/create",
        query,
        // Each from elsewhere: who guesses from one address is soon not looked at.
        address: Ipv4Addr::from(NUMBER.fetch_add(1, Ordering::Relaxed)).into(),
    };
    let verdict = within_limit(|| RUNTIME.block_on(AUTHENTICATOR.authenticate(&presented)));
    assert!(verdict.is_err(), "{presented:?}");
});
