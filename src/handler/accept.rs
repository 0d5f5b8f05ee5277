//! The handler behind `handler.kind = "accept"`.

use async_trait::async_trait;

use super::{
    AddonBinding, AddonCancel, AddonChange, AddonOrder, AssignedUser, Context, EventHandler, HandlerError,
    HandlerResult, NewAccount, OtherEvent, Outcome, SubscriptionCancel, SubscriptionChange, SubscriptionNotice,
    SubscriptionOrder, UserAssignment, UserUnassignment,
};
use crate::event::{Account, AccountIdentifier};

/// The handler behind `handler.kind = "accept"`: logs each event, succeeds, and invents the identifiers a
/// product would have given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accept;

/// An account of our own invention: the same at every run of one event.
fn invented_account(context: &Context) -> HandlerResult<NewAccount> {
    let account = AccountIdentifier::new(format!("account-{}", context.event_id))?;
    tracing::info!(account = account.as_str(), "accepted, and invented an account");
    Ok(Outcome::account(account, "accepted"))
}

#[expect(clippy::unnecessary_wraps, reason = "it is what most methods answer")]
fn accepted(account: &Account) -> HandlerResult {
    tracing::info!(account = account.account_identifier.as_deref(), "accepted");
    Ok(Outcome::completed("accepted"))
}

#[async_trait]
impl EventHandler for Accept {
    fn may_block(&self) -> bool {
        false
    }

    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        invented_account(&event.context)
    }

    async fn subscription_change(&self, event: SubscriptionChange) -> HandlerResult {
        accepted(&event.account)
    }

    async fn subscription_cancel(&self, event: SubscriptionCancel) -> HandlerResult {
        accepted(&event.account)
    }

    async fn subscription_notice(&self, event: SubscriptionNotice) -> Result<(), HandlerError> {
        accepted(&event.account).map(|_| ())
    }

    async fn user_assignment(&self, event: UserAssignment) -> HandlerResult<AssignedUser> {
        tracing::info!(account = event.account.account_identifier.as_deref(), "accepted");
        let user = event.user.uuid.unwrap_or_else(|| format!("user-{}", event.context.event_id));
        Ok(Outcome::assigned(Some(user), "accepted"))
    }

    async fn user_unassignment(&self, event: UserUnassignment) -> HandlerResult {
        accepted(&event.account)
    }

    async fn addon_order(&self, event: AddonOrder) -> HandlerResult<NewAccount> {
        invented_account(&event.context)
    }

    async fn addon_change(&self, event: AddonChange) -> HandlerResult {
        accepted(&event.account)
    }

    async fn addon_cancel(&self, event: AddonCancel) -> HandlerResult {
        accepted(&event.account)
    }

    async fn addon_bind(&self, event: AddonBinding) -> HandlerResult {
        accepted(&event.account)
    }

    async fn addon_unbind(&self, event: AddonBinding) -> HandlerResult {
        accepted(&event.account)
    }

    async fn other(&self, event: OtherEvent) -> HandlerResult {
        accepted(&event.event.payload.account.unwrap_or_default())
    }
}
