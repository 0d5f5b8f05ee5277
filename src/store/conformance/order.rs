//! The order of the events of one account.

use std::time::Duration;

use super::{at, claim, dead, fetched, id, idle_until, notification, proceed, retry, wall};
use crate::event::{EventResult, State};
use crate::store::{Advanced, Completion, EventStore, OperatorAction, Progress};

pub(in crate::store) async fn of_one_account_one_event_at_a_time_runs_and_others_are_not_held_up(
    store: &dyn EventStore,
) {
    for token in ["1", "2", "other"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    let other = claim(store, at(1)).await.expect("other");
    let first = proceed(store, first, &fetched(Some("a"), b"{}"), at(1)).await;
    let waiting = store.advance(second, &fetched(Some("a"), b"{}"), at(1)).await;
    assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}");
    let _other = proceed(store, other, &fetched(Some("b"), b"{}"), at(1)).await;
    assert!(claim(store, at(2)).await.is_none(), "2 waits for 1");
    let first = proceed(store, first, &Progress::Handled(EventResult::success("")), at(2)).await;
    assert!(claim(store, at(2)).await.is_none(), "until 1 is reported");
    store.settle(first, &Completion::Done(None), at(3)).await.expect("settled");
    assert_eq!(claim(store, at(3)).await.expect("2").event().id, id("2"));
}

pub(in crate::store) async fn an_earlier_event_of_an_account_goes_before_a_later_one_that_was_read_first(
    store: &dyn EventStore,
) {
    for token in ["1", "2", "3"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    let third = claim(store, at(1)).await.expect("3");
    // The others take longer to be read than anybody waits for that.
    let third = proceed(store, third, &fetched(Some("a"), b"{}"), at(3)).await;
    for earlier in [second, first] {
        let waiting = store.advance(earlier, &fetched(Some("a"), b"{}"), at(3)).await;
        assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}");
    }
    store.settle(third, &retry(0, "down"), at(3)).await.expect("settled");
    for token in ["1", "2", "3"] {
        let next = claim(store, at(3)).await.expect("the next of the account");
        assert_eq!(next.event().id, id(token));
        assert!(claim(store, at(3)).await.is_none(), "one at a time");
        store.settle(next, &dead("enough"), at(3)).await.expect("settled");
    }
}

pub(in crate::store) async fn an_event_that_is_read_early_waits_until_earlier_ones_have_been_read(
    store: &dyn EventStore,
) {
    for token in ["1", "2", "3", "4"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    // Of no account, as far as is known: it cannot come before any other of its account.
    let _second = proceed(store, second, &fetched(None, b"{}"), at(1)).await;
    for account in ["a", "b"] {
        let early = claim(store, at(1)).await.expect("3, then 4");
        let waiting = store.advance(early, &fetched(Some(account), b"{}"), at(1)).await;
        assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}: the first may be of account {account}");
    }
    assert!(claim(store, at(1)).await.is_none());
    let first = proceed(store, first, &fetched(Some("a"), b"{}"), at(1)).await;
    let other = claim(store, at(1)).await.expect("of another account");
    assert_eq!(other.event().id, id("4"));
    assert!(claim(store, at(1)).await.is_none(), "3 waits for 1, which is of its account");
    store.settle(first, &dead("enough"), at(2)).await.expect("settled");
    assert_eq!(claim(store, at(2)).await.expect("the next of the account").event().id, id("3"));
}

pub(in crate::store) async fn nobody_waits_for_a_body_whose_reader_takes_long_or_failed(store: &dyn EventStore) {
    for token in ["1", "2", "3"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(2)).await.expect("2");
    let third = claim(store, at(2)).await.expect("3");
    let step = || fetched(Some("a"), b"{}");
    let waiting = store.advance(third, &step(), at(2)).await;
    assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}");
    assert!(claim(store, at(2)).await.is_none());
    assert_eq!(
        idle_until(store, &[], at(2)).await,
        Some(at(3).monotonic),
        "nobody waits for the first any longer then"
    );
    assert!(claim(store, at(3)).await.is_none(), "the second is still being read");
    store.settle(second, &retry(8, "down"), at(3)).await.expect("settled");
    let third = claim(store, at(3)).await.expect("nothing is in its way");
    assert_eq!((third.event().id, third.event().state), (id("3"), State::Fetched));
    let waiting = store.advance(first, &step(), at(3)).await;
    assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}: another of its account runs");
    drop(third);
}

pub(in crate::store) async fn an_event_whose_result_was_handed_over_holds_up_no_later_one_of_its_account(
    store: &dyn EventStore,
) {
    for token in ["1", "2"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(0)).await.expect("1");
    let first = proceed(store, first, &fetched(Some("a"), b"{}"), at(0)).await;
    let result = EventResult { account_identifier: Some("a".into()), ..EventResult::success("yes") };
    let first = proceed(store, first, &Progress::Handled(result), at(0)).await;
    let second = claim(store, at(0)).await.expect("2");
    let waiting = store.advance(second, &fetched(Some("a"), b"{}"), at(0)).await;
    assert!(matches!(waiting, Ok(Advanced::Blocked)), "{waiting:?}");
    store.settle(first, &Completion::AwaitResponse { until: wall(5) }, at(0)).await.expect("settled");
    assert!(claim(store, at(1)).await.is_none(), "until the answer is given it may have to be reported first");
    let wait = Duration::from_secs(20);
    store.amend(id("1"), OperatorAction::HandedOver { wait }, at(1)).await.expect("amended");
    let second = claim(store, at(1)).await.expect("the one behind it");
    assert_eq!(second.event().id, id("2"));
    let first = claim(store, at(21)).await.expect("to be reported beside it");
    assert_eq!(first.event().id, id("1"));
    store.settle(first, &retry(1, "down"), at(21)).await.expect("settled");
    store.settle(second, &Completion::Done(None), at(21)).await.expect("settled");
    let first = claim(store, at(22)).await.expect("to be reported again");
    store.settle(first, &Completion::Done(None), at(22)).await.expect("settled");
}
