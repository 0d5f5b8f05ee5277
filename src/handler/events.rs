//! What each handler method is given: only what its family of events has.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{
    Account, AccountStatus, Company, Event, EventId, EventRecord, EventType, Flag, Link, Notice, Order, User,
};

/// What every event has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The event's id in this receiver: the same at every run, so work can be keyed by it.
    pub event_id: EventId,
    /// What the event is.
    pub event_type: EventType,
    /// Name of the integration it came by.
    pub integration: String,
    /// Base URL of the marketplace it lies in.
    pub marketplace: String,
    /// `DEVELOPMENT` for a test purchase. `STATELESS` events never reach a handler.
    pub flag: Option<Flag>,
    /// The product, by the marketplace's id.
    pub application_uuid: Option<String>,
    /// Who caused the event.
    pub creator: Option<User>,
    /// Related resources, such as `oidcClient`.
    pub links: Vec<Link>,
    /// How the account stands that a status event asks about, by the events so far; nothing for any other event.
    pub account_status: Option<AccountStatus>,
    /// The body as received, for what the types here do not show. Shared, so that a clone costs nothing.
    pub body: Arc<[u8]>,
}

impl Context {
    /// The context of `event`, read from `body`; `account_status` is what a status event asks about.
    pub(crate) fn of(
        record: &EventRecord,
        event: &Event,
        body: Vec<u8>,
        account_status: Option<AccountStatus>,
    ) -> Self {
        Self {
            event_id: record.id,
            event_type: event.kind.clone(),
            integration: record.integration.clone(),
            marketplace: record.marketplace.clone(),
            flag: event.flag.clone(),
            application_uuid: event.application_uuid.clone(),
            creator: event.creator.clone(),
            links: event.links.clone(),
            account_status,
            body: body.into(),
        }
    }

    /// Whether this is a test purchase: the real flow without invoices.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.flag == Some(Flag::Development)
    }
}

/// A customer bought the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionOrder {
    /// What every event has.
    pub context: Context,
    /// The customer.
    pub company: Option<Company>,
    /// What was bought.
    pub order: Order,
    /// Answers to the product's own purchase questions.
    pub configuration: BTreeMap<String, String>,
    /// Where the customer's browser goes on after an interactive purchase.
    pub return_url: Option<String>,
}

/// A subscription changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// What every event has.
    pub context: Context,
    /// Whose subscription.
    pub account: Account,
    /// What it is to be.
    pub order: Order,
    /// Answers to the product's own purchase questions.
    pub configuration: BTreeMap<String, String>,
    /// Where the customer's browser goes on after an interactive change.
    pub return_url: Option<String>,
}

/// A subscription ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionCancel {
    /// What every event has.
    pub context: Context,
    /// Whose subscription.
    pub account: Account,
}

/// The marketplace tells of a state it has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionNotice {
    /// What every event has.
    pub context: Context,
    /// Whose subscription.
    pub account: Account,
    /// What is told.
    pub notice: Option<Notice>,
}

/// The marketplace asks how a subscription stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// What every event has.
    pub context: Context,
    /// Whose subscription.
    pub account: Account,
    /// How it stands by the events so far; nothing if none of them told of the account.
    pub status: Option<AccountStatus>,
}

/// A user is given a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAssignment {
    /// What every event has.
    pub context: Context,
    /// Whose seat it is.
    pub account: Account,
    /// Who is given it.
    pub user: User,
}

/// A user's seat is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserUnassignment {
    /// What every event has.
    pub context: Context,
    /// Whose seat it is.
    pub account: Account,
    /// Who loses it.
    pub user: User,
}

/// A user's details changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserUpdated {
    /// What every event has.
    pub context: Context,
    /// The account the user belongs to.
    pub account: Account,
    /// The user as they are now.
    pub user: User,
}

/// A customer bought an add-on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonOrder {
    /// What every event has.
    pub context: Context,
    /// The account of the product the add-on belongs to.
    pub account: Account,
    /// What was bought.
    pub order: Order,
    /// The marketplace's id of the add-on, if it has one yet.
    pub addon_instance: Option<String>,
    /// Answers to the add-on's own purchase questions.
    pub configuration: BTreeMap<String, String>,
}

/// An add-on changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonChange {
    /// What every event has.
    pub context: Context,
    /// Whose add-on.
    pub account: Account,
    /// What it is to be.
    pub order: Order,
    /// The marketplace's id of the add-on.
    pub addon_instance: Option<String>,
    /// Answers to the add-on's own purchase questions.
    pub configuration: BTreeMap<String, String>,
}

/// An add-on ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonCancel {
    /// What every event has.
    pub context: Context,
    /// Whose add-on.
    pub account: Account,
    /// The marketplace's id of the add-on.
    pub addon_instance: Option<String>,
}

/// An add-on is bound to a user, or taken from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonBinding {
    /// What every event has.
    pub context: Context,
    /// Whose add-on.
    pub account: Account,
    /// The marketplace's id of the add-on.
    pub addon_instance: Option<String>,
    /// The marketplace's id of the binding.
    pub addon_binding: Option<String>,
    /// The user it is about.
    pub user: Option<User>,
}

/// An event of a type this version has no method for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherEvent {
    /// What every event has.
    pub context: Context,
    /// All of it.
    pub event: Event,
}
