//! Claims, what is done with them, and how they end.

use std::time::Duration;

use super::{at, body, claim, dead, fetched, id, idle_until, notification, proceed, record, retry, state, wall};
use crate::clock::Now;
use crate::event::{BaseUrl, Body, EventResult, EventUrl, Notification, State};
use crate::store::{Completion, EventStore, OperatorAction, Progress, StoreError};

pub(in crate::store) async fn events_are_claimed_in_order_of_receipt_and_by_one_holder_each(store: &dyn EventStore) {
    for (second, token) in ["1", "2", "3"].into_iter().enumerate() {
        store.record(&notification(token), at(u32::try_from(second).expect("small"))).await.expect("recorded");
    }
    let mut held = Vec::new();
    for token in ["1", "2", "3"] {
        held.push(claim(store, at(10)).await.expect("an event"));
        assert_eq!(held.last().expect("it").event().id, id(token));
    }
    assert!(claim(store, at(10)).await.is_none());
}

pub(in crate::store) async fn events_of_saturated_marketplaces_are_left_alone(store: &dyn EventStore) {
    let elsewhere = |token: &str| {
        let base = BaseUrl::parse("https://other.example").expect("a base URL");
        let url = EventUrl::parse(&format!("{base}/events/{token}"), [&base]).expect("an event URL");
        Notification::new("default".into(), url, None, String::new())
    };
    store.record(&notification("1"), at(0)).await.expect("recorded");
    store.record(&elsewhere("2"), at(1)).await.expect("recorded");
    let saturated = [record(store, id("1")).await.expect("recorded").marketplace];
    let claimed = store.claim(9, &saturated, at(2)).await.expect("answers");
    assert_eq!(claimed.claims.iter().map(|held| held.event().id).collect::<Vec<_>>(), [elsewhere("2").id()]);
    assert_eq!(claimed.idle_until, None, "not that of the event that is left alone");
    assert_eq!(claim(store, at(2)).await.expect("not saturated now").event().id, id("1"));
}

pub(in crate::store) async fn an_event_whose_holder_is_alive_is_never_handed_out_again(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    assert!(!held.was_lost());
    assert!(claim(store, at(1_000_000)).await.is_none(), "however long it takes");
    let set_forward = Now { wall: wall(4_000_000), ..at(0) };
    assert!(claim(store, set_forward).await.is_none(), "whatever the clock on the wall says");
    let held = proceed(store, held, &fetched(None, b"{}"), set_forward).await;
    assert!(claim(store, at(2_000_000)).await.is_none());
    store.settle(held, &Completion::Deferred, at(0)).await.expect("it still holds the event");
    assert_eq!(state(store, "1").await, State::Deferred);
}

pub(in crate::store) async fn an_event_whose_holder_vanished_is_handed_out_again_at_once(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let vanishing = claim(store, at(0)).await.expect("one event");
    drop(vanishing);
    let second = claim(store, at(0)).await.expect("its holder is gone");
    assert!(second.was_lost(), "whoever has it now can tell");
    let second = proceed(store, second, &fetched(None, b"{}"), at(0)).await;
    drop(second);
    let third = claim(store, at(0)).await.expect("its holder is gone");
    assert_eq!((third.was_lost(), third.event().state), (true, State::Fetched));
    store.settle(third, &retry(1, "lost"), at(0)).await.expect("settled");
    let fourth = claim(store, at(1)).await.expect("due");
    assert!(!fourth.was_lost(), "that was told already");
}

pub(in crate::store) async fn a_step_that_is_refused_gives_the_claim_back_and_what_is_lost_again_and_again_waits(
    store: &dyn EventStore,
) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let early = store.advance(held, &Progress::Handled(EventResult::success("")), at(0)).await;
    let early = early.expect_err("it was not read");
    assert!(matches!(early.error, StoreError::Illegal(_)), "{}", early.error);
    let early = store.settle(early.claim, &Completion::Deferred, at(0)).await.expect_err("it was not read");
    assert!(matches!(early.error, StoreError::Illegal(_)), "{}", early.error);
    let held = proceed(store, early.claim, &fetched(None, b"{}"), at(0)).await;
    drop(held);
    drop(claim(store, at(0)).await.expect("it is free at once"));
    // What is lost again and again is not tried without a pause.
    assert!(claim(store, at(0)).await.is_none());
    for pause in [1, 2, 4] {
        let now = at(10 * pause);
        drop(claim(store, now).await.expect("it is free again"));
        assert!(claim(store, at(11 * pause)).await.is_none(), "not yet after {pause} s");
    }
    let held = claim(store, at(100)).await.expect("it is free again");
    store.settle(held, &dead("gone"), at(100)).await.expect("settled");
}

pub(in crate::store) async fn an_event_that_is_made_due_does_not_forget_how_often_it_was_lost(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    for _ in 0..2 {
        drop(claim(store, at(0)).await.expect("it is free at once"));
    }
    assert!(claim(store, at(0)).await.is_none(), "it was lost twice");
    store.make_due(id("1"), at(0)).await.expect("answers");
    drop(claim(store, at(0)).await.expect("it was asked for"));
    for second in 0..2 {
        assert!(claim(store, at(second)).await.is_none(), "it was lost three times");
    }
    assert!(claim(store, at(2)).await.is_some());
}

pub(in crate::store) async fn a_wait_is_as_long_as_it_says_whatever_the_clock_on_the_wall_does(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    for (set_to, seconds) in [(1_000_000, 30), (0, 30)] {
        let now = |seconds| Now { wall: wall(set_to), ..at(seconds) };
        let held = claim(store, now(100 * seconds)).await.expect("one event");
        store.settle(held, &retry(seconds, "down"), now(200 * seconds)).await.expect("settled");
        assert!(claim(store, Now { wall: wall(9_999_999), ..at(200 * seconds + 29) }).await.is_none(), "forward");
        let back = Now { wall: wall(0), ..at(200 * seconds + 30) };
        let held = claim(store, back).await.expect("back");
        store.settle(held, &retry(0, "down"), now(0)).await.expect("settled");
    }
}

pub(in crate::store) async fn a_failed_attempt_is_due_again_when_it_says(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.settle(held, &retry(29, "down"), at(1)).await.expect("settled");
    assert_eq!(idle_until(store, &[], at(1)).await, Some(at(30).monotonic));
    assert!(claim(store, at(29)).await.is_none());
    let again = claim(store, at(30)).await.expect("due");
    assert_eq!((again.event().attempts, again.event().last_error.as_deref()), (1, Some("down")));
}

pub(in crate::store) async fn a_result_left_to_an_answer_is_reported_later_if_it_was_given_and_at_once_if_not(
    store: &dyn EventStore,
) {
    let handed_over = || OperatorAction::HandedOver { wait: Duration::from_secs(20) };
    for token in ["given", "kept"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, &fetched(None, b"{}"), at(0)).await;
        let early = store.amend(id(token), handed_over(), at(0)).await;
        assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
        let result = EventResult { account_identifier: Some("acct".into()), ..EventResult::success(token) };
        let held = proceed(store, held, &Progress::Handled(result), at(0)).await;
        store.settle(held, &Completion::AwaitResponse { until: wall(5) }, at(1)).await.expect("settled");
        assert!(claim(store, at(4)).await.is_none());
    }
    let given = store.amend(id("given"), handed_over(), at(4)).await.expect("amended");
    assert_eq!((given.state, given.handed_over), (State::Handled, true), "handed over is not confirmed");
    let again = store.amend(id("given"), handed_over(), at(4)).await;
    assert!(matches!(again, Err(StoreError::Illegal(_))), "{again:?}");
    let held = claim(store, at(5)).await.expect("the other one");
    assert_eq!((held.event().id, held.event().state), (id("kept"), State::Handled));
    assert_eq!(store.amend(id("kept"), handed_over(), at(5)).await, Err(StoreError::Locked));
    store.settle(held, &Completion::Done(None), at(5)).await.expect("settled");
    assert!(claim(store, at(23)).await.is_none());
    let held = claim(store, at(24)).await.expect("the one that was handed over");
    store.settle(held, &Completion::Done(None), at(24)).await.expect("settled");
    assert!(claim(store, at(1000)).await.is_none());
}

pub(in crate::store) async fn a_body_that_nobody_could_read_is_kept_with_its_charset(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let unreadable =
        |bytes: &[u8], charset: Option<&str>| Some(Body { bytes: bytes.to_vec(), charset: charset.map(str::to_owned) });
    let held = claim(store, at(0)).await.expect("one event");
    let Completion::Retry { wait, failure, .. } = retry(1, "no JSON") else { unreachable!("it is one") };
    let first = Completion::Retry { wait, failure: failure.clone(), unreadable: unreadable(b"\xff\0<html>", None) };
    store.settle(held, &first, at(0)).await.expect("settled");
    assert_eq!(body(store, id("1")).await, (unreadable(b"\xff\0<html>", None)));
    let held = claim(store, at(1)).await.expect("due");
    let unreadable_now = unreadable(b"later", Some("latin1"));
    let last = Completion::Dead { failure, unreadable: unreadable_now.clone(), may_recover: true };
    store.settle(held, &last, at(1)).await.expect("settled");
    assert_eq!(body(store, id("1")).await, (unreadable_now));
    let rerun = store.amend(id("1"), OperatorAction::Rerun, at(2)).await.expect("put back");
    assert_eq!(rerun.state, State::Received, "it was never understood");
    let held = claim(store, at(2)).await.expect("due");
    let _held = proceed(store, held, &fetched(None, b"{}"), at(2)).await;
    assert_eq!(body(store, id("1")).await, (unreadable(b"{}", None)));
}

pub(in crate::store) async fn a_body_without_a_byte_is_a_body(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let Completion::Retry { wait, failure, .. } = retry(1, "nothing came") else { unreachable!("it is one") };
    let nothing = Body { bytes: Vec::new(), charset: None };
    let unreadable = Completion::Retry { wait, failure, unreadable: Some(nothing.clone()) };
    assert_eq!(body(store, id("1")).await, None, "none has come yet");
    store.settle(held, &unreadable, at(0)).await.expect("settled");
    assert_eq!(body(store, id("1")).await, Some(nothing));
    let exported = store.export(0, 1).await.expect("exported");
    assert_eq!(exported.events[0].body.as_deref(), Some(&[][..]));
}

pub(in crate::store) async fn a_body_is_kept_as_received(store: &dyn EventStore) {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    store.record(&notification("1"), at(0)).await.expect("recorded");
    assert_eq!(body(store, id("1")).await, None);
    let claimed = claim(store, at(0)).await.expect("one event");
    let _held = proceed(store, claimed, &fetched(None, &bytes), at(1)).await;
    assert_eq!(body(store, id("1")).await, Some(Body { bytes, charset: None }));
}

pub(in crate::store) async fn a_batch_has_those_that_have_been_due_longest_and_says_when_to_ask_again(
    store: &dyn EventStore,
) {
    for (second, token) in (0..).zip(["1", "2", "3"]) {
        store.record(&notification(token), at(second)).await.expect("recorded");
    }
    let first = store.claim(2, &[], at(10)).await.expect("answers");
    assert_eq!(first.claims.iter().map(|held| held.event().id).collect::<Vec<_>>(), ["1", "2"].map(id));
    assert!(first.idle_until.is_some_and(|until| until <= at(10).monotonic), "there is more at once");
    let rest = store.claim(9, &[], at(10)).await.expect("answers");
    assert_eq!((rest.claims.len(), rest.idle_until), (1, None));
    for (wait, held) in (5..).zip(first.claims) {
        store.settle(held, &retry(wait, "down"), at(10)).await.expect("settled");
    }
    let none = store.claim(9, &[], at(10)).await.expect("answers");
    assert_eq!((none.claims.len(), none.idle_until), (0, Some(at(15).monotonic)));
}

pub(in crate::store) async fn a_step_that_is_asked_for_again_is_taken_once(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let again = held.again();
    let held = proceed(store, held, &fetched(Some("a"), b"{}"), at(1)).await;
    let once = record(store, id("1")).await;
    let repeated = proceed(store, again, &fetched(Some("a"), b"{}"), at(1)).await;
    assert_eq!((record(store, id("1")).await, repeated.event()), (once, held.event()));
    let (again, late) = (held.again(), held.again());
    store.settle(held, &retry(5, "down"), at(2)).await.expect("settled");
    let once = record(store, id("1")).await;
    store.settle(again, &retry(5, "down"), at(2)).await.expect("it is so already");
    let next = claim(store, at(7)).await.expect("due");
    let late = store.settle(late, &retry(5, "down"), at(2)).await;
    late.expect("it was so, whoever has the event now");
    assert_eq!(record(store, id("1")).await, once);
    let other = store.settle(repeated, &Completion::Done(None), at(8)).await.map_err(|failed| failed.error);
    assert_eq!(other, Err(StoreError::ClaimLost), "it is another's");
    let again = next.again();
    store.settle(next, &Completion::Done(None), at(8)).await.expect("it still holds the event");
    store.settle(again, &Completion::Done(None), at(8)).await.expect("it is so already");
    assert_eq!(record(store, id("1")).await.expect("there").attempts, 2);
}

pub(in crate::store) async fn an_event_that_is_released_is_claimed_again_and_its_last_holder_writes_nothing(
    store: &dyn EventStore,
) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.renew(&held.lease(), at(20)).await.expect("it is held");
    store.release(held.lease(), at(21)).await.expect("released");
    assert_eq!(store.renew(&held.lease(), at(21)).await, Err(StoreError::ClaimLost));
    let next = claim(store, at(21)).await.expect("free at once");
    assert!(!next.was_lost(), "it was given back");
    let (lease, before) = (held.lease(), record(store, id("1")).await);
    let failed = store.settle(held, &dead("late"), at(22)).await.expect_err("it is another's");
    assert_eq!(failed.error, StoreError::ClaimLost);
    let failed = store.advance(failed.claim, &fetched(None, b"{}"), at(22)).await.expect_err("it is another's");
    assert_eq!(failed.error, StoreError::ClaimLost);
    assert_eq!(record(store, id("1")).await, before);
    drop((failed, lease));
    assert!(claim(store, at(22)).await.is_none(), "the next one still holds it");
    store.settle(next, &dead("gone"), at(22)).await.expect("settled");
}

pub(in crate::store) async fn a_store_that_is_closed_takes_no_write(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.close().await;
    assert!(matches!(store.record(&notification("2"), at(1)).await, Err(StoreError::Unavailable(_))));
    let failed = store.settle(held, &dead("late"), at(1)).await.expect_err("it is closed");
    assert!(matches!(failed.error, StoreError::Unavailable(_)), "{}", failed.error);
    assert!(store.ready().await.is_err());
    store.close().await;
}
