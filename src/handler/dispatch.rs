//! From an event to the one method it belongs to.

use super::{
    AddonBinding, AddonCancel, AddonChange, AddonOrder, Context, EventHandler, HandlerError, OtherEvent, Outcome,
    SubscriptionCancel, SubscriptionChange, SubscriptionNotice, SubscriptionOrder, SubscriptionStatus, UserAssignment,
    UserUnassignment, UserUpdated,
};
use crate::event::{AccountStatus, Event, EventRecord, EventResult, EventType};

/// What a handler made of an event, whatever its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// There is a result to report.
    Result(EventResult),
    /// The event asks for no result.
    NoResult,
    /// The result comes later.
    Deferred,
}

/// Runs the method `event` belongs to.
pub(crate) async fn dispatch(
    handler: &dyn EventHandler,
    record: &EventRecord,
    event: Event,
    body: Vec<u8>,
    status: Option<AccountStatus>,
) -> Result<Dispatched, HandlerError> {
    let context = Context {
        event_id: record.id,
        event_type: event.kind.clone(),
        integration: record.integration.clone(),
        marketplace: record.marketplace.clone(),
        flag: event.flag.clone(),
        application_uuid: event.application_uuid.clone(),
        creator: event.creator.clone(),
        links: event.links.clone(),
        body,
    };
    // An add-on also arrives as a subscription that has a parent.
    let is_addon = event.payload.account.as_ref().is_some_and(|account| account.parent_account_identifier.is_some());
    let payload = event.payload.clone();
    let return_url = event.return_url.clone();
    let account = payload.account.unwrap_or_default();
    let order = payload.order.unwrap_or_default();
    let user = payload.user;
    let configuration = payload.configuration;
    let (addon_instance, addon_binding) = (payload.addon_instance, payload.addon_binding);

    let outcome = match event.kind {
        EventType::SubscriptionOrder if !is_addon => {
            let event = SubscriptionOrder { context, company: payload.company, order, configuration, return_url };
            handler.subscription_order(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionOrder | EventType::AddonOrder => {
            let event = AddonOrder { context, account, order, addon_instance, configuration };
            handler.addon_order(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionChange if !is_addon => {
            let event = SubscriptionChange { context, account, order, configuration, return_url };
            handler.subscription_change(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionChange | EventType::AddonChange => {
            let event = AddonChange { context, account, order, addon_instance, configuration };
            handler.addon_change(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionCancel if !is_addon => {
            handler.subscription_cancel(SubscriptionCancel { context, account }).await?.map(EventResult::from)
        }
        EventType::SubscriptionCancel | EventType::AddonCancel => {
            handler.addon_cancel(AddonCancel { context, account, addon_instance }).await?.map(EventResult::from)
        }
        EventType::SubscriptionNotice => {
            let event = SubscriptionNotice { context, account, notice: payload.notice };
            handler.subscription_notice(event).await?;
            return Ok(Dispatched::NoResult);
        }
        EventType::SubscriptionStatus => {
            handler.subscription_status(SubscriptionStatus { context, account, status }).await?.map(EventResult::from)
        }
        EventType::UserAssignment => {
            let event = UserAssignment { context, account, user: user.unwrap_or_default() };
            handler.user_assignment(event).await?.map(EventResult::from)
        }
        EventType::UserUnassignment => {
            let event = UserUnassignment { context, account, user: user.unwrap_or_default() };
            handler.user_unassignment(event).await?.map(EventResult::from)
        }
        EventType::UserUpdated => {
            let event = UserUpdated { context, account, user: user.unwrap_or_default() };
            handler.user_updated(event).await?.map(EventResult::from)
        }
        EventType::AddonBind => {
            let event = AddonBinding { context, account, addon_instance, addon_binding, user };
            handler.addon_bind(event).await?.map(EventResult::from)
        }
        EventType::AddonUnbind => {
            let event = AddonBinding { context, account, addon_instance, addon_binding, user };
            handler.addon_unbind(event).await?.map(EventResult::from)
        }
        EventType::UserSync
        | EventType::UserLink
        | EventType::AccountSync
        | EventType::AccountUnsync
        | EventType::Other(_) => handler.other(OtherEvent { context, event }).await?.map(EventResult::from),
    };
    Ok(match outcome {
        Outcome::Completed(result) => Dispatched::Result(result),
        Outcome::Rejected(rejection) => Dispatched::Result(rejection.into()),
        Outcome::Deferred => Dispatched::Deferred,
    })
}
