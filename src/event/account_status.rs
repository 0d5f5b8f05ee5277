//! What an event does to the account it is about.

use super::{AccountStatus, Event, EventType, NoticeType};

/// The status that the account of `event` has once the event has succeeded; nothing if it is not told.
pub(super) fn status_on_success(event: &Event) -> Option<AccountStatus> {
    let told = || event.payload.account.as_ref().and_then(|account| account.status.clone());
    match event.kind {
        EventType::SubscriptionOrder | EventType::AddonOrder => {
            let is_trial = event.payload.order.as_ref().and_then(|order| order.free_trial).unwrap_or(false);
            Some(if is_trial { AccountStatus::FreeTrial } else { AccountStatus::Active })
        }
        EventType::SubscriptionChange => Some(told().unwrap_or(AccountStatus::Active)),
        EventType::SubscriptionCancel => Some(AccountStatus::Cancelled),
        EventType::SubscriptionNotice => match event.payload.notice.as_ref()?.kind.as_ref()? {
            NoticeType::Deactivated => Some(AccountStatus::Suspended),
            NoticeType::Reactivated => Some(AccountStatus::Active),
            NoticeType::Closed => Some(AccountStatus::Cancelled),
            NoticeType::UpcomingInvoice | NoticeType::Other(_) => told(),
        },
        // A question changes nothing, or whatever it asks about would be known from then on.
        EventType::SubscriptionStatus => None,
        _ => told(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_an_event_leaves_follows_from_its_type_its_notice_and_what_it_tells() {
        for (body, status) in [
            (r#"{"type":"SUBSCRIPTION_ORDER"}"#, Some(AccountStatus::Active)),
            (
                r#"{"type":"SUBSCRIPTION_ORDER","payload":{"order":{"freeTrial":{"active":true}}}}"#,
                Some(AccountStatus::FreeTrial),
            ),
            (r#"{"type":"SUBSCRIPTION_CHANGE"}"#, Some(AccountStatus::Active)),
            (
                r#"{"type":"SUBSCRIPTION_CHANGE","payload":{"account":{"status":"FREE_TRIAL"}}}"#,
                Some(AccountStatus::FreeTrial),
            ),
            (
                r#"{"type":"SUBSCRIPTION_CANCEL","payload":{"account":{"status":"ACTIVE"}}}"#,
                Some(AccountStatus::Cancelled),
            ),
            (
                r#"{"type":"SUBSCRIPTION_NOTICE","payload":{"notice":{"type":"DEACTIVATED"}}}"#,
                Some(AccountStatus::Suspended),
            ),
            (r#"{"type":"SUBSCRIPTION_NOTICE","payload":{"notice":{"type":"UPCOMING_INVOICE"}}}"#, None),
            (r#"{"type":"SUBSCRIPTION_STATUS","payload":{"account":{"status":"ACTIVE"}}}"#, None),
            (
                r#"{"type":"USER_ASSIGNMENT","payload":{"account":{"status":"SUSPENDED"}}}"#,
                Some(AccountStatus::Suspended),
            ),
            // Its account is that of the product, which stays.
            (r#"{"type":"ADDON_CANCEL","payload":{"account":{"accountIdentifier":"a"}}}"#, None),
        ] {
            let event = Event::read(body.as_bytes(), None).expect("an event");
            assert_eq!(status_on_success(&event), status, "{body}");
        }
    }
}
