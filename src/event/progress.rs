use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::account_status::status_on_success;
use super::outcome::{check_length, cut, cut_word, is_blank, json_length, without_controls};
use super::{
    AccountStatus, ErrorCode, Event, EventId, EventResult, EventType, Flag, IdentifierError, MAX_IDENTIFIER_BYTES,
    Notification, Timeline,
};
use crate::clock::{Moment, Now, Timestamp};

/// How far an event got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Durable; its body is not read yet.
    Received,
    /// Its body is stored.
    Fetched,
    /// Its result is stored, and not confirmed by the marketplace yet.
    Handled,
    /// Finished.
    Done,
    /// The product answers later.
    Deferred,
    /// Given up; waits for an operator.
    Dead,
}

impl State {
    /// Whether a worker has something to do for it.
    #[must_use]
    pub const fn is_unfinished(self) -> bool {
        match self {
            Self::Received | Self::Fetched | Self::Handled => true,
            Self::Done | Self::Deferred | Self::Dead => false,
        }
    }

    /// The state's name, as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Fetched => "fetched",
            Self::Handled => "handled",
            Self::Done => "done",
            Self::Deferred => "deferred",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<EventType>,
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
    #[serde(default)]
    pub failures: u32,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_by: Option<Timestamp>,
    /// Whether its result is left to that caller's answer, to be reported if no answer is given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_to_answer: bool,
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

/// The longest record, in bytes as JSON.
///
/// sled writes a page of up to twenty records at once, and puts a page of more than 128 KiB into a file of its own, which it
/// never syncs: an acknowledged event could be lost by it.
pub(crate) const MAX_RECORD_BYTES: usize = 6400;
/// What a record takes without its texts, at most.
const FRAME_BYTES: usize = 1000;
/// What the body and the result may each bring into a record beside words, in bytes as JSON.
const MAX_NAMES_BYTES: usize = 3 * MAX_IDENTIFIER_BYTES + 32;
/// Of these, what a type takes, and a flag or a status.
const MAX_KIND_BYTES: usize = MAX_IDENTIFIER_BYTES;
const MAX_WORD_BYTES: usize = MAX_IDENTIFIER_BYTES / 2;
/// Bytes that a text for people keeps where a record is too long otherwise.
const MAX_SHORT_TEXT_BYTES: usize = 200;

/// A body as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Every byte of it.
    pub bytes: Vec<u8>,
    /// The character set that the answer named, which decides how the bytes are read.
    pub charset: Option<String>,
}

/// What a body says that is needed without reading the body again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What the event is.
    pub kind: EventType,
    /// Its flag.
    pub flag: Option<Flag>,
    /// The account it is about, by which events are kept in order (G5).
    pub account: Option<String>,
    /// The status that account has once the event has succeeded.
    pub status_on_success: Option<AccountStatus>,
}

/// What a body says it is, whatever else can be kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Understood {
    #[serde(rename = "type")]
    kind: EventType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flag: Option<Flag>,
}

impl Understood {
    /// What `event` says it is, cut where that is longer than any that is known.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            kind: cut_word(event.kind.as_str(), MAX_KIND_BYTES),
            flag: event.flag.as_ref().map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES)),
        }
    }
}

impl Facts {
    /// What `event` says. Its type, flag and status are cut where they are longer than any that is known.
    ///
    /// # Errors
    /// If it names its account by an identifier that cannot be kept whole: cut, it could be another account's. A ping does
    /// nothing to an account, so such a one is left out of it.
    pub fn of(event: &Event) -> Result<Self, IdentifierError> {
        let Understood { kind, flag } = Understood::of(event);
        let status = status_on_success(event).map(|status| cut_word(status.as_str(), MAX_WORD_BYTES));
        let account = event.account_identifier().map(str::to_owned);
        let mut facts = Self { kind, flag, account, status_on_success: status };
        let kept = facts.account.as_deref().map_or(Ok(()), check_length).and_then(|()| check_names(facts.names()));
        match kept {
            Ok(()) => {}
            Err(_) if event.is_ping() => facts.account = None,
            Err(error) => return Err(error),
        }
        Ok(facts)
    }

    fn names(&self) -> [Option<&str>; 4] {
        [
            Some(self.kind.as_str()),
            self.flag.as_ref().map(Flag::as_str),
            self.account.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
        ]
    }
}

/// Whether these texts take no more room in a record than is kept for them.
fn check_names<'a>(names: impl IntoIterator<Item = Option<&'a str>>) -> Result<(), IdentifierError> {
    let bytes = names.into_iter().flatten().map(json_length).sum();
    if bytes > MAX_NAMES_BYTES { Err(IdentifierError::TooLong(bytes)) } else { Ok(()) }
}

/// What a step of an event leaves its account as; stored with the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The vendor's name of the account.
    pub account: String,
    /// Its status from now on.
    pub status: AccountStatus,
}

/// An attempt that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub reason: String,
    /// How long the attempt took.
    pub took: Duration,
    /// The name of a failure that is believed when it lasts, such as `404`.
    pub cause: Option<String>,
    /// What the body says it is, if it was read and is not taken all the same.
    pub understood: Option<Understood>,
}

/// A body that nobody could read, as its record has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// The character set that the answer named, if it did.
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

/// One step of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its body was read, with the character set that it named: `received` → `fetched`.
    Fetched(Facts, Option<String>),
    /// Its outcome is known: `fetched` | `deferred` | `dead` → `handled`.
    Handled(EventResult),
    /// Nothing is left to do: `fetched` (pings, notices) | `handled` → `done`. A note says why, if the reason is odd.
    Done(Option<String>),
    /// A caller waits for the result, and is to be answered with it; `handled`, to be reported at `until` if no
    /// answer was given.
    LeftToAnswer {
        /// When its caller waits no longer.
        until: Timestamp,
    },
    /// The result was handed to a caller in an answer: `handled` and left to it, to be reported after `wait` all the same.
    HandedOver {
        /// How long the marketplace has to make use of the answer.
        wait: Duration,
    },
    /// The product answers later: `fetched` → `deferred`.
    Deferred,
    /// An attempt failed for a transient reason; the next may be made after `wait`.
    Retry {
        /// How long to wait.
        wait: Duration,
        /// What went wrong.
        failure: Failure,
        /// What is known of a body that came and that nobody could read.
        unreadable: Option<Unreadable>,
    },
    /// Given up.
    Dead {
        /// What went wrong.
        failure: Failure,
        /// What is known of a body that came and that nobody could read.
        unreadable: Option<Unreadable>,
        /// Whether it may pass, so that a further notification takes the event up again.
        may_recover: bool,
    },
    /// An operator, or a further notification, wants it run again: `dead` | `deferred` | `done` → as far back as needed.
    Rerun,
}

/// A step that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event that is {state} cannot be {step}")]
pub struct IllegalChange {
    /// The state it is in.
    pub state: State,
    /// The step that was asked for.
    pub step: &'static str,
}

/// A result that does not fit its event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnfitResult {
    /// A successful order without an account.
    #[error("a successful {0} must carry accountIdentifier, the vendor's name of the new account")]
    NoAccount(EventType),
    /// A success without an account for an event that may be an order.
    #[error(
        "the event was never read and may be an order, whose success must carry accountIdentifier; add it, or retry the \
         event so that it is read"
    )]
    MayBeAnOrder,
    /// An identifier that cannot be kept.
    #[error("{field}: {error}")]
    Identifier {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: IdentifierError,
    },
}

/// Why a record does not take a step.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Its state does not allow it.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
    /// The result does not fit.
    #[error(transparent)]
    Unfit(#[from] UnfitResult),
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
            announced: notification.announced().cloned(),
            parameters: notification.parameters().to_owned(),
            state: State::Received,
            received_at: now,
            updated_at: now,
            due: now,
            attempts: 0,
            attempting: false,
            failures: 0,
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
            answer_by: notification.answer_by(),
            left_to_answer: false,
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
        self.kind.as_ref().or(self.understood.as_ref().map(|body| &body.kind)).or(self.announced.as_ref())
    }

    /// Its body's flag, whether the body was taken or not.
    #[must_use]
    pub fn presumed_flag(&self) -> Option<&Flag> {
        self.flag.as_ref().or(self.understood.as_ref().and_then(|body| body.flag.as_ref()))
    }

    /// Whether anybody has read in its body what it is.
    const fn is_understood(&self) -> bool {
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
        let before = self.repeated.as_ref().filter(|repeated| repeated.cause == cause && self.failures > 0);
        let for_ms = before.map_or(0, |repeated| millis(repeated.lasted() + self.since_failure(now, took)));
        let times = before.map_or(0, |repeated| repeated.times).saturating_add(1);
        Repeated { cause: cause.to_owned(), times, for_ms }
    }

    fn since_failure(&self, now: Timestamp, took: Duration) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        now.since(self.updated_at).saturating_sub(took).min(self.wait()) + took
    }

    /// Whether `result` is one that this event can have.
    ///
    /// # Errors
    /// See [`UnfitResult`].
    pub fn check_result(&self, result: &EventResult) -> Result<(), UnfitResult> {
        let account = result.account_identifier.as_deref();
        for (field, identifier) in
            [("accountIdentifier", account), ("userIdentifier", result.user_identifier.as_deref())]
        {
            let check = |identifier: &str| match identifier {
                // An empty field is an absent one.
                "" => Ok(()),
                blank if is_blank(blank) => Err(IdentifierError::Empty),
                identifier => check_length(identifier),
            };
            identifier.map_or(Ok(()), check).map_err(|error| UnfitResult::Identifier { field, error })?;
        }
        check_names([account, result.user_identifier.as_deref(), result.error_code.as_ref().map(ErrorCode::as_str)])
            .map_err(|error| UnfitResult::Identifier {
                field: "accountIdentifier, userIdentifier, errorCode",
                error,
            })?;
        if result.success && names_no_account(result) && !self.asks_for_no_result() {
            match self.presumed_kind() {
                Some(kind @ (EventType::SubscriptionOrder | EventType::AddonOrder)) => {
                    return Err(UnfitResult::NoAccount(kind.clone()));
                }
                // A route is no proof: marketplaces ring at one URL for several types.
                _ if !self.is_understood() => return Err(UnfitResult::MayBeAnOrder),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes one step. The only way a record changes, whatever the store. Returns what the step does to the
    /// event's account, which is stored with the record.
    ///
    /// # Errors
    /// If the state does not allow the step, or a result does not fit; the record is then unchanged.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Result<Option<AccountChange>, ChangeError> {
        let mut account = None;
        let illegal = |step| Err(IllegalChange { state: self.state, step }.into());
        match (change, self.state) {
            (Change::Fetched(facts, charset), State::Received) => {
                let mismatch = self.announced.as_ref().filter(|announced| **announced != facts.kind);
                let mismatch = mismatch.map(|announced| {
                    format!("announced as {announced}; by its body it is {}, which counts", facts.kind)
                });
                self.state = State::Fetched;
                self.kind = Some(facts.kind);
                self.flag = facts.flag;
                self.understood = None;
                self.account = facts.account;
                self.status_on_success = facts.status_on_success;
                (self.has_body, self.charset) = (true, charset);
                self.attempted();
                self.progressed(now, "fetched", mismatch.as_deref());
            }
            (Change::Handled(result), State::Fetched | State::Deferred | State::Dead) => {
                self.check_result(&result)?;
                let result = result.bounded();
                if self.state == State::Fetched {
                    self.attempted();
                }
                self.state = State::Handled;
                let note = if result.success { None } else { result.error_code.as_ref().map(ErrorCode::as_str) };
                self.progressed(now, "handled", note);
                if result.success {
                    account = self.account_change(result.account_identifier.as_ref());
                }
                self.result = Some(result);
            }
            (Change::Done(note), State::Fetched | State::Handled) => {
                if self.state == State::Fetched {
                    account = self.account_change(None);
                }
                self.attempted();
                self.state = State::Done;
                self.progressed(now, "done", note.as_deref());
                self.attempting = false;
                self.last_error = note.map(cut);
            }
            (Change::LeftToAnswer { until }, State::Handled) => {
                self.left_to_answer = true;
                // Once and not again, whatever the clock says by then.
                self.answer_by = None;
                self.due = until;
            }
            (Change::HandedOver { wait }, State::Handled) if self.left_to_answer => {
                self.left_to_answer = false;
                self.handed_over = true;
                self.due = now.plus(wait);
                let note = "the result was given in the answer to a notification; it is reported as well";
                self.timeline.note(now, "answered", Some(note));
            }
            (Change::Deferred, State::Fetched) => {
                self.attempted();
                self.state = State::Deferred;
                self.progressed(now, "deferred", None);
                self.attempting = false;
            }
            (Change::Retry { wait, failure, unreadable }, State::Received | State::Fetched | State::Handled) => {
                self.failed(now, "failed", failure, unreadable);
                self.failures = self.failures.saturating_add(1);
                self.due = now.plus(wait);
            }
            (Change::Dead { failure, unreadable, may_recover }, State::Received | State::Fetched | State::Handled) => {
                self.failed(now, "dead", failure, unreadable);
                self.state = State::Dead;
                self.may_recover = may_recover;
            }
            (Change::Rerun, State::Dead | State::Deferred | State::Done) => {
                // A known result of an event that died on its way back is reported, not worked out again (G4).
                self.state = match (self.state, &self.result, &self.kind) {
                    (State::Dead, Some(_), _) => State::Handled,
                    (_, _, Some(_)) => State::Fetched,
                    (_, _, None) => State::Received,
                };
                if self.state != State::Handled {
                    self.result = None;
                }
                self.answer_by = None;
                self.understood = None;
                self.progressed(now, "rerun", None);
                self.attempting = false;
            }
            (Change::Fetched(..), _) => return illegal("fetched"),
            (Change::Handled(_), _) => return illegal("given a result"),
            (Change::Done(_), _) => return illegal("done"),
            (Change::LeftToAnswer { .. } | Change::HandedOver { .. }, _) => return illegal("answered"),
            (Change::Deferred, _) => return illegal("deferred"),
            (Change::Retry { .. }, _) => return illegal("retried"),
            (Change::Dead { .. }, _) => return illegal("given up"),
            (Change::Rerun, _) => return illegal("run again"),
        }
        self.updated_at = now;
        self.shorten();
        Ok(account)
    }

    /// Takes a step from outside, on an event nobody works on.
    ///
    /// # Errors
    /// If a worker may be at it, the state does not allow the step, or a result does not fit; the record is then unchanged.
    pub fn apply_amendment(&mut self, change: Change, now: Timestamp) -> Result<Option<AccountChange>, ChangeError> {
        if self.state.is_unfinished() && !matches!(change, Change::HandedOver { .. }) {
            return Err(IllegalChange { state: self.state, step: "changed from outside: it is worked on, or waits for its next try, which a repeated notification brings forward" }.into());
        }
        let nobody_waits = match &change {
            // A route is no proof, but whoever rang at that of notices was answered, and only an order's result names an
            // account.
            Change::Handled(result) => self.asks_for_no_result() && (self.is_understood() || names_no_account(result)),
            _ => false,
        };
        let account = self.apply(change, now)?;
        if nobody_waits {
            self.state = State::Done;
            self.timeline.note(now, "done", Some("no result is wanted for it, so none is reported"));
        }
        Ok(account)
    }

    /// What the event's success does to its account. An order names its account in its result.
    fn account_change(&self, named: Option<&String>) -> Option<AccountChange> {
        // A ping changes nothing (G7).
        if self.flag == Some(Flag::Stateless) {
            return None;
        }
        let account = named.or(self.account.as_ref())?.clone();
        Some(AccountChange { account, status: self.status_on_success.clone()? })
    }

    /// What the event, as it stands, has done to its account.
    #[must_use]
    pub fn account_effect(&self) -> Option<AccountChange> {
        match (self.state, &self.result) {
            (State::Handled | State::Done | State::Dead, Some(result)) if result.success => {
                self.account_change(result.account_identifier.as_ref())
            }
            (State::Done, None) => self.account_change(None),
            _ => None,
        }
    }

    /// Counts the attempt that goes on, once.
    const fn attempted(&mut self) {
        if !self.attempting {
            self.attempts = self.attempts.saturating_add(1);
            self.attempting = true;
        }
    }

    fn progressed(&mut self, now: Timestamp, step: &'static str, note: Option<&str>) {
        self.timeline.note(now, step, note);
        self.due = now;
        self.failures = 0;
        self.retried_for_ms = 0;
        self.repeated = None;
        self.last_error = None;
        self.may_recover = false;
        self.left_to_answer = false;
        self.handed_over = false;
    }

    fn failed(&mut self, now: Timestamp, step: &'static str, failure: Failure, unreadable: Option<Unreadable>) {
        let Failure { reason, took, cause, understood } = failure;
        self.retried_for_ms = millis(self.retried_for(now, took));
        self.repeated = cause.map(|cause| self.repeated(&cause, now, took));
        if let Some(Unreadable { charset }) = unreadable {
            (self.has_body, self.charset) = (true, charset);
        }
        if self.state == State::Received {
            self.understood = understood;
        }
        self.attempted();
        self.attempting = false;
        self.left_to_answer = false;
        self.timeline.note(now, step, Some(&reason));
        self.last_error = Some(cut(reason));
    }

    /// Keeps the record within [`MAX_RECORD_BYTES`]: the timeline gives way first, then words.
    fn shorten(&mut self) {
        let rest = FRAME_BYTES + self.texts().into_iter().flatten().map(json_length).sum::<usize>();
        if rest + self.timeline.bytes(json_length) <= MAX_RECORD_BYTES {
            return;
        }
        self.timeline.shrink_to(MAX_RECORD_BYTES.saturating_sub(rest), json_length);
        if rest > MAX_RECORD_BYTES {
            let short = |text: &mut String| text.truncate(text.floor_char_boundary(MAX_SHORT_TEXT_BYTES));
            short(&mut self.parameters);
            self.last_error.as_mut().map(short);
            self.result.as_mut().and_then(|result| result.message.as_mut()).map(short);
        }
    }

    /// The texts whose length is not known beforehand.
    fn texts(&self) -> [Option<&str>; 18] {
        let (result, understood) = (self.result.as_ref(), self.understood.as_ref());
        [
            Some(&self.integration),
            Some(&self.marketplace),
            Some(&self.event_url),
            Some(&self.parameters),
            self.announced.as_ref().map(EventType::as_str),
            self.kind.as_ref().map(EventType::as_str),
            self.flag.as_ref().map(Flag::as_str),
            understood.map(|body| body.kind.as_str()),
            understood.and_then(|body| body.flag.as_ref()).map(Flag::as_str),
            self.account.as_deref(),
            self.charset.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
            self.last_error.as_deref(),
            self.repeated.as_ref().map(|repeated| repeated.cause.as_str()),
            result.and_then(|result| result.error_code.as_ref()).map(ErrorCode::as_str),
            result.and_then(|result| result.message.as_deref()),
            result.and_then(|result| result.account_identifier.as_deref()),
            result.and_then(|result| result.user_identifier.as_deref()),
        ]
    }

    /// The record as it was stored in this version of the format, with what that says by other fields.
    #[must_use]
    pub(crate) fn upgraded(mut self, version: u8) -> Self {
        if version < 3 {
            // Those formats counted failures only, kept no body that was not understood, and had no limit.
            let succeeded = self.failures == 0 && !matches!(self.state, State::Received | State::Dead);
            self.attempts = self.attempts.saturating_add(u32::from(succeeded));
            self.has_body = self.kind.is_some();
            self.bound_names();
        }
        self
    }

    /// Has a record that an earlier version wrote keep within the bounds that there are since.
    ///
    /// What it is called by is cut or stood in for where it is too long. A result that cannot be kept whole is none: the event
    /// is dead by name then, unless it is over.
    fn bound_names(&mut self) {
        self.kind = self.kind.take().map(|kind| cut_word(kind.as_str(), MAX_KIND_BYTES));
        self.flag = self.flag.take().map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES));
        let status = self.status_on_success.take();
        self.status_on_success = status.map(|status| cut_word(status.as_str(), MAX_WORD_BYTES));
        self.understood = self.understood.take().map(|Understood { kind, flag }| Understood {
            kind: cut_word(kind.as_str(), MAX_KIND_BYTES),
            flag: flag.map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES)),
        });
        // An account that new events may name keeps its name, or it would be two.
        let names = [
            self.kind.as_ref().map(EventType::as_str),
            self.flag.as_ref().map(Flag::as_str),
            self.account.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
        ];
        if self.account.as_deref().is_some_and(|account| check_length(account).is_err()) || check_names(names).is_err()
        {
            self.account = self.account.take().map(stand_in);
        }
        self.parameters.truncate(self.parameters.floor_char_boundary(MAX_SHORT_TEXT_BYTES * 10));
        if let Some(result) = self.result.take() {
            let mut result = result.bounded();
            if check_identifiers(&result).is_ok() {
                self.result = Some(result);
            } else if matches!(self.state, State::Handled | State::Dead) {
                self.state = State::Dead;
                let reason =
                    "its result names an identifier that is longer than is kept; resolve it with a shorter one";
                self.last_error = Some(reason.to_owned());
            } else {
                let is_short = |identifier: &String| check_length(identifier).is_ok();
                result.account_identifier =
                    result.account_identifier.map(|it| if is_short(&it) { it } else { stand_in(it) });
                result.user_identifier = result.user_identifier.map(|it| if is_short(&it) { it } else { stand_in(it) });
                if check_identifiers(&result).is_err() {
                    result.user_identifier = result.user_identifier.map(stand_in);
                }
                if check_identifiers(&result).is_err() {
                    result.account_identifier = result.account_identifier.map(stand_in);
                }
                self.result = Some(result);
            }
        }
        // Whatever it died of before its handler ran, or for want of patience, may have passed.
        let gave_up = self.last_error.as_deref().is_some_and(|error| error.starts_with("given up after"));
        self.may_recover |= self.state == State::Dead && (self.kind.is_none() || gave_up);
        self.shorten();
    }

    /// The record as a copy of it has it, which may have been written by an earlier version, beside a body or none.
    #[must_use]
    pub(crate) fn imported(mut self, has_body: bool) -> Self {
        self.has_body = has_body;
        self.bound_names();
        self
    }
}

/// Whether the identifiers of a result are short enough to be kept.
fn check_identifiers(result: &EventResult) -> Result<(), IdentifierError> {
    let (account, user) = (result.account_identifier.as_deref(), result.user_identifier.as_deref());
    account.map_or(Ok(()), check_length)?;
    user.map_or(Ok(()), check_length)?;
    check_names([account, user, result.error_code.as_ref().map(ErrorCode::as_str)])
}

/// Whether nobody can tell from a result which account it is about.
fn names_no_account(result: &EventResult) -> bool {
    result.account_identifier.as_deref().is_none_or(is_blank)
}

/// What stands in for an identifier that is too long: its beginning, and what tells it from others that begin so.
#[expect(clippy::needless_pass_by_value, reason = "the shape `map` wants")]
fn stand_in(identifier: String) -> String {
    let beginning =
        without_controls(&identifier[..identifier.floor_char_boundary(MAX_IDENTIFIER_BYTES / 4)]).into_owned();
    format!("{beginning}… {}", EventId::named("identifier", &identifier))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{BaseUrl, EventUrl};

    fn recorded() -> EventRecord {
        let base = BaseUrl::parse("https://market.example").expect("a base URL");
        let url = EventUrl::parse("https://market.example/events/1", [&base]).expect("an event URL");
        EventRecord::new(&Notification::new("default".into(), url, None, String::new()), Timestamp::from_millis(1))
    }

    fn facts() -> Facts {
        Facts { kind: EventType::SubscriptionCancel, flag: None, account: None, status_on_success: None }
    }

    fn failure(reason: &str) -> Failure {
        let (took, cause) = (Duration::from_secs(1), Some("404".to_owned()));
        Failure { reason: reason.to_owned(), took, cause, understood: None }
    }

    fn retry(wait: u64) -> Change {
        let wait = Duration::from_secs(wait);
        Change::Retry { wait, failure: failure("transient"), unreadable: None }
    }

    fn dead(may_recover: bool) -> Change {
        Change::Dead { failure: failure("for good"), unreadable: None, may_recover }
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            ".{0,40}",
            (any::<char>(), prop_oneof![Just(300_usize), Just(300_000)])
                .prop_map(|(c, length)| c.to_string().repeat(length)),
        ]
    }

    /// What a body with such texts leaves, if they can be kept.
    fn any_facts() -> impl Strategy<Value = Facts> {
        (any_text(), prop::option::of(any_text()), prop::option::of(any_text())).prop_filter_map(
            "an account that can be kept",
            |(kind, flag, account)| {
                let account = account.map(|account| serde_json::json!({ "accountIdentifier": account }));
                let body =
                    serde_json::json!({ "type": format!("X{kind}"), "flag": flag, "payload": { "account": account } });
                Facts::of(&Event::read(body.to_string().as_bytes(), None).ok()?).ok()
            },
        )
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let result =
            (any::<bool>(), any_text(), prop::option::of(any_text())).prop_map(|(success, message, account)| {
                EventResult { success, account_identifier: account, ..EventResult::success(message) }
            });
        prop_oneof![
            (any_facts(), prop::option::of("[a-z0-9-]{0,20}"))
                .prop_map(|(facts, charset)| Change::Fetched(facts, charset)),
            result.prop_map(Change::Handled),
            prop::option::of(any_text()).prop_map(Change::Done),
            Just(Change::Deferred),
            Just(Change::LeftToAnswer { until: Timestamp::from_millis(9) }),
            Just(Change::HandedOver { wait: Duration::from_secs(9) }),
            (0_u64..9, any_text()).prop_map(|(wait, reason)| Change::Retry {
                wait: Duration::from_secs(wait),
                failure: failure(&reason),
                unreadable: None
            }),
            any::<bool>().prop_map(dead),
            (any_text(), any_text()).prop_map(|(kind, flag)| {
                let body = serde_json::json!({ "type": format!("X{kind}"), "flag": flag }).to_string();
                let understood = Event::read(body.as_bytes(), None).ok().map(|event| Understood::of(&event));
                let failure = Failure { understood, ..failure("not taken") };
                Change::Dead { failure, unreadable: Some(Unreadable::default()), may_recover: true }
            }),
            Just(Change::Rerun),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_steps_reaches_a_state_that_contradicts_itself_or_a_record_that_is_too_long(
            changes in prop::collection::vec(any_change(), 0..64)
        ) {
            let mut record = recorded();
            for (step, change) in changes.into_iter().enumerate() {
                let before = record.clone();
                let now = Timestamp::from_millis(i64::try_from(step).expect("few steps") + 10);
                if record.apply(change, now).is_err() {
                    prop_assert_eq!(&record, &before);
                }
                prop_assert!(!record.left_to_answer || record.state == State::Handled);
                match record.state {
                    State::Received => prop_assert!(record.kind.is_none() && record.result.is_none()),
                    State::Fetched | State::Deferred => prop_assert!(record.kind.is_some() && record.result.is_none()),
                    State::Handled => prop_assert!(record.result.is_some()),
                    State::Done => prop_assert!(record.kind.is_some() || record.result.is_some()),
                    State::Dead => prop_assert!(record.last_error.is_some()),
                }
                let stored = serde_json::to_vec(&record).expect("serializes").len();
                prop_assert!(stored < MAX_RECORD_BYTES, "{} bytes", stored);
                // A copy that is taken in names everything as before.
                let imported = record.clone().imported(record.has_body);
                prop_assert_eq!(
                    (&imported.kind, &imported.flag, &imported.understood, &imported.account, &imported.state),
                    (&record.kind, &record.flag, &record.understood, &record.account, &record.state)
                );
                prop_assert_eq!(&imported.result, &record.result);
            }
        }
    }

    #[test]
    fn a_dead_event_with_a_result_is_reported_again_and_not_handled_again() {
        let mut record = recorded();
        let result = EventResult::success("bought");
        let changes = [Change::Fetched(facts(), None), Change::Handled(result.clone()), dead(true), Change::Rerun];
        for change in changes {
            record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
        }
        assert_eq!((record.state, record.result), (State::Handled, Some(result)));
    }

    #[test]
    fn attempts_are_counted_whether_they_fail_or_not() {
        let mut record = recorded();
        let mut counted = Vec::new();
        let changes = [
            retry(1),
            retry(1),
            Change::Fetched(facts(), None),
            Change::Handled(EventResult::success("")),
            retry(1),
            Change::Done(None),
            Change::Rerun,
            dead(false),
        ];
        for change in changes {
            record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
            counted.push(record.attempts);
        }
        assert_eq!(counted, [1, 2, 3, 3, 3, 4, 4, 5]);
    }

    #[test]
    fn patience_counts_waits_and_attempts_since_the_first_failure_and_no_downtime_or_set_clock() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let took = Duration::from_secs(1);
        let mut record = recorded();
        let used = |record: &EventRecord, now| record.retried_for(at(now), took).as_secs();
        assert_eq!(used(&record, 1_000_000), 0, "what waited before the first failure does not count");
        record.apply(retry(30), at(1_000_000)).expect("legal");
        assert_eq!(used(&record, 1_000_031), 31);
        assert_eq!(used(&record, 1_000_011), 11, "brought forward by a duplicate");
        assert_eq!(used(&record, 9_000_000), 31, "a downtime, or a clock that was set forward");
        assert_eq!(used(&record, 0), 1, "a clock that was set back");
        record.apply(retry(60), at(9_000_000)).expect("legal");
        assert_eq!(used(&record, 9_000_061), 31 + 61);
        record.apply(Change::Fetched(facts(), None), at(9_000_070)).expect("legal");
        assert_eq!(used(&record, 9_999_999), 0, "progress ends the row of failures");
    }

    #[test]
    fn a_failure_that_comes_again_is_counted_with_its_time_until_another_one_comes() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let took = Duration::from_secs(1);
        let mut record = recorded();
        record.apply(retry(20), at(100)).expect("legal");
        record.apply(retry(20), at(121)).expect("legal");
        let third = record.repeated("404", at(142), took);
        assert_eq!((third.times, third.lasted()), (3, Duration::from_secs(42)));
        assert_eq!(record.repeated("503", at(142), took).times, 1);
        let other = Failure { cause: None, ..failure("down") };
        let other = Change::Retry { wait: Duration::from_secs(1), failure: other, unreadable: None };
        record.apply(other, at(142)).expect("legal");
        assert_eq!(record.repeated("404", at(150), took).times, 1);
    }

    #[test]
    fn a_result_fits_the_type_of_its_event_or_of_its_route() {
        let base = BaseUrl::parse("https://market.example").expect("a base URL");
        let url = EventUrl::parse("https://market.example/events/1", [&base]).expect("an event URL");
        let died_of = |route: Option<EventType>| {
            let notification = Notification::new("default".into(), url.clone(), route, String::new());
            let mut record = EventRecord::new(&notification, Timestamp::from_millis(1));
            record.apply(dead(false), Timestamp::from_millis(2)).expect("legal");
            record
        };
        let success = EventResult::success("by hand");
        let named = EventResult { account_identifier: Some("acct".into()), ..success.clone() };
        let failure = EventResult::failure(ErrorCode::InvalidOperation, "no");
        let hidden = EventResult { account_identifier: Some("\u{200b}".into()), ..success.clone() };
        let long = EventResult { user_identifier: Some("u".repeat(257)), ..named.clone() };
        for (route, result, fits) in [
            (Some(EventType::SubscriptionOrder), &success, false),
            (Some(EventType::AddonOrder), &success, false),
            (None, &success, false),
            (Some(EventType::SubscriptionCancel), &success, false),
            (Some(EventType::SubscriptionNotice), &success, true),
            (Some(EventType::SubscriptionNotice), &hidden, false),
            (Some(EventType::SubscriptionNotice), &failure, true),
            (Some(EventType::SubscriptionOrder), &named, true),
            (None, &named, true),
            (None, &failure, true),
            (None, &long, false),
            (None, &hidden, false),
        ] {
            assert_eq!(died_of(route.clone()).check_result(result).is_ok(), fits, "{route:?} {result:?}");
        }
    }

    /// An event that died of a body that says it is this, and whose account cannot be kept.
    fn refused(body: &str) -> EventRecord {
        let event = Event::read(body.as_bytes(), None).expect("an event");
        let failure = Failure { understood: Some(Understood::of(&event)), ..failure("its account is too long") };
        let mut record = recorded();
        let change = Change::Dead { failure, unreadable: Some(Unreadable::default()), may_recover: true };
        record.apply(change, Timestamp::from_millis(2)).expect("legal");
        record
    }

    #[test]
    fn a_body_that_was_understood_and_not_taken_says_which_result_fits_and_is_read_again_when_run_again() {
        let nameless = Change::Handled(EventResult::success("by hand"));
        for (body, state) in [
            (r#"{"type":"SUBSCRIPTION_NOTICE"}"#, Some(State::Done)),
            (r#"{"type":"SUBSCRIPTION_ORDER","flag":"STATELESS"}"#, Some(State::Done)),
            (r#"{"type":"SUBSCRIPTION_CANCEL"}"#, Some(State::Handled)),
            (r#"{"type":"SUBSCRIPTION_ORDER"}"#, None),
        ] {
            let mut record = refused(body);
            let resolved = record.apply_amendment(nameless.clone(), Timestamp::from_millis(3));
            assert_eq!(resolved.ok().map(|_| record.state), state, "{body}");
            let mut record = refused(body);
            record.apply(Change::Rerun, Timestamp::from_millis(3)).expect("legal");
            assert_eq!((record.state, record.presumed_kind()), (State::Received, None), "{body}");
        }
    }

    #[test]
    fn a_ping_is_taken_whatever_its_account_is_called() {
        for account in ["a".repeat(300), "\u{1}".repeat(256)] {
            let body = |flag: &str| {
                serde_json::json!({
                    "type": "SUBSCRIPTION_CANCEL", "flag": flag, "payload": { "account": { "accountIdentifier": account } }
                })
            };
            let read = |flag: &str| Event::read(body(flag).to_string().as_bytes(), None).expect("an event");
            assert_eq!(Facts::of(&read("STATELESS")).expect("taken").account, None);
            assert!(Facts::of(&read("DEVELOPMENT")).is_err());
        }
    }

    #[test]
    fn an_account_that_is_long_as_json_only_is_called_the_same_in_a_copy_that_is_taken_in() {
        let account = "\"".repeat(MAX_IDENTIFIER_BYTES);
        let mut record = recorded();
        let facts = Facts { account: Some(account.clone()), ..facts() };
        record.apply(Change::Fetched(facts, None), Timestamp::from_millis(2)).expect("legal");
        let result = EventResult { account_identifier: Some(account.clone()), ..EventResult::success("") };
        record.apply(Change::Handled(result), Timestamp::from_millis(3)).expect("legal");
        let imported = record.clone().imported(true);
        assert_eq!((imported.account, imported.result), (Some(account), record.result));
    }
}
