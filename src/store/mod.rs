//! Stage 3: where events are durable, and where `receive` and `deliver` meet.
//!
//! [`EventStore`] is the contract; [`sled`] keeps it in a directory of this machine, [`memory`] for as long
//! as the process lives. The conformance suite holds both to every sentence written here.

mod agenda;
mod codec;
#[cfg(test)]
mod conformance;
mod durability;
pub mod export;
pub mod memory;
pub mod recovering;
mod retention;
pub mod sled;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::{Moment, Now, Timestamp};
use crate::event::{
    AccountStatus, Body, Change, ChangeError, EventId, EventRecord, EventResult, Facts, Failure, IllegalChange,
    Notification, State, UnfitResult, Unreadable,
};
use agenda::Lease;

pub use durability::{Durability, FileSystem};
pub use retention::{Retention, prune_from_time_to_time};
pub use watch::Watch;

/// What came of recording a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// The event is new and durable.
    New,
    /// The event was recorded before, durably, and stands so.
    Duplicate(Box<EventRecord>),
}

/// One worker's exclusive hold on one event, for as long as the claim lives.
///
/// Not `Clone` and consumed by every write, so that nobody writes twice on one hold; the fence lets the store
/// refuse a holder that lost it. A claim that is dropped without having been settled gives the event back: no clock has a
/// say in that, so an event never has two holders in one process, and never waits for one that is gone (G12).
#[must_use = "an event whose claim is dropped is worked again"]
#[derive(Debug)]
pub struct Claim {
    record: EventRecord,
    sequence: Sequence,
    lease: Lease,
    /// Whether the claim before this one was dropped.
    was_lost: bool,
}

/// Place of an event in the order of receipt.
pub type Sequence = u64;

/// Bytes of bodies after which an export pauses.
pub const EXPORTED_BYTES: usize = 4 << 20;

/// An event with all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Its record.
    #[serde(rename = "event")]
    pub record: EventRecord,
    /// Its body as received, once it was fetched.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "export::write_body",
        deserialize_with = "export::read_body"
    )]
    pub body: Option<Vec<u8>>,
}

/// Some events of an export.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// In the order of receipt.
    pub events: Vec<StoredEvent>,
    /// Events that cannot be read, by place, and why not.
    pub unreadable: Vec<(Sequence, String)>,
    /// Where the next ones begin, if there are more.
    pub next: Option<Sequence>,
}

impl Claim {
    /// The event as it stood when it was claimed or last advanced.
    #[must_use]
    pub const fn event(&self) -> &EventRecord {
        &self.record
    }

    /// Whether the holder before this one let go of the event without a word: it panicked, was stopped, or could not
    /// make its outcome durable. Whoever claims it next records that as a failed attempt.
    #[must_use]
    pub const fn was_lost(&self) -> bool {
        self.was_lost
    }
}

/// Progress that keeps the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The body was read. Stored as received, beside what matters of it.
    Fetched {
        /// What matters.
        facts: Facts,
        /// As received.
        body: Body,
    },
    /// The outcome is known; it is durable before it is reported (G4).
    Handled(EventResult),
}

/// What an advanced claim may do next.
#[derive(Debug)]
pub enum Advanced {
    /// Go on.
    Proceed(Claim),
    /// Another event of the same account comes first, or one that may turn out to be of it (G5); this one can be claimed
    /// again after it.
    Waiting,
}

/// How a claim ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing is left to do. A note says why, if the reason is odd.
    Done(Option<String>),
    /// The result is left to the answer that a caller waits for, and reported at `until` if none was given.
    LeftToAnswer {
        /// When its caller waits no longer.
        until: Timestamp,
    },
    /// The product answers later.
    Deferred,
    /// A transient failure: to be claimed again after `wait`.
    Retry {
        /// How long to wait.
        wait: Duration,
        /// What went wrong.
        failure: Failure,
        /// The body that came, if nobody could read it; kept in place of the one before.
        unreadable: Option<Body>,
    },
    /// Given up; waits for an operator.
    Dead {
        /// What went wrong.
        failure: Failure,
        /// The body that came, if nobody could read it.
        unreadable: Option<Body>,
        /// Whether it may pass, so that a further notification takes the event up again.
        may_recover: bool,
    },
}

/// What an operator or the product changes from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amendment {
    /// The outcome of a deferred or dead event.
    Resolve(EventResult),
    /// Run a dead, deferred or finished event again.
    Rerun,
    /// A result that was left to the answer of a notification has been handed over there; it is reported after `wait`.
    HandedOver {
        /// How long the marketplace has to make use of the answer.
        wait: Duration,
    },
}

/// Which events a listing shows; an absent field shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only events in this state.
    pub state: Option<State>,
    /// Only events of this type, by its wire name.
    pub kind: Option<String>,
    /// Only events of this account, and those whose result has named it: the purchase that made it.
    pub account: Option<String>,
    /// Only events of this integration.
    pub integration: Option<String>,
    /// Only events recorded at or after this moment.
    pub from: Option<Timestamp>,
    /// Only events recorded before this moment.
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Whether `event` is shown.
    #[must_use]
    pub fn shows(&self, event: &EventRecord) -> bool {
        // A purchase names no account: its result does.
        fn account_made(event: &EventRecord) -> Option<&str> {
            event.result.as_ref().filter(|result| result.success)?.account_identifier.as_deref()
        }
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none() || wanted == found
        }
        let kind = event.presumed_kind();
        self.state.is_none_or(|state| state == event.state)
            && is(self.kind.as_deref(), kind.map(crate::event::EventType::as_str))
            && (is(self.account.as_deref(), event.account.as_deref())
                || is(self.account.as_deref(), account_made(event)))
            && is(self.integration.as_deref(), Some(event.integration.as_str()))
            && self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
    }
}

/// A page of a listing, newest event first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events.
    pub events: Vec<EventRecord>,
    /// Events that cannot be read, by place, and why not.
    pub unreadable: Vec<(Sequence, String)>,
    /// Where the next page begins, if there is one.
    pub next: Option<Sequence>,
}

/// What one call of [`EventStore::prune`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Events that are gone.
    pub removed: usize,
    /// Whether there is nothing more to look at for now.
    pub is_through: bool,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// More writes wait than the store takes on.
    #[error("the store has too many writes waiting")]
    Overloaded,
    /// The medium failed; nothing is acknowledged.
    #[error("the store cannot write or read: {0}")]
    Unavailable(String),
    /// The claim is not that of the event's holder.
    #[error("the claim on the event was lost")]
    ClaimLost,
    /// A worker has the event in hand.
    #[error("the event is being worked on")]
    Held,
    /// The step does not follow from the event's state.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
    /// The result is not one that the event can have.
    #[error(transparent)]
    Unfit(#[from] UnfitResult),
    /// There is no such event.
    #[error("there is no event with this id")]
    NotFound,
    /// A record that is longer than is kept in one piece.
    #[error("a record of {0} bytes is longer than is kept")]
    TooLong(usize),
    /// A stored value cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Unreadable(String),
}

/// Durable events and who works on them.
///
/// Time is always a parameter.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Makes a notification durable, or finds that it is already.
    ///
    /// Returns only when the event would survive loss of power (G1). Concurrent calls for one event make one
    /// event: exactly one of them returns [`Recorded::New`] (G2).
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError>;

    /// Hands out the unfinished event that has been due longest, leaving alone those that lie in one of the `busy`
    /// marketplaces.
    ///
    /// No event has two holders, and of one account at most one event is held, the earliest received first (G5).
    /// An event whose claim was dropped is handed out again, and [`Claim::was_lost`] says so.
    async fn claim(&self, now: Now, busy: &[String]) -> Result<Option<Claim>, StoreError>;

    /// Makes progress durable.
    ///
    /// An event whose body was read waits while events of its marketplace that were received before it are being read for
    /// the first time: one of them may turn out to be of its account (G5). [`EventStore::give_way`] ends that.
    ///
    /// Fails with [`StoreError::ClaimLost`] and writes nothing if the event is not held by this claim. Whatever it fails
    /// with, the event can be claimed again.
    async fn advance(&self, claim: Claim, step: Step, now: Now) -> Result<Advanced, StoreError>;

    /// Lets later events go before this one, whose body has not been read yet. Nothing is written.
    ///
    /// For whoever reads it and sees that this takes long: other accounts are not to wait for that.
    async fn give_way(&self, claim: &Claim) -> Result<(), StoreError>;

    /// Makes the end of a claim durable.
    ///
    /// Fails with [`StoreError::ClaimLost`] and writes nothing if the event is not held by this claim. Whatever it fails
    /// with, the event can be claimed again.
    async fn settle(&self, claim: Claim, settlement: Settlement, now: Now) -> Result<(), StoreError>;

    /// Makes an event that waits for its next try claimable at once. Nothing is written: it is a hint.
    async fn hasten(&self, id: EventId, now: Now) -> Result<(), StoreError>;

    /// Changes an event that nobody works on.
    async fn amend(&self, id: EventId, amendment: Amendment, now: Now) -> Result<EventRecord, StoreError>;

    /// Removes up to `limit` events that were done and last changed before `moment`, oldest first, bodies and all.
    ///
    /// Looks at so many events in one call and no more, and goes on from there in the next; it is through once it has
    /// come to those that are too young. Whatever lies in between, be it dated after `now` or not to be read at all,
    /// is passed over.
    ///
    /// Dead and deferred events stay, since they wait for somebody, and so does the newest event of all, whose place
    /// in the order must not be given twice.
    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError>;

    /// How far retention has come, if that was ever noted.
    async fn retention(&self) -> Result<Option<Retention>, StoreError>;

    /// Notes, durably, how far retention has come.
    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError>;

    /// The record of an event.
    async fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreError>;

    /// The body of an event as received: the one that was understood, or the last that was not.
    async fn body(&self, id: EventId) -> Result<Option<Body>, StoreError>;

    /// Events in the order of receipt from place `from` on, as they stand, with their bodies: up to `limit` of them,
    /// and not many more than [`EXPORTED_BYTES`] of bodies.
    ///
    /// What was recorded before the first of these calls is in one of them, exactly once.
    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError>;

    /// Takes events as an export has them, in that order, behind those that are there. One whose id is known is passed
    /// over, so that an import that was cut off can be done again. Returns how many were taken, durably.
    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError>;

    /// The status of an account as the latest event about it that succeeded has left it; nothing if none has told.
    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError>;

    /// Up to `limit` events, newest first, that were received before the event at `before`. Those that cannot be read
    /// count, and are told apart.
    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError>;

    /// When the next event that cannot be claimed yet becomes due, but for the `busy` marketplaces.
    async fn next_due(&self, busy: &[String]) -> Result<Option<Moment>, StoreError>;

    /// Begins to watch an event: the watch tells when a change of its record has become durable.
    fn watch(&self, id: EventId) -> Watch;

    /// Returns once something may have become claimable since the last call.
    async fn changed(&self);

    /// The secret kept under `name`; keeps `fresh`, durably, if there is none yet.
    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError>;

    /// Keeps `fresh` under `name`, durably, if what is kept there is `held`; says whether it was.
    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, StoreError>;

    /// Notes, durably, that a nonce was used; says whether this was the first time. It may be forgotten once `until`
    /// has come, which must be the same each time the nonce is used.
    async fn use_nonce(&self, nonce: [u8; 16], until: Timestamp, now: Timestamp) -> Result<bool, StoreError>;

    /// Whether the store would take a notification now.
    async fn ready(&self) -> Result<(), StoreError>;

    /// How far an acknowledged write is safe.
    fn durability(&self) -> Durability;
}

impl Settlement {
    /// The change of the record, and the body that is to be kept with it.
    fn into_change(self) -> (Change, Option<Vec<u8>>) {
        let split = |body: Option<Body>| body.map(|Body { bytes, charset }| (Unreadable { charset }, bytes)).unzip();
        match self {
            Self::Done(note) => (Change::Done(note), None),
            Self::LeftToAnswer { until } => (Change::LeftToAnswer { until }, None),
            Self::Deferred => (Change::Deferred, None),
            Self::Retry { wait, failure, unreadable } => {
                let (unreadable, body) = split(unreadable);
                (Change::Retry { wait, failure, unreadable }, body)
            }
            Self::Dead { failure, unreadable, may_recover } => {
                let (unreadable, body) = split(unreadable);
                (Change::Dead { failure, unreadable, may_recover }, body)
            }
        }
    }
}

impl Step {
    /// The change of the record, and the body that is to be kept with it.
    fn into_change(self) -> (Change, Option<Vec<u8>>) {
        match self {
            Self::Fetched { facts, body } => (Change::Fetched(facts, body.charset), Some(body.bytes)),
            Self::Handled(result) => (Change::Handled(result), None),
        }
    }
}

impl From<ChangeError> for StoreError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Illegal(error) => error.into(),
            ChangeError::Unfit(error) => error.into(),
        }
    }
}

impl From<Amendment> for Change {
    fn from(amendment: Amendment) -> Self {
        match amendment {
            Amendment::Resolve(result) => Self::Handled(result),
            Amendment::Rerun => Self::Rerun,
            Amendment::HandedOver { wait } => Self::HandedOver { wait },
        }
    }
}
