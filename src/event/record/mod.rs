//! What is known of one event, body aside.

pub(super) mod bounds;
pub(super) mod change;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AccountStatus, EventId, EventResult, EventType, Flag, Notification, State, Timeline, Understood};
use crate::clock::{Moment, Now, Timestamp};

/// What is known of one event, body aside.
///
/// Every text in it is bounded, so that the whole is never longer than a store keeps in one piece.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, stored under a name of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// The event's id.
    pub id: EventId,
    /// Name of the integration it was notified to.
    pub integration: String,
    /// Base URL of the marketplace it lies in.
    pub marketplace: String,
    /// Where its body is read.
    pub event_url: String,
    /// The type its first notification's route stood for.
    #[serde(rename = "announced", default, skip_serializing_if = "Option::is_none")]
    pub route_type: Option<EventType>,
    /// The first notification's other query parameters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// How far it got.
    pub state: State,
    /// When it was recorded.
    pub received_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When a worker may take it (next), by the wall clock as it stood at `updated_at`: what counts is how long after
    /// that it lies, see [`EventRecord::wait`].
    pub due: Timestamp,
    /// How often it was worked on, successful or not.
    #[serde(default)]
    pub attempts: u32,
    /// Whether the latest of these attempts still goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    attempting: bool,
    /// How often in a row an attempt failed for a transient reason.
    #[serde(rename = "failures", default)]
    pub consecutive_failures: u32,
    /// How much of the patience of `delivery.give_up_after` that row of failures has used up, in milliseconds: waits
    /// and attempts since the first of them. Neither a downtime nor a clock that is set counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    retried_for_ms: u64,
    /// The latest failure, if it is one that is believed when it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeated: Option<Repeated>,
    /// What its body says it is.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EventType>,
    /// Its body's flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<Flag>,
    /// What a body that was not taken says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    understood: Option<Understood>,
    /// The account it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether a body is kept: the one that was understood, or the last that was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_body: bool,
    /// The character set that the answer with the body named, if it did: the body is read by it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<String>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<EventResult>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether it died of something that may pass, so that a further notification takes it up again (G2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_recover: bool,
    /// The status its account has once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_on_success: Option<AccountStatus>,
    /// Until when the caller of its first notification waits for the result, if it does.
    #[serde(rename = "answerBy", default, skip_serializing_if = "Option::is_none")]
    pub response_deadline: Option<Timestamp>,
    /// Whether its result is left to that caller's answer, to be reported if no answer is given.
    #[serde(rename = "leftToAnswer", default, skip_serializing_if = "std::ops::Not::not")]
    pub awaiting_response: bool,
    /// Whether its result was handed to the caller of a notification. That is no confirmation: it is reported too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// From when on its age counts, where the wall clock was behind what the store had seen when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_from: Option<Timestamp>,
    /// What it went through.
    #[serde(default, skip_serializing_if = "Timeline::is_empty")]
    pub timeline: Timeline,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape `skip_serializing_if` wants")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A body as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Every byte of it.
    pub bytes: Vec<u8>,
    /// The character set that the answer named, which decides how the bytes are read.
    pub charset: Option<String>,
}

/// A failure that may be a slip, and is believed once it has come often enough and for long enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repeated {
    cause: String,
    /// How often in a row.
    pub times: u32,
    for_ms: u64,
}

impl Repeated {
    /// How long it has been so, waits and attempts since the first.
    #[must_use]
    pub const fn lasted(&self) -> Duration {
        Duration::from_millis(self.for_ms)
    }
}

impl EventRecord {
    /// The record of an event that was just notified.
    #[must_use]
    pub fn new(notification: &Notification, now: Timestamp) -> Self {
        Self {
            id: notification.id(),
            integration: notification.integration().to_owned(),
            marketplace: notification.url().marketplace().as_str().to_owned(),
            event_url: notification.url().as_str().to_owned(),
            route_type: notification.route_type().cloned(),
            parameters: notification.parameters().to_owned(),
            state: State::Received,
            received_at: now,
            updated_at: now,
            due: now,
            attempts: 0,
            attempting: false,
            consecutive_failures: 0,
            retried_for_ms: 0,
            repeated: None,
            kind: None,
            flag: None,
            understood: None,
            account: None,
            has_body: false,
            charset: None,
            result: None,
            last_error: None,
            may_recover: false,
            status_on_success: None,
            response_deadline: notification.response_deadline(),
            awaiting_response: false,
            handed_over: false,
            kept_from: None,
            timeline: Timeline::default(),
        }
    }

    /// Notes up to when a store's time had come when the event changed: a wall clock that is behind makes it no older.
    pub(crate) fn note_seen(&mut self, seen: Option<Timestamp>) {
        self.kept_from = seen.filter(|seen| *seen > self.updated_at);
    }

    /// Whether it is done, and has not changed since `moment`.
    #[must_use]
    pub fn is_done_since_before(&self, moment: Timestamp) -> bool {
        self.state == State::Done && self.kept_from.unwrap_or(self.updated_at) < moment
    }

    /// Whether its id is that of its integration and event URL.
    #[must_use]
    pub fn has_own_id(&self) -> bool {
        self.id.is_of(&self.integration, &self.event_url)
    }

    /// Whether no result is wanted: it is a ping or a notice.
    #[must_use]
    pub fn asks_for_no_result(&self) -> bool {
        self.presumed_flag() == Some(&Flag::Stateless) || self.presumed_kind() == Some(&EventType::SubscriptionNotice)
    }

    /// What its body says it is, or else its route.
    #[must_use]
    pub fn presumed_kind(&self) -> Option<&EventType> {
        self.kind.as_ref().or(self.understood.as_ref().map(|body| &body.kind)).or(self.route_type.as_ref())
    }

    /// Its body's flag, whether the body was taken or not.
    #[must_use]
    pub fn presumed_flag(&self) -> Option<&Flag> {
        self.flag.as_ref().or(self.understood.as_ref().and_then(|body| body.flag.as_ref()))
    }

    /// Whether anybody has read in its body what it is.
    pub(super) const fn is_understood(&self) -> bool {
        self.kind.is_some() || self.understood.is_some()
    }

    /// The number of the attempt that a worker begins, or goes on with, if it takes the event now.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        if self.attempting { self.attempts } else { self.attempts.saturating_add(1) }
    }

    /// How long after its last change it becomes due.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.due.since(self.updated_at)
    }

    /// When it becomes due by the monotonic clock.
    ///
    /// Never later than its wait from now, however far the wall clock was set back since its last change. What is due
    /// already keeps its place among others that are.
    #[must_use]
    pub fn due_from(&self, now: Now) -> Moment {
        if self.due > now.wall {
            now.monotonic.plus(self.due.since(now.wall).min(self.wait()))
        } else {
            now.monotonic.minus(now.wall.since(self.due))
        }
    }

    /// How long the present row of failures has lasted once an attempt that took `took` fails at `now`.
    ///
    /// What counts is what was waited, at most as long as was to be waited, and what the attempts took: not what passed
    /// while nobody was there to work, nor what a clock that was set says.
    #[must_use]
    pub fn retried_for(&self, now: Timestamp, took: Duration) -> Duration {
        Duration::from_millis(self.retried_for_ms) + self.since_failure(now, took)
    }

    /// How often and how long a failure with this cause has come in a row once it comes again at `now`.
    #[must_use]
    pub fn repeated(&self, cause: &str, now: Timestamp, took: Duration) -> Repeated {
        let before = self.repeated.as_ref().filter(|repeated| repeated.cause == cause && self.consecutive_failures > 0);
        let for_ms = before.map_or(0, |repeated| millis(repeated.lasted() + self.since_failure(now, took)));
        let times = before.map_or(0, |repeated| repeated.times).saturating_add(1);
        Repeated { cause: cause.to_owned(), times, for_ms }
    }

    fn since_failure(&self, now: Timestamp, took: Duration) -> Duration {
        if self.consecutive_failures == 0 {
            return Duration::ZERO;
        }
        now.since(self.updated_at).saturating_sub(took).min(self.wait()) + took
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
