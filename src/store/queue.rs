//! The queue between those who record events and those who work on them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use super::error::StoreError;
use super::lease::Lease;
use crate::clock::{Moment, Now, Timestamp};
use crate::event::{Body, Change, EventRecord, EventResult, ExtractedFields, Failure, Unreadable};

/// How long a lease holds at most once its holder has vanished: by then its event can be claimed by somebody else.
///
/// Holders renew their leases well before that, for as long as they work.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long an event that was lost several times in a row is held back, at most, so that what cannot be made durable is not
/// tried without a pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// How long events that were received later wait for one that is being read for the first time (G5): more than a
/// marketplace usually takes, and little enough that one event which is hard to read does not hold up all the others.
pub const READ_IN_ORDER: Duration = Duration::from_secs(2);

/// Hands unfinished events to workers, and takes what comes of them.
///
/// No event has two holders, and of one account at most one event is held, the earliest received first (G5).
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Hands out up to `limit` unfinished events that are due, those that have been due longest first, and leaves alone
    /// those of the `saturated` marketplaces.
    ///
    /// An event whose holder vanished is handed out again, at the latest a [`LEASE`] after that, and
    /// [`Claim::was_lost`] says so. One that is lost again and again may be held back for up to [`LONGEST_PAUSE`] more.
    async fn claim(&self, limit: usize, saturated: &[String], now: Now) -> Result<Claims, StoreError>;

    /// Makes progress durable.
    ///
    /// An event whose account becomes known by it waits while another event of that account runs or comes before it. It
    /// waits as well while events of its marketplace that were received before it are being read for the first time, since
    /// each of them may turn out to be of its account; for each of them [`READ_IN_ORDER`] at most (G5).
    ///
    /// An error gives the claim back. The same step may be taken again with it, at the same `now`, also if the store took it
    /// and could not say so; after a transient error whoever holds the claim should. [`StoreError::ClaimLost`] says that
    /// nothing can be written with this claim any more.
    async fn advance(&self, claim: Claim, progress: &Progress, now: Now) -> Result<Advanced, QueueError>;

    /// Makes the end of a claim durable. As with [`advance`](Queue::advance), an error gives the claim back, and the same
    /// may be asked again.
    async fn settle(&self, claim: Claim, completion: &Completion, now: Now) -> Result<(), QueueError>;

    /// Has a lease hold for another [`LEASE`] from now on.
    ///
    /// Fails with [`StoreError::ClaimLost`] if the event is not held by it any more.
    async fn renew(&self, lease: &Lease, now: Now) -> Result<(), StoreError>;

    /// Gives an event back as it was last stored, to be claimed by anybody at once. It does not count as lost.
    async fn release(&self, lease: Lease, now: Now) -> Result<(), StoreError>;

    /// The body of an event as received: the one that was understood, or the last that was not.
    async fn body(&self, claim: &Claim) -> Result<Option<Body>, StoreError>;

    /// Returns when something may have become claimable since the last call.
    ///
    /// It may return without a reason, and a store may miss one, so whoever waits for it also asks from time to time.
    async fn wakeup(&self);
}

/// What one call of [`Queue::claim`] came to.
#[derive(Debug, Default)]
pub struct Claims {
    /// Those that have been due longest first.
    pub claims: Vec<Claim>,
    /// When the next event comes due that is not of a saturated marketplace, as far as the store knows: asking earlier brings
    /// nothing, unless it is woken.
    pub idle_until: Option<Moment>,
}

/// One worker's exclusive hold on one event, for as long as the claim lives.
///
/// Not `Clone` and consumed by every write, so that nobody writes twice on one hold; the fence lets the store refuse a
/// holder that lost it. A claim that is dropped without having been settled gives the event back.
#[must_use = "an event whose claim is dropped is worked again"]
#[derive(Debug)]
pub struct Claim {
    pub(super) record: Arc<EventRecord>,
    pub(super) lease: Lease,
    /// Steps that were taken with it.
    pub(super) step: u32,
    pub(super) was_lost: bool,
}

impl Claim {
    /// The event as it stood when it was claimed or last advanced.
    #[must_use]
    pub fn event(&self) -> &EventRecord {
        &self.record
    }

    /// The hold itself, for whoever renews or releases it while somebody else works on the event.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Whether the holder before this one let go of the event without a word: it panicked, was stopped, or could not make its
    /// outcome durable. Whoever claims it next records that as a failed attempt.
    #[must_use]
    pub const fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// The same claim again, as after a write whose answer was lost.
    #[cfg(test)]
    pub(super) fn again(&self) -> Self {
        Self { record: Arc::clone(&self.record), lease: self.lease.clone(), ..*self }
    }
}

/// A step that was not taken, and the claim for another try.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct QueueError {
    /// As it was handed in.
    pub claim: Claim,
    /// Why not.
    pub error: StoreError,
}

/// Progress that keeps the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The body was read. Stored as received, beside what matters of it.
    Fetched {
        /// What matters.
        fields: ExtractedFields,
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
    Blocked,
}

/// How a claim ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Nothing is left to do. A note says why, if the reason is odd.
    Done(Option<String>),
    /// The result is left to the answer that a caller waits for, and reported at `until` if none was given.
    AwaitResponse {
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

impl Completion {
    /// The change of the record.
    pub(super) fn change(&self) -> Change {
        let note = |body: &Option<Body>| body.as_ref().map(|body| Unreadable { charset: body.charset.clone() });
        match self {
            Self::Done(note) => Change::Done(note.clone()),
            Self::AwaitResponse { until } => Change::AwaitResponse { until: *until },
            Self::Deferred => Change::Deferred,
            Self::Retry { wait, failure, unreadable } => {
                Change::Retry { wait: *wait, failure: failure.clone(), unreadable: note(unreadable) }
            }
            Self::Dead { failure, unreadable, may_recover } => {
                Change::Dead { failure: failure.clone(), unreadable: note(unreadable), may_recover: *may_recover }
            }
        }
    }

    /// The body that is kept with it.
    pub(super) fn body(&self) -> Option<&[u8]> {
        match self {
            Self::Done(_) | Self::AwaitResponse { .. } | Self::Deferred => None,
            Self::Retry { unreadable, .. } | Self::Dead { unreadable, .. } => {
                unreadable.as_ref().map(|body| body.bytes.as_slice())
            }
        }
    }
}

impl Progress {
    /// The change of the record.
    pub(super) fn change(&self) -> Change {
        match self {
            Self::Fetched { fields, body } => Change::Fetched(fields.clone(), body.charset.clone()),
            Self::Handled(result) => Change::Handled(result.clone()),
        }
    }

    /// The body that is kept with it.
    pub(super) fn body(&self) -> Option<&[u8]> {
        match self {
            Self::Fetched { body, .. } => Some(&body.bytes),
            Self::Handled(_) => None,
        }
    }
}
