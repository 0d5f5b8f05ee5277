//! From the one run interface to the method an event belongs to.

use async_trait::async_trait;

use super::{
    AddonBinding, AddonCancel, AddonChange, AddonOrder, Context, EventHandler, Handler, HandlerError, OtherEvent,
    Outcome, SubscriptionCancel, SubscriptionChange, SubscriptionNotice, SubscriptionOrder, SubscriptionStatus,
    UserAssignment, UserUnassignment, UserUpdated, Verdict,
};
use crate::event::{Event, EventResult, EventType};

#[async_trait]
impl<H: EventHandler> Handler for H {
    fn may_block(&self) -> bool {
        EventHandler::may_block(self)
    }

    async fn run(&self, context: &Context, event: &Event) -> Result<Verdict, HandlerError> {
        Ok(match dispatch(self, context, event).await? {
            Some(Outcome::Completed(result)) => Verdict::Result(result),
            Some(Outcome::Rejected(rejection)) => Verdict::Result(rejection.into()),
            Some(Outcome::Deferred) => Verdict::Deferred,
            None => Verdict::NoResult,
        })
    }
}

/// Runs the method `event` belongs to. Nothing if that asks for no result.
async fn dispatch(
    handler: &impl EventHandler,
    context: &Context,
    event: &Event,
) -> Result<Option<Outcome<EventResult>>, HandlerError> {
    let context = context.clone();
    let payload = &event.payload;
    // An add-on also arrives as a subscription that has a parent.
    let is_addon = payload.account.as_ref().is_some_and(|account| account.parent_account_identifier.is_some());
    let account = || payload.account.clone().unwrap_or_default();
    let order = || payload.order.clone().unwrap_or_default();
    let user = || payload.user.clone().unwrap_or_default();
    let binding = |context| AddonBinding {
        context,
        account: account(),
        addon_instance: payload.addon_instance.clone(),
        addon_binding: payload.addon_binding.clone(),
        user: payload.user.clone(),
    };
    let outcome = match &event.kind {
        EventType::SubscriptionOrder if !is_addon => {
            let event = SubscriptionOrder {
                context,
                company: payload.company.clone(),
                order: order(),
                configuration: payload.configuration.clone(),
                return_url: event.return_url.clone(),
            };
            handler.subscription_order(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionOrder | EventType::AddonOrder => {
            let event = AddonOrder {
                context,
                account: account(),
                order: order(),
                addon_instance: payload.addon_instance.clone(),
                configuration: payload.configuration.clone(),
            };
            handler.addon_order(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionChange if !is_addon => {
            let event = SubscriptionChange {
                context,
                account: account(),
                order: order(),
                configuration: payload.configuration.clone(),
                return_url: event.return_url.clone(),
            };
            handler.subscription_change(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionChange | EventType::AddonChange => {
            let event = AddonChange {
                context,
                account: account(),
                order: order(),
                addon_instance: payload.addon_instance.clone(),
                configuration: payload.configuration.clone(),
            };
            handler.addon_change(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionCancel if !is_addon => handler
            .subscription_cancel(SubscriptionCancel { context, account: account() })
            .await?
            .map(EventResult::from),
        EventType::SubscriptionCancel | EventType::AddonCancel => {
            let event = AddonCancel { context, account: account(), addon_instance: payload.addon_instance.clone() };
            handler.addon_cancel(event).await?.map(EventResult::from)
        }
        EventType::SubscriptionNotice => {
            let event = SubscriptionNotice { context, account: account(), notice: payload.notice.clone() };
            handler.subscription_notice(event).await?;
            return Ok(None);
        }
        EventType::SubscriptionStatus => {
            let status = context.account_status.clone();
            let event = SubscriptionStatus { context, account: account(), status };
            handler.subscription_status(event).await?.map(EventResult::from)
        }
        EventType::UserAssignment => {
            let event = UserAssignment { context, account: account(), user: user() };
            handler.user_assignment(event).await?.map(EventResult::from)
        }
        EventType::UserUnassignment => {
            let event = UserUnassignment { context, account: account(), user: user() };
            handler.user_unassignment(event).await?.map(EventResult::from)
        }
        EventType::UserUpdated => {
            let event = UserUpdated { context, account: account(), user: user() };
            handler.user_updated(event).await?.map(EventResult::from)
        }
        EventType::AddonBind => handler.addon_bind(binding(context)).await?.map(EventResult::from),
        EventType::AddonUnbind => handler.addon_unbind(binding(context)).await?.map(EventResult::from),
        EventType::UserSync
        | EventType::UserLink
        | EventType::AccountSync
        | EventType::AccountUnsync
        | EventType::Other(_) => {
            handler.other(OtherEvent { context, event: event.clone() }).await?.map(EventResult::from)
        }
    };
    Ok(Some(outcome))
}
