//! The vendor's product logic: what runs, once, for each event.

mod accept;
mod events;
mod typed;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::event::{AccountIdentifier, ErrorCode, Event, EventResult, IdentifierError};

pub use accept::Accept;
pub use events::{
    AddonBinding, AddonCancel, AddonChange, AddonOrder, Context, OtherEvent, SubscriptionCancel, SubscriptionChange,
    SubscriptionNotice, SubscriptionOrder, SubscriptionStatus, UserAssignment, UserUnassignment, UserUpdated,
};

/// What runs for each event: the one interface through which events are handled.
///
/// [`EventHandler`] is the usual way to write one, with a method for each family of events; every one of these is a
/// `Handler`. To implement this directly is for product logic that treats all events alike, such as forwarding them.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// See [`EventHandler::may_block`].
    fn may_block(&self) -> bool {
        true
    }

    /// Handles one event. [`EventHandler`] says how often and where this runs.
    ///
    /// # Errors
    /// If there is no outcome: [`retry`] asks for another run.
    async fn run(&self, context: &Context, event: &Event) -> Result<Verdict, HandlerError>;
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is reported to the marketplace.
    Result(EventResult),
    /// The event asks for no result.
    NoResult,
    /// The result is given later, by `POST /api/v1/events/{id}/result` on the admin listener.
    Deferred,
}

/// What a handler made of an event, or a [`HandlerError`] if it could not tell.
pub type HandlerResult<C = Completed> = Result<Outcome<C>, HandlerError>;

/// What a handler made of an event. `C` is what success must bring along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<C = Completed> {
    /// It was done.
    Completed(C),
    /// It will not be done; the marketplace is told why.
    Rejected(Rejection),
    /// It will be answered later, by `POST /api/v1/events/{id}/result` on the admin listener.
    Deferred,
}

/// Success with nothing to tell but words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completed {
    /// Words for the marketplace.
    pub message: String,
}

/// Success of an order: the account that now exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The vendor's name of it, by which every later event refers to it.
    pub account: AccountIdentifier,
    /// Words for the marketplace.
    pub message: String,
}

/// Success of an assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssignedUser {
    /// The vendor's name of the user, if it differs from the marketplace's.
    pub user_identifier: Option<String>,
    /// Words for the marketplace.
    pub message: String,
}

/// Why an event will not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The marketplace's code for it.
    pub code: ErrorCode,
    /// Words for the marketplace's operator or customer.
    pub message: String,
}

/// Why a handler has no outcome.
///
/// [`retry`] makes a transient one. There is no conversion by `?` from errors at large, because whether an error is
/// transient is a decision, and a wrong guess either repeats the impossible for a day or drops a customer's purchase.
/// The one exception is an identifier that is empty, which is permanent: the event is dead at once, with that reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct HandlerError {
    reason: String,
    is_transient: bool,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// Whether the handler asks to be run again.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// The least time before the next run, if the handler asks for one.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same, with the next run no sooner than `wait` from now.
    ///
    /// Honoured up to the longest step of `delivery.retry`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

impl From<IdentifierError> for HandlerError {
    fn from(error: IdentifierError) -> Self {
        Self { reason: error.to_string(), is_transient: false, retry_after: None }
    }
}

/// Marks an error as transient: the handler is run again later.
pub fn retry(error: impl fmt::Display) -> HandlerError {
    HandlerError { reason: error.to_string(), is_transient: true, retry_after: None }
}

impl<C> Outcome<C> {
    /// It will not be done, for this reason.
    pub fn rejected(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Rejected(Rejection { code, message: message.into() })
    }

    fn map<D>(self, completed: impl FnOnce(C) -> D) -> Outcome<D> {
        match self {
            Self::Completed(success) => Outcome::Completed(completed(success)),
            Self::Rejected(rejection) => Outcome::Rejected(rejection),
            Self::Deferred => Outcome::Deferred,
        }
    }
}

impl Outcome<Completed> {
    /// It was done.
    pub fn completed(message: impl Into<String>) -> Self {
        Self::Completed(Completed { message: message.into() })
    }
}

impl Outcome<NewAccount> {
    /// The account was created.
    pub fn account(account: AccountIdentifier, message: impl Into<String>) -> Self {
        Self::Completed(NewAccount { account, message: message.into() })
    }
}

impl Outcome<AssignedUser> {
    /// The seat was given.
    pub fn assigned(user_identifier: Option<String>, message: impl Into<String>) -> Self {
        Self::Completed(AssignedUser { user_identifier, message: message.into() })
    }
}

/// The product logic of a vendor: one method for each family of events.
///
/// A method runs at least once for an event; once its outcome is stored it never runs again, unless an operator
/// asks. After a crash in the middle it does run again, so let it begin by looking whether its work is done
/// already: [`Context::event_id`] is the same each time.
///
/// Each run has a thread to itself, unless [`EventHandler::may_block`] says that it needs none, on a tokio runtime that is
/// the handlers' own: timers, sockets, `tokio::spawn` and
/// `spawn_blocking` work as in any tokio program, and a method that blocks its thread holds up nobody else. A run that takes
/// longer than `handler.timeout` is stopped where it next awaits something. What blocks cannot be stopped: until it
/// ends, its event is not run again, and what a run has given to `tokio::spawn` or `spawn_blocking` goes on
/// without it. Neither is waited for when the process stops.
///
/// What is not implemented answers `CONFIGURATION_ERROR`, so a marketplace never waits for something that
/// nobody does.
#[async_trait]
pub trait EventHandler: Send + Sync + 'static {
    /// Whether a run may block its thread, by synchronous calls or by computing for long.
    ///
    /// Then each run has a thread to itself, which costs some 20 µs. A handler that only ever awaits may say `false`: its
    /// runs share the threads on which events are delivered, and one that blocks all the same holds these up.
    fn may_block(&self) -> bool {
        true
    }

    /// A customer bought the product.
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        Ok(unsupported(&event.context))
    }

    /// A subscription changes: edition, quantity, owner.
    async fn subscription_change(&self, event: SubscriptionChange) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// A subscription ends. Without a success the marketplace keeps it going.
    async fn subscription_cancel(&self, event: SubscriptionCancel) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// The marketplace tells of a state it has set: deactivated, reactivated, closed. No result is reported, so
    /// there is nothing to reject.
    async fn subscription_notice(&self, event: SubscriptionNotice) -> Result<(), HandlerError> {
        let _ = event;
        Ok(())
    }

    /// The marketplace asks how a subscription stands. Answered from the events so far, unless the product knows
    /// better.
    async fn subscription_status(&self, event: SubscriptionStatus) -> HandlerResult {
        let account = event.account.account_identifier.as_deref().unwrap_or_default();
        Ok(match event.status {
            Some(status) => Outcome::completed(status.as_str()),
            None => Outcome::rejected(ErrorCode::AccountNotFound, format!("there is no account {account:?} here")),
        })
    }

    /// A user is given a seat.
    async fn user_assignment(&self, event: UserAssignment) -> HandlerResult<AssignedUser> {
        Ok(unsupported(&event.context))
    }

    /// A user's seat is taken.
    async fn user_unassignment(&self, event: UserUnassignment) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// A user's details changed. Most products need not care.
    async fn user_updated(&self, event: UserUpdated) -> HandlerResult {
        let _ = event;
        Ok(Outcome::completed("nothing to do"))
    }

    /// A customer bought an add-on.
    async fn addon_order(&self, event: AddonOrder) -> HandlerResult<NewAccount> {
        Ok(unsupported(&event.context))
    }

    /// An add-on changes.
    async fn addon_change(&self, event: AddonChange) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// An add-on ends.
    async fn addon_cancel(&self, event: AddonCancel) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// An add-on is bound to a user.
    async fn addon_bind(&self, event: AddonBinding) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// An add-on is taken from a user.
    async fn addon_unbind(&self, event: AddonBinding) -> HandlerResult {
        Ok(unsupported(&event.context))
    }

    /// An event of a type this version has no method for.
    async fn other(&self, event: OtherEvent) -> HandlerResult {
        Ok(unsupported(&event.context))
    }
}

fn unsupported<C>(context: &Context) -> Outcome<C> {
    Outcome::rejected(ErrorCode::ConfigurationError, format!("{} is not supported by this product", context.event_type))
}

impl From<Completed> for EventResult {
    fn from(completed: Completed) -> Self {
        Self::success(completed.message)
    }
}

impl From<NewAccount> for EventResult {
    fn from(created: NewAccount) -> Self {
        Self { account_identifier: Some(created.account.into()), ..Self::success(created.message) }
    }
}

impl From<AssignedUser> for EventResult {
    fn from(assigned: AssignedUser) -> Self {
        Self { user_identifier: assigned.user_identifier, ..Self::success(assigned.message) }
    }
}

impl From<Rejection> for EventResult {
    fn from(rejection: Rejection) -> Self {
        Self::failure(rejection.code, rejection.message)
    }
}
