//! Stage 3: where events are durable, and where `receive` and `deliver` meet.
//!
//! A trait a noun: [`Inbox`] takes events in, [`Queue`] hands them to workers, [`History`] shows them, [`Accounts`] says
//! what they have left, [`Secrets`] and [`Backup`] keep what their names say. [`EventStore`] is all of them. [`sled`] keeps
//! the contract in a directory of this machine, [`memory`] for as long as the process lives; the conformance suite holds
//! every store to every sentence written there. Time is always a parameter.

mod accounts;
mod backup;
mod codec;
#[cfg(test)]
mod conformance;
mod durability;
mod error;
pub mod export;
mod history;
mod inbox;
mod lease;
mod local;
pub mod memory;
mod pruning;
mod queue;
mod retention;
mod secrets;
pub mod sled;
mod stored_event;

use async_trait::async_trait;

pub use accounts::Accounts;
pub use backup::{Backup, EXPORTED_BYTES, Exported};
pub use durability::{Durability, FileSystem};
pub use error::StoreError;
pub use history::{Counts, Filter, History, Page, Pruned};
pub use inbox::{Inbox, OperatorAction, Recorded};
pub use lease::Lease;
pub use local::subscriptions::Subscription;
pub use pruning::prune_from_time_to_time;
pub use queue::{
    Advanced, Claim, Claims, Completion, LEASE, LONGEST_PAUSE, Progress, Queue, QueueError, READ_IN_ORDER,
};
pub use retention::Retention;
pub use secrets::Secrets;
pub use stored_event::{Sequence, StoredEvent};

/// Durable events, who works on them, and what lies around them.
#[async_trait]
pub trait EventStore: Inbox + Queue + History + Accounts + Secrets + Backup {
    /// What kind of store it is.
    fn describe(&self) -> Description;

    /// Ends the store: what was asked before is finished, and no write is taken after.
    async fn close(&self);
}

/// What kind of store a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// How far an acknowledged write is safe.
    pub durability: Durability,
    /// Version of the stored layout.
    pub version: &'static str,
}
