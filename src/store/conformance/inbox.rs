//! What comes in, and what is changed from outside.

use super::{at, claim, dead, fetched, id, join_all, notification, proceed, record, retry, state, wall};
use crate::event::{EventResult, EventType, ExtractedFields, Flag, State};
use crate::store::{Completion, EventStore, OperatorAction, Progress, Recorded, StoreError};

pub(in crate::store) async fn a_new_event_is_recorded_once_and_then_known(store: &dyn EventStore) {
    assert_eq!(store.record(&notification("1"), at(0)).await, Ok(Recorded::New));
    let Ok(Recorded::Duplicate(progress)) = store.record(&notification("1"), at(1)).await else { panic!("known") };
    assert_eq!((progress.state, progress.result), (State::Received, None));
    assert_eq!(record(store, id("1")).await.expect("there").received_at, wall(0));
    assert_eq!(record(store, id("2")).await, None);
}

pub(in crate::store) async fn fifty_notifications_at_once_are_one_event(store: &dyn EventStore) {
    let notification = notification("1");
    let mut new = 0;
    let attempts = (0..50).map(|_| store.record(&notification, at(0)));
    for recorded in join_all(attempts).await {
        new += usize::from(recorded.expect("recorded") == Recorded::New);
    }
    assert_eq!(new, 1);
    let _held = claim(store, at(0)).await.expect("one event");
    assert!(claim(store, at(0)).await.is_none());
}

pub(in crate::store) async fn a_finished_duplicate_brings_the_stored_result(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let claimed = claim(store, at(0)).await.expect("one event");
    let claimed = proceed(store, claimed, &fetched(Some("a"), b"{}"), at(1)).await;
    let result = EventResult::success("well done");
    let claimed = proceed(store, claimed, &Progress::Handled(result.clone()), at(2)).await;
    store.settle(claimed, &Completion::Done(None), at(3)).await.expect("settled");
    let Ok(Recorded::Duplicate(progress)) = store.record(&notification("1"), at(4)).await else { panic!("known") };
    assert_eq!((progress.state, progress.result), (State::Done, Some(result)));
    assert!(claim(store, at(1000)).await.is_none(), "a finished event is never claimed");
}

pub(in crate::store) async fn a_deferred_event_is_resolved_from_outside_and_then_reported(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let early = store.amend(id("1"), OperatorAction::Resolve(EventResult::success("")), at(0)).await;
    assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
    let held = claim(store, at(0)).await.expect("one event");
    let held = proceed(store, held, &fetched(None, b"{}"), at(1)).await;
    let meddling = store.amend(id("1"), OperatorAction::Resolve(EventResult::success("")), at(1)).await;
    assert!(matches!(meddling, Err(StoreError::Illegal(_))), "{meddling:?}");
    store.settle(held, &Completion::Deferred, at(1)).await.expect("settled");
    assert!(claim(store, at(1000)).await.is_none());
    let result = EventResult::success("at last");
    store.amend(id("1"), OperatorAction::Resolve(result.clone()), at(2000)).await.expect("resolved");
    let held = claim(store, at(2000)).await.expect("to be reported");
    assert_eq!((held.event().state, held.event().result.clone()), (State::Handled, Some(result)));
    assert_eq!(store.amend(id("2"), OperatorAction::Rerun, at(0)).await, Err(StoreError::NotFound));
}

pub(in crate::store) async fn a_dead_event_is_claimed_again_only_when_an_operator_asks(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.settle(held, &dead("gone"), at(1)).await.expect("settled");
    assert!(claim(store, at(100_000)).await.is_none());
    store.amend(id("1"), OperatorAction::Rerun, at(100_000)).await.expect("put back");
    assert!(claim(store, at(100_000)).await.is_some());
}

pub(in crate::store) async fn a_result_that_does_not_fit_is_refused_and_changes_nothing(store: &dyn EventStore) {
    for token in ["order", "notice", "ping"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        if token == "order" {
            store.settle(held, &dead("never read"), at(0)).await.expect("settled");
            continue;
        }
        let Progress::Fetched { fields, body } = fetched(None, b"{}") else { unreachable!("it is one") };
        let fields = match token {
            "notice" => ExtractedFields { kind: EventType::SubscriptionNotice, ..fields },
            _ => ExtractedFields { kind: EventType::SubscriptionOrder, flag: Some(Flag::Stateless), ..fields },
        };
        let held = proceed(store, held, &Progress::Fetched { fields, body }, at(0)).await;
        store.settle(held, &dead("broken"), at(0)).await.expect("settled");
    }
    let unfit = store.amend(id("order"), OperatorAction::Resolve(EventResult::success("done by hand")), at(1)).await;
    assert!(matches!(unfit, Err(StoreError::Unfit(_))), "{unfit:?}: its route says that it is an order");
    assert_eq!(state(store, "order").await, State::Dead);
    for token in ["notice", "ping"] {
        let resolved = store.amend(id(token), OperatorAction::Resolve(EventResult::success("seen")), at(1)).await;
        assert_eq!(resolved.expect("resolved").state, State::Done, "a {token} wants no result");
    }
    assert!(claim(store, at(1000)).await.is_none(), "so none is reported");
}

pub(in crate::store) async fn an_event_that_is_made_due_is_due_at_once_and_a_held_one_stays_where_it_is(
    store: &dyn EventStore,
) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.make_due(id("1"), at(1)).await.expect("nothing to do");
    assert!(claim(store, at(1)).await.is_none());
    store.settle(held, &retry(999, "transient"), at(1)).await.expect("settled");
    store.make_due(id("2"), at(2)).await.expect("nothing to do");
    assert!(claim(store, at(2)).await.is_none());
    store.make_due(id("1"), at(2)).await.expect("made due");
    let held = claim(store, at(2)).await.expect("due now");
    store.settle(held, &dead("gone"), at(2)).await.expect("settled");
    store.make_due(id("1"), at(3)).await.expect("nothing to do");
    assert!(claim(store, at(2000)).await.is_none());
}
