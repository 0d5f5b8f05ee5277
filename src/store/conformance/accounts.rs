//! How accounts stand.

use super::{at, claim, id, notification, proceed};
use crate::event::{AccountStatus, Body, ErrorCode, EventResult, EventType, ExtractedFields};
use crate::store::{Completion, EventStore, OperatorAction, Progress};

pub(in crate::store) async fn an_account_is_as_the_latest_event_that_succeeded_has_left_it(store: &dyn EventStore) {
    let leaving = |status: &AccountStatus| {
        let fields = ExtractedFields {
            kind: EventType::SubscriptionChange,
            flag: None,
            account: Some("acct".to_owned()),
            status_on_success: Some(status.clone()),
        };
        Progress::Fetched { fields, body: Body { bytes: b"{}".to_vec(), charset: None } }
    };
    let stands = async || store.account_status("default", "acct").await.expect("answers");
    assert_eq!(stands().await, None);
    for (second, (token, status)) in (0..).zip([
        ("1", AccountStatus::Active),
        ("2", AccountStatus::Other("RESTING".into())),
        ("3", AccountStatus::Cancelled),
    ]) {
        store.record(&notification(token), at(second)).await.expect("recorded");
        let held = claim(store, at(second)).await.expect("one event");
        let held = proceed(store, held, &leaving(&status), at(second)).await;
        let before = stands().await;
        let result = match token {
            "3" => EventResult::failure(ErrorCode::InvalidOperation, "no"),
            _ => EventResult::success("yes"),
        };
        let held = proceed(store, held, &Progress::Handled(result), at(second)).await;
        let after = if token == "3" { before } else { Some(status) };
        assert_eq!(stands().await, after);
        store.settle(held, &Completion::Done(None), at(second)).await.expect("settled");
        assert_eq!(stands().await, after);
    }
    // An earlier event that is run again does not turn the clock back.
    store.amend(id("1"), OperatorAction::Rerun, at(9)).await.expect("put back");
    let held = claim(store, at(9)).await.expect("the first event");
    let _held = proceed(store, held, &Progress::Handled(EventResult::success("yes")), at(9)).await;
    assert_eq!(stands().await, Some(AccountStatus::Other("RESTING".into())));
    assert_eq!(store.account_status("other", "acct").await, Ok(None));
}
