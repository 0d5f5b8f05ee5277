use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::account_status::status_on_success;
use super::outcome::cut;
use super::{AccountStatus, ErrorCode, Event, EventId, EventResult, EventType, Flag, Notification, Timeline};
use crate::clock::Timestamp;

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
    /// When a worker may take it (next).
    pub due: Timestamp,
    /// From when on the patience of `delivery.give_up_after` counts.
    pub worked_since: Timestamp,
    /// How often an attempt failed for a passing reason, in all.
    #[serde(default)]
    pub attempts: u32,
    /// How often in a row.
    #[serde(default)]
    pub failures: u32,
    /// What its body says it is.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EventType>,
    /// Its body's flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<Flag>,
    /// The account it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<EventResult>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The status its account has once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_on_success: Option<AccountStatus>,
    /// Until when the caller of its first notification waits for the result, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_by: Option<Timestamp>,
    /// Whether its result is left to that caller's answer, to be reported only if no answer is given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_to_answer: bool,
    /// What it went through.
    #[serde(default, skip_serializing_if = "Timeline::is_empty")]
    pub timeline: Timeline,
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

impl Facts {
    /// What `event` says.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            kind: event.kind.clone(),
            flag: event.flag.clone(),
            account: event.account_identifier().map(str::to_owned),
            status_on_success: status_on_success(event),
        }
    }
}

/// What a step of an event leaves its account as; stored with the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The vendor's name of the account.
    pub account: String,
    /// Its status from now on.
    pub status: AccountStatus,
}

/// One step of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its body was read: `received` → `fetched`.
    Fetched(Facts),
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
    /// The result was given in the answer to a notification: `handled` and left to it → `done`.
    Answered,
    /// The product answers later: `fetched` → `deferred`.
    Deferred,
    /// An attempt failed for a passing reason; the next may be made at `due`.
    Retry {
        /// When.
        due: Timestamp,
        /// What went wrong.
        error: String,
    },
    /// Given up, for this reason.
    Dead(String),
    /// An operator wants it run again: `dead` | `deferred` | `done` → as far back as needed.
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
            worked_since: now,
            attempts: 0,
            failures: 0,
            kind: None,
            flag: None,
            account: None,
            result: None,
            last_error: None,
            status_on_success: None,
            answer_by: notification.answer_by(),
            left_to_answer: false,
            timeline: Timeline::default(),
        }
    }

    /// Whether its id is that of its integration and event URL.
    #[must_use]
    pub fn has_own_id(&self) -> bool {
        self.id == EventId::named(&self.integration, &self.event_url)
    }

    /// Whether its body says that no result is wanted: a ping or a notice.
    #[must_use]
    pub fn asks_for_no_result(&self) -> bool {
        self.flag == Some(Flag::Stateless) || self.kind == Some(EventType::SubscriptionNotice)
    }

    /// Takes one step. The only way a record changes, whatever the store. Returns what the step does to the
    /// event's account, which is stored with the record.
    ///
    /// # Errors
    /// If the state does not allow the step; the record is then unchanged.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Result<Option<AccountChange>, IllegalChange> {
        let mut account = None;
        let illegal = |step| Err(IllegalChange { state: self.state, step });
        match (change, self.state) {
            (Change::Fetched(facts), State::Received) => {
                let mismatch = self.announced.as_ref().filter(|announced| **announced != facts.kind);
                let mismatch = mismatch.map(|announced| {
                    format!("announced as {announced}; by its body it is {}, which counts", facts.kind)
                });
                self.state = State::Fetched;
                self.kind = Some(facts.kind);
                self.flag = facts.flag;
                self.account = facts.account;
                self.status_on_success = facts.status_on_success;
                self.progressed(now, "fetched", mismatch.as_deref());
            }
            (Change::Handled(mut result), State::Fetched | State::Deferred | State::Dead) => {
                self.state = State::Handled;
                let note = if result.success { None } else { result.error_code.as_ref().map(ErrorCode::as_str) };
                self.progressed(now, "handled", note);
                if result.success {
                    account = self.account_change(result.account_identifier.as_ref());
                }
                result.message = result.message.map(cut);
                self.result = Some(result);
                self.worked_since = now;
            }
            (Change::Done(note), State::Fetched | State::Handled) => {
                if self.state == State::Fetched {
                    account = self.account_change(None);
                }
                self.state = State::Done;
                self.progressed(now, "done", note.as_deref());
                self.last_error = note;
            }
            (Change::LeftToAnswer { until }, State::Handled) => {
                self.left_to_answer = true;
                self.due = until;
            }
            (Change::Answered, State::Handled) if self.left_to_answer => {
                self.state = State::Done;
                self.progressed(now, "done", Some("the result was given in the answer to the notification"));
            }
            (Change::Deferred, State::Fetched) => {
                self.state = State::Deferred;
                self.progressed(now, "deferred", None);
            }
            (Change::Retry { due, error }, State::Received | State::Fetched | State::Handled) => {
                self.attempts = self.attempts.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
                self.due = due;
                self.left_to_answer = false;
                self.timeline.note(now, "failed", Some(&error));
                self.last_error = Some(cut(error));
            }
            (Change::Dead(reason), State::Received | State::Fetched | State::Handled) => {
                self.state = State::Dead;
                self.left_to_answer = false;
                self.attempts = self.attempts.saturating_add(1);
                self.timeline.note(now, "dead", Some(&reason));
                self.last_error = Some(cut(reason));
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
                self.worked_since = now;
                self.answer_by = None;
                self.progressed(now, "rerun", None);
            }
            (Change::Fetched(_), _) => return illegal("fetched"),
            (Change::Handled(_), _) => return illegal("handled"),
            (Change::Done(_), _) => return illegal("done"),
            (Change::LeftToAnswer { .. } | Change::Answered, _) => return illegal("answered"),
            (Change::Deferred, _) => return illegal("deferred"),
            (Change::Retry { .. }, _) => return illegal("retried"),
            (Change::Dead(_), _) => return illegal("given up"),
            (Change::Rerun, _) => return illegal("run again"),
        }
        self.updated_at = now;
        Ok(account)
    }

    /// Takes a step from outside, on an event nobody works on.
    ///
    /// # Errors
    /// If a worker may be at it, or the state does not allow the step; the record is then unchanged.
    pub fn apply_amendment(&mut self, change: Change, now: Timestamp) -> Result<Option<AccountChange>, IllegalChange> {
        if self.state.is_unfinished() && change != Change::Answered {
            return Err(IllegalChange { state: self.state, step: "changed from outside while it is worked on" });
        }
        self.apply(change, now)
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

    fn progressed(&mut self, now: Timestamp, step: &'static str, note: Option<&str>) {
        self.timeline.note(now, step, note);
        self.due = now;
        self.failures = 0;
        self.last_error = None;
        self.left_to_answer = false;
    }
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

    fn any_change() -> impl Strategy<Value = Change> {
        let facts = Facts { kind: EventType::SubscriptionOrder, flag: None, account: None, status_on_success: None };
        prop_oneof![
            Just(Change::Fetched(facts)),
            any::<bool>().prop_map(|success| Change::Handled(EventResult { success, ..EventResult::success("") })),
            Just(Change::Done(None)),
            Just(Change::Deferred),
            Just(Change::LeftToAnswer { until: Timestamp::from_millis(9) }),
            Just(Change::Answered),
            Just(Change::Retry { due: Timestamp::from_millis(9), error: "passing".into() }),
            Just(Change::Dead("for good".into())),
            Just(Change::Rerun),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_steps_reaches_a_state_that_contradicts_itself(changes in prop::collection::vec(any_change(), 0..24)) {
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
            }
        }
    }

    #[test]
    fn texts_of_any_length_leave_a_short_record() {
        let long = || "€".repeat(100_000);
        let facts = Facts { kind: EventType::SubscriptionOrder, flag: None, account: None, status_on_success: None };
        let mut record = recorded();
        let retry = |error| Change::Retry { due: Timestamp::from_millis(9), error };
        let result = EventResult { message: Some(long()), ..EventResult::success("") };
        let failures = (0..100).map(|_| retry(long()));
        for change in failures.chain([Change::Fetched(facts), Change::Handled(result), Change::Dead(long())]) {
            record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
        }
        let stored = serde_json::to_vec(&record).expect("serializes").len();
        assert!(stored < 32 << 10, "{stored} bytes");
    }

    #[test]
    fn a_dead_event_with_a_result_is_reported_again_and_not_handled_again() {
        let mut record = recorded();
        let facts = Facts { kind: EventType::SubscriptionOrder, flag: None, account: None, status_on_success: None };
        let result = EventResult::success("bought");
        let changes =
            [Change::Fetched(facts), Change::Handled(result.clone()), Change::Dead("gone".into()), Change::Rerun];
        for change in changes {
            record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
        }
        assert_eq!((record.state, record.result), (State::Handled, Some(result)));
    }
}
