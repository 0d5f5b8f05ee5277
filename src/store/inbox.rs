//! Where events come in, and where they are changed from outside.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::clock::Now;
use crate::event::{Change, EventId, EventRecord, EventResult, Notification};

/// Takes notifications, and what operators and products say about events.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Makes a notification durable, or finds that it is already.
    ///
    /// Returns only when the event would survive loss of power (G1). Concurrent calls for one event, on any number of
    /// replicas, make one event: exactly one of them returns [`Recorded::New`] (G2).
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError>;

    /// Changes an event that no worker holds, durably, and returns it as it is then.
    async fn amend(&self, id: EventId, action: OperatorAction, now: Now) -> Result<EventRecord, StoreError>;

    /// Has an event that waits for its next try become due now. An event that is held, or has ended, stays as it is.
    async fn make_due(&self, id: EventId, now: Now) -> Result<(), StoreError>;

    /// Whether the store would take a notification now.
    async fn ready(&self) -> Result<(), StoreError>;
}

/// What came of recording a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// The event is new and durable.
    New,
    /// The event was recorded before, durably, and stands so.
    Duplicate(Box<EventRecord>),
}

/// What an operator or the product changes from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorAction {
    /// Gives a deferred or dead event its outcome.
    Resolve(EventResult),
    /// Runs a dead, deferred or finished event again.
    Rerun,
    /// Notes that a result was handed over in the answer to a notification; it is reported after `wait` all the same.
    HandedOver {
        /// How long the marketplace has to make use of the answer.
        wait: Duration,
    },
}

impl From<OperatorAction> for Change {
    fn from(action: OperatorAction) -> Self {
        match action {
            OperatorAction::Resolve(result) => Self::Handled(result),
            OperatorAction::Rerun => Self::Rerun,
            OperatorAction::HandedOver { wait } => Self::HandedOver { wait },
        }
    }
}
