//! A vendor's own Doorbell: product logic in Rust, with the whole command line and configuration of the stock one.
//!
//! ```text
//! cargo run --example custom_handler -- dev
//! curl -X POST http://127.0.0.1:8090/simulate/subscription-order
//! ```

use std::collections::HashMap;
use std::process::ExitCode;

use doorbell::event::{AccountIdentifier, ErrorCode};
use doorbell::handler::{NewAccount, SubscriptionCancel, SubscriptionOrder};
use doorbell::{EventHandler, HandlerResult, Outcome, async_trait};
use tokio::sync::Mutex;

/// A product that gives every customer a workspace, up to a limit.
#[derive(Default)]
struct Workspaces {
    /// Workspaces by name, and the event each was ordered by. A real product has a database here.
    open: Mutex<HashMap<String, String>>,
}

const LIMIT: usize = 100;

#[async_trait]
impl EventHandler for Workspaces {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        let event_id = event.context.event_id.to_string();
        let mut open = self.open.lock().await;
        // A run that was cut short by a crash is repeated: look whether the work is done already.
        let done = open.iter().find(|(_, ordered_by)| **ordered_by == event_id).map(|(name, _)| name.clone());
        if done.is_none() && open.len() >= LIMIT {
            return Ok(Outcome::rejected(ErrorCode::MaxUsersReached, "no workspace is left"));
        }
        let name = done.unwrap_or_else(|| format!("workspace-{}", open.len() + 1));
        open.insert(name.clone(), event_id);
        let account = AccountIdentifier::new(name)?;
        Ok(Outcome::account(account, "your workspace is ready"))
    }

    async fn subscription_cancel(&self, event: SubscriptionCancel) -> HandlerResult {
        let Some(name) = event.account.account_identifier else {
            return Ok(Outcome::rejected(ErrorCode::AccountNotFound, "the event names no account"));
        };
        match self.open.lock().await.remove(&name) {
            Some(_) => Ok(Outcome::completed(format!("{name} is closed"))),
            None => Ok(Outcome::rejected(ErrorCode::AccountNotFound, format!("there is no {name}"))),
        }
    }
}

fn main() -> ExitCode {
    doorbell::run(Workspaces::default())
}
