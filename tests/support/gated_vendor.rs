//! A vendor's binary for the tests: its handler runs when the test says so.
//!
//! Each run connects to the address in `GATE`, writes the event's id and a line end, and goes on at the first byte
//! that comes back. Without a byte it asks to be run again; at `!` it panics with what a customer wrote. With `BLOCKS` set
//! it blocks its thread meanwhile.

use std::io::{Read, Write};
use std::process::ExitCode;

use doorbell::event::AccountIdentifier;
use doorbell::handler::{NewAccount, SubscriptionOrder};
use doorbell::{EventHandler, HandlerResult, Outcome, async_trait, retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Gated;

#[async_trait]
impl EventHandler for Gated {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        let gate = std::env::var("GATE").map_err(retry)?;
        if std::env::var_os("BLOCKS").is_some() {
            let mut gate = std::net::TcpStream::connect(gate).map_err(retry)?;
            gate.write_all(format!("{}\n", event.context.event_id).as_bytes()).map_err(retry)?;
            gate.read_exact(&mut [0]).map_err(retry)?;
            return Ok(Outcome::account(AccountIdentifier::new("blocked")?, "done"));
        }
        let mut gate = TcpStream::connect(gate).await.map_err(retry)?;
        gate.write_all(format!("{}\n", event.context.event_id).as_bytes()).await.map_err(retry)?;
        let go_on = gate.read_u8().await.map_err(retry)?;
        assert_ne!(go_on, b'!', "no account \u{1b}[2J\u{9b}2J\nfor it");
        let account = AccountIdentifier::new(format!("account of {}", event.context.event_id))?;
        Ok(Outcome::account(account, "done"))
    }
}

fn main() -> ExitCode {
    doorbell::run(Gated)
}
