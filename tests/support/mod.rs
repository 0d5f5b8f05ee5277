//! What the black-box tests share: a marketplace whose every move a test decides, a receiver in this process, and
//! the real program in one of its own.

pub mod faulty_queue;
pub mod identity;
pub mod marketplace;
pub mod process;
pub mod raw;
pub mod receiver;
pub mod shim;
pub mod signature;

use std::time::Duration;

use doorbell::clock::ManualClock;

/// How long a test waits for something that is about to happen before it fails: not a pause, a limit.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Lets time pass on `clock`, ten times as fast as it does, for whoever waits for more than the test itself brings about.
pub async fn let_time_pass(clock: &ManualClock) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        tick.tick().await;
        clock.advance(Duration::from_millis(10));
    }
}

/// A configuration with one integration in the marketplace at `marketplace`, every listener on a free port.
pub fn configuration(marketplace: &str, store: &str) -> String {
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        [admin]
        listen = "127.0.0.1:0"
        [store]
        url = "{store}"
        [delivery]
        retry = ["10ms"]
        [log]
        format = "json"
        [[integrations]]
        name = "default"
        [integrations.outbound]
        kind = "oauth2"
        client_id = "marketplace"
        client_secret = "outbound-secret"
        [[integrations.marketplaces]]
        base_url = "{marketplace}"
        [integrations.marketplaces.inbound]
        client_id = "vendor"
        client_secret = "inbound-secret"
        "#
    )
}
