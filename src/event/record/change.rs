//! The steps of an event, and what each does to its record.

use std::time::Duration;

use thiserror::Error;

use super::{EventRecord, millis};
use crate::clock::Timestamp;
use crate::event::extracted::check_names;
use crate::event::outcome::{check_length, cut, is_blank};
use crate::event::{
    AccountStatus, ErrorCode, EventResult, EventType, ExtractedFields, Flag, IdentifierError, State, Understood,
};

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

/// One step of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its body was read, with the character set that it named: `received` → `fetched`.
    Fetched(ExtractedFields, Option<String>),
    /// Its outcome is known: `fetched` | `deferred` | `dead` → `handled`.
    Handled(EventResult),
    /// Nothing is left to do: `fetched` (pings, notices) | `handled` → `done`. A note says why, if the reason is odd.
    Done(Option<String>),
    /// A caller waits for the result, and is to be answered with it; `handled`, to be reported at `until` if no
    /// answer was given.
    AwaitResponse {
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
            (Change::Fetched(fields, charset), State::Received) => {
                let mismatch = self.route_type.as_ref().filter(|route_type| **route_type != fields.kind);
                let mismatch = mismatch.map(|route_type| {
                    format!("announced as {route_type}; by its body it is {}, which counts", fields.kind)
                });
                self.state = State::Fetched;
                self.kind = Some(fields.kind);
                self.flag = fields.flag;
                self.understood = None;
                self.account = fields.account;
                self.status_on_success = fields.status_on_success;
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
            (Change::AwaitResponse { until }, State::Handled) => {
                self.awaiting_response = true;
                // Once and not again, whatever the clock says by then.
                self.response_deadline = None;
                self.due = until;
            }
            (Change::HandedOver { wait }, State::Handled) if self.awaiting_response => {
                self.awaiting_response = false;
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
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
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
                self.response_deadline = None;
                self.understood = None;
                self.progressed(now, "rerun", None);
                self.attempting = false;
            }
            (Change::Fetched(..), _) => return illegal("fetched"),
            (Change::Handled(_), _) => return illegal("given a result"),
            (Change::Done(_), _) => return illegal("done"),
            (Change::AwaitResponse { .. } | Change::HandedOver { .. }, _) => return illegal("answered"),
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
    pub fn apply_operator_action(
        &mut self,
        change: Change,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, ChangeError> {
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
        self.consecutive_failures = 0;
        self.retried_for_ms = 0;
        self.repeated = None;
        self.last_error = None;
        self.may_recover = false;
        self.awaiting_response = false;
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
        self.awaiting_response = false;
        self.timeline.note(now, step, Some(&reason));
        self.last_error = Some(cut(reason));
    }
}

/// Whether the identifiers of a result are short enough to be kept.
pub(super) fn check_identifiers(result: &EventResult) -> Result<(), IdentifierError> {
    let (account, user) = (result.account_identifier.as_deref(), result.user_identifier.as_deref());
    account.map_or(Ok(()), check_length)?;
    user.map_or(Ok(()), check_length)?;
    check_names([account, user, result.error_code.as_ref().map(ErrorCode::as_str)])
}

/// Whether nobody can tell from a result which account it is about.
fn names_no_account(result: &EventResult) -> bool {
    result.account_identifier.as_deref().is_none_or(is_blank)
}
