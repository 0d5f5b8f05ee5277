//! The contract of [`EventStore`](super::EventStore), sentence by sentence, for every store.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};

use super::memory::MemoryStore;
use super::{
    Advanced, Amendment, Claim, EventStore, Filter, Recorded, Retention, Settlement, Step, StoreError, StoredEvent,
};
use crate::clock::{Moment, Now, Timestamp};
use crate::event::{
    AccountStatus, BaseUrl, Body, ErrorCode, EventId, EventResult, EventType, EventUrl, Facts, Failure, Flag,
    Notification, State,
};

/// So many seconds after some moment, by both clocks.
pub(super) fn at(seconds: u32) -> Now {
    let monotonic = Moment::after_start(Duration::from_secs(seconds.into()));
    Now { wall: wall(seconds), monotonic }
}

/// What the wall clock shows then.
pub(super) fn wall(seconds: u32) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + i64::from(seconds) * 1000)
}

pub(super) fn notification(token: &str) -> Notification {
    let base = BaseUrl::parse("https://market.example").expect("a base URL");
    let url = format!("https://market.example/api/integration/v1/events/{token}");
    let url = EventUrl::parse(&url, [&base]).expect("an event URL");
    Notification::new("default".into(), url, Some(EventType::SubscriptionOrder), String::new())
}

fn id(token: &str) -> EventId {
    notification(token).id()
}

pub(super) fn fetched(account: Option<&str>, body: &[u8]) -> Step {
    let facts = Facts {
        kind: EventType::SubscriptionChange,
        flag: None,
        account: account.map(str::to_owned),
        status_on_success: None,
    };
    Step::Fetched { facts, body: Body { bytes: body.to_vec(), charset: None } }
}

/// A failure that ends an event for good.
pub(super) fn dead(reason: &str) -> Settlement {
    let failure = Failure { reason: reason.to_owned(), ..Failure::default() };
    Settlement::Dead { failure, unreadable: None, may_recover: false }
}

/// A failure that lets an event wait for so many seconds.
pub(super) fn retry(seconds: u32, reason: &str) -> Settlement {
    let failure = Failure { reason: reason.to_owned(), ..Failure::default() };
    Settlement::Retry { wait: Duration::from_secs(seconds.into()), failure, unreadable: None }
}

/// A claim of the event that is next, which is never dropped unnoticed.
async fn claim(store: &dyn EventStore, now: Now) -> Option<Claim> {
    store.claim(now, &[]).await.expect("the store answers")
}

async fn proceed(store: &dyn EventStore, claim: Claim, step: Step, now: Now) -> Claim {
    match store.advance(claim, step, now).await.expect("the step is taken") {
        Advanced::Proceed(claim) => claim,
        Advanced::Waiting => panic!("nothing else of the account is at work"),
    }
}

async fn state(store: &dyn EventStore, token: &str) -> State {
    store.event(id(token)).await.expect("the store answers").expect("the event is there").state
}

pub(super) async fn a_new_event_is_recorded_once_and_then_known(store: &dyn EventStore) {
    assert_eq!(store.record(&notification("1"), at(0)).await, Ok(Recorded::New));
    let Ok(Recorded::Duplicate(progress)) = store.record(&notification("1"), at(1)).await else { panic!("known") };
    assert_eq!((progress.state, progress.result), (State::Received, None));
    assert_eq!(store.event(id("1")).await.expect("answers").expect("there").received_at, wall(0));
    assert_eq!(store.event(id("2")).await, Ok(None));
}

pub(super) async fn fifty_notifications_at_once_are_one_event(store: &dyn EventStore) {
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

pub(super) async fn a_watch_tells_of_every_change_that_comes_after_it_began(store: &dyn EventStore) {
    let mut early = store.watch(id("1"));
    for token in ["1", "2"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let claimed = claim(store, at(0)).await.expect("one event");
    assert_eq!(claimed.event().id, id("1"));
    let mut watch = store.watch(id("1"));
    let mut other = store.watch(id("2"));
    let claimed = proceed(store, claimed, fetched(None, b"{}"), at(1)).await;
    early.moved().await;
    watch.moved().await;
    assert_eq!(state(store, "1").await, State::Fetched);
    store.settle(claimed, Settlement::Done(None), at(2)).await.expect("settled");
    watch.moved().await;
    assert_eq!(state(store, "1").await, State::Done);
    store.amend(id("1"), Amendment::Rerun, at(3)).await.expect("amended");
    watch.moved().await;
    assert_eq!(state(store, "1").await, State::Fetched);
    let moved = tokio::time::timeout(Duration::ZERO, other.moved()).await;
    assert!(moved.is_err(), "the other event has not moved");
}

pub(super) async fn a_finished_duplicate_brings_the_stored_result(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let claimed = claim(store, at(0)).await.expect("one event");
    let claimed = proceed(store, claimed, fetched(Some("a"), b"{}"), at(1)).await;
    let result = EventResult::success("well done");
    let claimed = proceed(store, claimed, Step::Handled(result.clone()), at(2)).await;
    store.settle(claimed, Settlement::Done(None), at(3)).await.expect("settled");
    let Ok(Recorded::Duplicate(progress)) = store.record(&notification("1"), at(4)).await else { panic!("known") };
    assert_eq!((progress.state, progress.result), (State::Done, Some(result)));
    assert!(claim(store, at(1000)).await.is_none(), "a finished event is never claimed");
}

pub(super) async fn events_are_claimed_in_order_of_receipt_and_by_one_holder_each(store: &dyn EventStore) {
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

pub(super) async fn events_of_busy_marketplaces_are_left_alone(store: &dyn EventStore) {
    let elsewhere = |token: &str| {
        let base = BaseUrl::parse("https://other.example").expect("a base URL");
        let url = EventUrl::parse(&format!("{base}/events/{token}"), [&base]).expect("an event URL");
        Notification::new("default".into(), url, None, String::new())
    };
    store.record(&notification("1"), at(0)).await.expect("recorded");
    store.record(&elsewhere("2"), at(1)).await.expect("recorded");
    let busy = [store.event(id("1")).await.expect("answers").expect("recorded").marketplace];
    let held = store.claim(at(2), &busy).await.expect("answers").expect("the other one");
    assert_eq!(held.event().id, elsewhere("2").id());
    assert!(store.claim(at(2), &busy).await.expect("answers").is_none());
    assert_eq!(store.next_due(&busy).await, Ok(None), "not the busy event");
    assert_eq!(claim(store, at(2)).await.expect("not busy now").event().id, id("1"));
}

pub(super) async fn finished_events_are_removed_by_their_age_in_steps_and_others_stay(store: &dyn EventStore) {
    let tokens = ["dead", "1", "2", "deferred", "3", "fresh", "unfinished", "newest"];
    for (second, token) in (0..).zip(tokens) {
        store.record(&notification(token), at(second)).await.expect("recorded");
    }
    for token in tokens {
        let Some(held) = claim(store, at(10)).await else { break };
        let held = proceed(store, held, fetched(None, b"{}"), at(10)).await;
        assert_eq!(held.event().id, id(token));
        let settlement = match token {
            "dead" => dead("gone"),
            "deferred" => Settlement::Deferred,
            "unfinished" => retry(9999, "transient"),
            _ => Settlement::Done(None),
        };
        let moment = if token == "fresh" { at(50) } else { at(10) };
        store.settle(held, settlement, moment).await.expect("settled");
    }
    assert_eq!(
        store.prune(wall(10), wall(100), 10).await.map(|pruned| pruned.removed),
        Ok(0),
        "nothing is older than what changed then"
    );
    assert_eq!(
        store.prune(wall(11), wall(100), 2).await.map(|pruned| pruned.removed),
        Ok(2),
        "the oldest, no more than asked for"
    );
    assert_eq!(store.prune(wall(11), wall(100), 2).await.map(|pruned| pruned.removed), Ok(1));
    assert_eq!(store.prune(wall(11), wall(100), 2).await.map(|pruned| pruned.removed), Ok(0));
    for token in ["1", "2", "3"] {
        assert_eq!((store.event(id(token)).await, store.body(id(token)).await), (Ok(None), Ok(None)), "{token}");
    }
    let page = store.list(&Filter::default(), None, 10).await.expect("a page");
    let kept = ["newest", "unfinished", "fresh", "deferred", "dead"].map(id);
    assert_eq!(page.events.iter().map(|event| event.id).collect::<Vec<_>>(), kept);
    assert!(store.body(id("fresh")).await.expect("read").is_some());
    assert_eq!(store.record(&notification("1"), at(200)).await, Ok(Recorded::New), "it is not known any more");
    store.amend(id("dead"), Amendment::Rerun, at(200)).await.expect("it waits for an operator");
}

pub(super) async fn an_event_that_ends_long_after_later_ones_is_removed_like_any_other(store: &dyn EventStore) {
    for (token, settlement) in
        [("late", retry(50, "transient")), ("dead", dead("gone")), ("newest", Settlement::Done(None))]
    {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, fetched(None, b"{}"), at(0)).await;
        store.settle(held, settlement, at(0)).await.expect("settled");
    }
    assert_eq!(store.prune(wall(40), wall(100), 10).await.map(|pruned| pruned.removed), Ok(0));
    let late = claim(store, at(50)).await.expect("the late one");
    store.settle(late, Settlement::Done(None), at(50)).await.expect("settled");
    assert_eq!(store.prune(wall(60), wall(100), 10).await.map(|pruned| pruned.removed), Ok(1));
    assert_eq!(store.event(id("late")).await, Ok(None));
}

pub(super) async fn an_event_that_ended_while_the_clock_was_behind_is_not_old(store: &dyn EventStore) {
    for _ in 0..2 {
        store.note_retention(Retention::at(wall(100_000))).await.expect("noted");
    }
    let behind = Now { wall: wall(5), ..at(100_000) };
    for token in ["1", "newest"] {
        store.record(&notification(token), behind).await.expect("recorded");
        let held = claim(store, behind).await.expect("one event");
        let held = proceed(store, held, fetched(None, b"{}"), behind).await;
        store.settle(held, Settlement::Done(None), behind).await.expect("settled");
    }
    for moment in [10, 90_000, 100_000] {
        let pruned = store.prune(wall(moment), wall(100_100), 10).await.expect("pruned");
        assert_eq!(pruned.removed, 0, "{moment}");
    }
    let mut removed = 0;
    while removed == 0 {
        let pruned = store.prune(wall(100_001), wall(200_000), 10).await.expect("pruned");
        removed = pruned.removed;
        assert!(removed > 0 || !pruned.is_through, "it is old in the end");
    }
}

pub(super) async fn a_body_is_kept_as_received(store: &dyn EventStore) {
    let body: Vec<u8> = (0..100_000_u32).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    store.record(&notification("1"), at(0)).await.expect("recorded");
    assert_eq!(store.body(id("1")).await, Ok(None));
    let claimed = claim(store, at(0)).await.expect("one event");
    let _held = proceed(store, claimed, fetched(None, &body), at(1)).await;
    assert_eq!(store.body(id("1")).await, Ok(Some(Body { bytes: body, charset: None })));
}

pub(super) async fn an_event_whose_holder_is_alive_is_never_handed_out_again(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    assert!(!held.was_lost());
    assert!(claim(store, at(1_000_000)).await.is_none(), "however long it takes");
    let set_forward = Now { wall: wall(4_000_000), ..at(0) };
    assert!(claim(store, set_forward).await.is_none(), "whatever the clock on the wall says");
    let held = proceed(store, held, fetched(None, b"{}"), set_forward).await;
    assert!(claim(store, at(2_000_000)).await.is_none());
    store.settle(held, Settlement::Deferred, at(0)).await.expect("it still holds the event");
    assert_eq!(state(store, "1").await, State::Deferred);
}

pub(super) async fn an_event_whose_holder_vanished_is_handed_out_again_at_once(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let vanishing = claim(store, at(0)).await.expect("one event");
    drop(vanishing);
    let second = claim(store, at(0)).await.expect("its holder is gone");
    assert!(second.was_lost(), "whoever has it now can tell");
    let second = proceed(store, second, fetched(None, b"{}"), at(0)).await;
    drop(second);
    let third = claim(store, at(0)).await.expect("its holder is gone");
    assert_eq!((third.was_lost(), third.event().state), (true, State::Fetched));
    store.settle(third, retry(1, "lost"), at(0)).await.expect("settled");
    let fourth = claim(store, at(1)).await.expect("due");
    assert!(!fourth.was_lost(), "that was told already");
}

pub(super) async fn a_step_that_is_refused_leaves_the_event_to_be_claimed_again(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let early = store.advance(held, Step::Handled(EventResult::success("")), at(0)).await;
    assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
    let held = claim(store, at(0)).await.expect("it is free again");
    let early = store.settle(held, Settlement::Deferred, at(0)).await;
    assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
    // What fails again and again is not tried without a pause.
    assert!(claim(store, at(0)).await.is_none());
    for pause in [1, 2, 4] {
        let now = at(10 * pause);
        drop(claim(store, now).await.expect("it is free again"));
        assert!(claim(store, at(11 * pause)).await.is_none(), "not yet after {pause} s");
    }
    let held = claim(store, at(100)).await.expect("it is free again");
    store.settle(held, dead("gone"), at(100)).await.expect("settled");
}

pub(super) async fn a_wait_is_as_long_as_it_says_whatever_the_clock_on_the_wall_does(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    for (set_to, seconds) in [(1_000_000, 30), (0, 30)] {
        let now = |seconds| Now { wall: wall(set_to), ..at(seconds) };
        let held = claim(store, now(100 * seconds)).await.expect("one event");
        store.settle(held, retry(seconds, "down"), now(200 * seconds)).await.expect("settled");
        assert!(claim(store, Now { wall: wall(9_999_999), ..at(200 * seconds + 29) }).await.is_none(), "forward");
        let back = Now { wall: wall(0), ..at(200 * seconds + 30) };
        let held = claim(store, back).await.expect("back");
        store.settle(held, retry(0, "down"), now(0)).await.expect("settled");
    }
}

pub(super) async fn a_failed_attempt_is_due_again_when_it_says(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.settle(held, retry(29, "down"), at(1)).await.expect("settled");
    assert_eq!(store.next_due(&[]).await, Ok(Some(at(30).monotonic)));
    assert!(claim(store, at(29)).await.is_none());
    let again = claim(store, at(30)).await.expect("due");
    assert_eq!((again.event().attempts, again.event().last_error.as_deref()), (1, Some("down")));
}

pub(super) async fn of_one_account_one_event_at_a_time_runs_and_others_are_not_held_up(store: &dyn EventStore) {
    for token in ["1", "2", "other"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    let other = claim(store, at(1)).await.expect("other");
    let first = proceed(store, first, fetched(Some("a"), b"{}"), at(1)).await;
    let waiting = store.advance(second, fetched(Some("a"), b"{}"), at(1)).await;
    assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    let _other = proceed(store, other, fetched(Some("b"), b"{}"), at(1)).await;
    assert!(claim(store, at(2)).await.is_none(), "2 waits for 1");
    let first = proceed(store, first, Step::Handled(EventResult::success("")), at(2)).await;
    assert!(claim(store, at(2)).await.is_none(), "until 1 is reported");
    store.settle(first, Settlement::Done(None), at(3)).await.expect("settled");
    assert_eq!(claim(store, at(3)).await.expect("2").event().id, id("2"));
}

pub(super) async fn an_earlier_event_of_an_account_goes_before_a_later_one_that_was_read_first(store: &dyn EventStore) {
    for token in ["1", "2", "3"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    let third = claim(store, at(1)).await.expect("3");
    for earlier in [&first, &second] {
        store.give_way(earlier).await.expect("answers");
    }
    let third = proceed(store, third, fetched(Some("a"), b"{}"), at(1)).await;
    for earlier in [second, first] {
        let waiting = store.advance(earlier, fetched(Some("a"), b"{}"), at(1)).await;
        assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    }
    store.settle(third, retry(0, "down"), at(2)).await.expect("settled");
    for token in ["1", "2", "3"] {
        let next = claim(store, at(3)).await.expect("the next of the account");
        assert_eq!(next.event().id, id(token));
        assert!(claim(store, at(3)).await.is_none(), "one at a time");
        store.settle(next, dead("enough"), at(3)).await.expect("settled");
    }
}

pub(super) async fn an_event_that_is_read_early_waits_until_earlier_ones_have_been_read(store: &dyn EventStore) {
    for token in ["1", "2", "3", "4"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    // Of no account, as far as is known: it cannot come before any other of its account.
    let _second = proceed(store, second, fetched(None, b"{}"), at(1)).await;
    for account in ["a", "b"] {
        let early = claim(store, at(1)).await.expect("3, then 4");
        let waiting = store.advance(early, fetched(Some(account), b"{}"), at(1)).await;
        assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}: the first may be of account {account}");
    }
    assert!(claim(store, at(1)).await.is_none());
    let first = proceed(store, first, fetched(Some("a"), b"{}"), at(1)).await;
    let other = claim(store, at(1)).await.expect("of another account");
    assert_eq!(other.event().id, id("4"));
    assert!(claim(store, at(1)).await.is_none(), "3 waits for 1, which is of its account");
    store.settle(first, dead("enough"), at(2)).await.expect("settled");
    assert_eq!(claim(store, at(2)).await.expect("the next of the account").event().id, id("3"));
}

pub(super) async fn nobody_waits_for_a_body_whose_reader_has_given_way_or_failed(store: &dyn EventStore) {
    for token in ["1", "2", "3"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(1)).await.expect("1");
    let second = claim(store, at(1)).await.expect("2");
    let third = claim(store, at(1)).await.expect("3");
    let step = || fetched(Some("a"), b"{}");
    let waiting = store.advance(third, step(), at(1)).await;
    assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    store.give_way(&first).await.expect("answers");
    assert!(claim(store, at(1)).await.is_none(), "the second is still being read");
    store.settle(second, retry(8, "down"), at(1)).await.expect("settled");
    let third = claim(store, at(1)).await.expect("nothing is in its way");
    assert_eq!((third.event().id, third.event().state), (id("3"), State::Fetched));
    let waiting = store.advance(first, step(), at(1)).await;
    assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}: another of its account runs");
}

pub(super) async fn a_deferred_event_is_resolved_from_outside_and_then_reported(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let early = store.amend(id("1"), Amendment::Resolve(EventResult::success("")), at(0)).await;
    assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
    let held = claim(store, at(0)).await.expect("one event");
    let held = proceed(store, held, fetched(None, b"{}"), at(1)).await;
    let meddling = store.amend(id("1"), Amendment::Resolve(EventResult::success("")), at(1)).await;
    assert!(matches!(meddling, Err(StoreError::Illegal(_))), "{meddling:?}");
    store.settle(held, Settlement::Deferred, at(1)).await.expect("settled");
    assert!(claim(store, at(1000)).await.is_none());
    let result = EventResult::success("at last");
    store.amend(id("1"), Amendment::Resolve(result.clone()), at(2000)).await.expect("resolved");
    let held = claim(store, at(2000)).await.expect("to be reported");
    assert_eq!((held.event().state, held.event().result.clone()), (State::Handled, Some(result)));
    assert_eq!(store.amend(id("2"), Amendment::Rerun, at(0)).await, Err(StoreError::NotFound));
}

pub(super) async fn a_result_left_to_an_answer_is_reported_later_if_it_was_given_and_at_once_if_not(
    store: &dyn EventStore,
) {
    let handed_over = || Amendment::HandedOver { wait: Duration::from_secs(20) };
    for token in ["given", "kept"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, fetched(None, b"{}"), at(0)).await;
        let early = store.amend(id(token), handed_over(), at(0)).await;
        assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
        let result = EventResult { account_identifier: Some("acct".into()), ..EventResult::success(token) };
        let held = proceed(store, held, Step::Handled(result), at(0)).await;
        store.settle(held, Settlement::LeftToAnswer { until: wall(5) }, at(1)).await.expect("settled");
        assert!(claim(store, at(4)).await.is_none());
    }
    let given = store.amend(id("given"), handed_over(), at(4)).await.expect("amended");
    assert_eq!((given.state, given.handed_over), (State::Handled, true), "handed over is not confirmed");
    let again = store.amend(id("given"), handed_over(), at(4)).await;
    assert!(matches!(again, Err(StoreError::Illegal(_))), "{again:?}");
    let held = claim(store, at(5)).await.expect("the other one");
    assert_eq!((held.event().id, held.event().state), (id("kept"), State::Handled));
    assert_eq!(store.amend(id("kept"), handed_over(), at(5)).await, Err(StoreError::Held));
    store.settle(held, Settlement::Done(None), at(5)).await.expect("settled");
    assert!(claim(store, at(23)).await.is_none());
    let held = claim(store, at(24)).await.expect("the one that was handed over");
    store.settle(held, Settlement::Done(None), at(24)).await.expect("settled");
    assert!(claim(store, at(1000)).await.is_none());
}

pub(super) async fn an_event_whose_result_was_handed_over_holds_up_no_later_one_of_its_account(store: &dyn EventStore) {
    for token in ["1", "2"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let first = claim(store, at(0)).await.expect("1");
    let first = proceed(store, first, fetched(Some("a"), b"{}"), at(0)).await;
    let result = EventResult { account_identifier: Some("a".into()), ..EventResult::success("yes") };
    let first = proceed(store, first, Step::Handled(result), at(0)).await;
    let second = claim(store, at(0)).await.expect("2");
    let waiting = store.advance(second, fetched(Some("a"), b"{}"), at(0)).await;
    assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    store.settle(first, Settlement::LeftToAnswer { until: wall(5) }, at(0)).await.expect("settled");
    assert!(claim(store, at(1)).await.is_none(), "until the answer is given it may have to be reported first");
    let wait = Duration::from_secs(20);
    store.amend(id("1"), Amendment::HandedOver { wait }, at(1)).await.expect("amended");
    let second = claim(store, at(1)).await.expect("the one behind it");
    assert_eq!(second.event().id, id("2"));
    let first = claim(store, at(21)).await.expect("to be reported beside it");
    assert_eq!(first.event().id, id("1"));
    store.settle(first, retry(1, "down"), at(21)).await.expect("settled");
    store.settle(second, Settlement::Done(None), at(21)).await.expect("settled");
    let first = claim(store, at(22)).await.expect("to be reported again");
    store.settle(first, Settlement::Done(None), at(22)).await.expect("settled");
}

pub(super) async fn a_body_that_nobody_could_read_is_kept_with_its_charset(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let unreadable =
        |bytes: &[u8], charset: Option<&str>| Some(Body { bytes: bytes.to_vec(), charset: charset.map(str::to_owned) });
    let held = claim(store, at(0)).await.expect("one event");
    let Settlement::Retry { wait, failure, .. } = retry(1, "no JSON") else { unreachable!("it is one") };
    let first = Settlement::Retry { wait, failure: failure.clone(), unreadable: unreadable(b"\xff\0<html>", None) };
    store.settle(held, first, at(0)).await.expect("settled");
    assert_eq!(store.body(id("1")).await, Ok(unreadable(b"\xff\0<html>", None)));
    let held = claim(store, at(1)).await.expect("due");
    let unreadable_now = unreadable(b"later", Some("latin1"));
    let last = Settlement::Dead { failure, unreadable: unreadable_now.clone(), may_recover: true };
    store.settle(held, last, at(1)).await.expect("settled");
    assert_eq!(store.body(id("1")).await, Ok(unreadable_now));
    let rerun = store.amend(id("1"), Amendment::Rerun, at(2)).await.expect("put back");
    assert_eq!(rerun.state, State::Received, "it was never understood");
    let held = claim(store, at(2)).await.expect("due");
    let _held = proceed(store, held, fetched(None, b"{}"), at(2)).await;
    assert_eq!(store.body(id("1")).await, Ok(unreadable(b"{}", None)));
}

pub(super) async fn a_body_without_a_byte_is_a_body(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let Settlement::Retry { wait, failure, .. } = retry(1, "nothing came") else { unreachable!("it is one") };
    let nothing = Body { bytes: Vec::new(), charset: None };
    let unreadable = Settlement::Retry { wait, failure, unreadable: Some(nothing.clone()) };
    assert_eq!(store.body(id("1")).await, Ok(None), "none has come yet");
    store.settle(held, unreadable, at(0)).await.expect("settled");
    assert_eq!(store.body(id("1")).await, Ok(Some(nothing)));
    let exported = store.export(0, 1).await.expect("exported");
    assert_eq!(exported.events[0].body.as_deref(), Some(&[][..]));
}

pub(super) async fn a_result_that_does_not_fit_is_refused_and_changes_nothing(store: &dyn EventStore) {
    for token in ["order", "notice", "ping"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        if token == "order" {
            store.settle(held, dead("never read"), at(0)).await.expect("settled");
            continue;
        }
        let Step::Fetched { facts, body } = fetched(None, b"{}") else { unreachable!("it is one") };
        let facts = match token {
            "notice" => Facts { kind: EventType::SubscriptionNotice, ..facts },
            _ => Facts { kind: EventType::SubscriptionOrder, flag: Some(Flag::Stateless), ..facts },
        };
        let held = proceed(store, held, Step::Fetched { facts, body }, at(0)).await;
        store.settle(held, dead("broken"), at(0)).await.expect("settled");
    }
    let unfit = store.amend(id("order"), Amendment::Resolve(EventResult::success("done by hand")), at(1)).await;
    assert!(matches!(unfit, Err(StoreError::Unfit(_))), "{unfit:?}: its route says that it is an order");
    assert_eq!(state(store, "order").await, State::Dead);
    for token in ["notice", "ping"] {
        let resolved = store.amend(id(token), Amendment::Resolve(EventResult::success("seen")), at(1)).await;
        assert_eq!(resolved.expect("resolved").state, State::Done, "a {token} wants no result");
    }
    assert!(claim(store, at(1000)).await.is_none(), "so none is reported");
}

pub(super) async fn a_hastened_event_is_due_at_once_and_a_held_one_stays_where_it_is(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.hasten(id("1"), at(1)).await.expect("nothing to do");
    assert!(claim(store, at(1)).await.is_none());
    store.settle(held, retry(999, "transient"), at(1)).await.expect("settled");
    store.hasten(id("2"), at(2)).await.expect("nothing to do");
    assert!(claim(store, at(2)).await.is_none());
    store.hasten(id("1"), at(2)).await.expect("hastened");
    let held = claim(store, at(2)).await.expect("due now");
    store.settle(held, dead("gone"), at(2)).await.expect("settled");
    store.hasten(id("1"), at(3)).await.expect("nothing to do");
    assert!(claim(store, at(2000)).await.is_none());
}

pub(super) async fn an_account_is_as_the_latest_event_that_succeeded_has_left_it(store: &dyn EventStore) {
    let leaving = |status: &AccountStatus| {
        let facts = Facts {
            kind: EventType::SubscriptionChange,
            flag: None,
            account: Some("acct".to_owned()),
            status_on_success: Some(status.clone()),
        };
        Step::Fetched { facts, body: Body { bytes: b"{}".to_vec(), charset: None } }
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
        let held = proceed(store, held, leaving(&status), at(second)).await;
        let before = stands().await;
        let result = match token {
            "3" => EventResult::failure(ErrorCode::InvalidOperation, "no"),
            _ => EventResult::success("yes"),
        };
        let held = proceed(store, held, Step::Handled(result), at(second)).await;
        let after = if token == "3" { before } else { Some(status) };
        assert_eq!(stands().await, after);
        store.settle(held, Settlement::Done(None), at(second)).await.expect("settled");
        assert_eq!(stands().await, after);
    }
    // An earlier event that is run again does not turn the clock back.
    store.amend(id("1"), Amendment::Rerun, at(9)).await.expect("put back");
    let held = claim(store, at(9)).await.expect("the first event");
    let _held = proceed(store, held, Step::Handled(EventResult::success("yes")), at(9)).await;
    assert_eq!(stands().await, Some(AccountStatus::Other("RESTING".into())));
    assert_eq!(store.account_status("other", "acct").await, Ok(None));
}

pub(super) async fn a_dead_event_is_claimed_again_only_when_an_operator_asks(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.settle(held, dead("gone"), at(1)).await.expect("settled");
    assert!(claim(store, at(100_000)).await.is_none());
    store.amend(id("1"), Amendment::Rerun, at(100_000)).await.expect("put back");
    assert!(claim(store, at(100_000)).await.is_some());
}

pub(super) async fn a_listing_is_newest_first_in_pages_and_filtered(store: &dyn EventStore) {
    for token in ["1", "2", "3", "4", "5"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let held = claim(store, at(0)).await.expect("1");
    store.settle(held, dead("gone"), at(1)).await.expect("settled");
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.list(&Filter::default(), cursor, 2).await.expect("a page");
        assert!(page.events.len() <= 2);
        seen.extend(page.events.into_iter().map(|event| event.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["5", "4", "3", "2", "1"].map(id));
    let dead = Filter { state: Some(State::Dead), ..Filter::default() };
    let page = store.list(&dead, None, 10).await.expect("a page");
    assert_eq!(page.events.iter().map(|event| event.id).collect::<Vec<_>>(), [id("1")]);
}

pub(super) async fn a_secret_is_replaced_by_whoever_knows_the_one_that_is_kept(store: &dyn EventStore) {
    let first = store.secret("key", vec![1].into()).await.expect("kept");
    let (second, third): (SecretSlice<u8>, SecretSlice<u8>) = (vec![2].into(), vec![3].into());
    let replaced =
        both(store.replace_secret("key", &first, second.clone()), store.replace_secret("key", &first, third));
    let (one, other) = replaced.await;
    assert!(one.expect("told") ^ other.expect("told"), "only one of two knows what is kept by then");
    let kept = store.secret("key", vec![9].into()).await.expect("read");
    assert_ne!(kept.expose_secret(), first.expose_secret());
    assert!(!store.replace_secret("key", &first, vec![4].into()).await.expect("told"));
    assert!(!store.replace_secret("unknown", &first, vec![4].into()).await.expect("told"));
}

pub(super) async fn a_nonce_is_used_once_however_many_use_it_at_once(store: &dyn EventStore) {
    let until = wall(600);
    let (one, other) = both(store.use_nonce([1; 16], until, wall(0)), store.use_nonce([1; 16], until, wall(0))).await;
    assert!(one.expect("told") ^ other.expect("told"));
    assert!(!store.use_nonce([1; 16], until, wall(599)).await.expect("told"));
    assert!(store.use_nonce([2; 16], until, wall(0)).await.expect("told"));
}

pub(super) async fn a_nonce_is_forgotten_once_its_time_is_over(store: &dyn EventStore) {
    assert!(store.use_nonce([1; 16], wall(10), wall(0)).await.expect("told"));
    assert!(store.use_nonce([2; 16], wall(700), wall(100)).await.expect("told"));
    assert!(store.use_nonce([1; 16], wall(10), wall(100)).await.expect("told"), "what is over is there no more");
    assert!(!store.use_nonce([2; 16], wall(700), wall(100)).await.expect("told"));
}

/// Both at once.
async fn both<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    tokio::join!(one, other)
}

/// Everything that `store` exports, in pages of `limit`.
async fn exported(store: &dyn EventStore, limit: usize) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    let mut place = Some(0);
    while let Some(from) = place {
        let page = store.export(from, limit).await.expect("the store answers");
        assert!(page.events.len() <= limit && page.unreadable.is_empty());
        events.extend(page.events);
        place = page.next;
    }
    events
}

/// Events in every state, some with bodies.
async fn history(store: &dyn EventStore, events: usize) {
    for number in 0..events {
        store.record(&notification(&number.to_string()), at(0)).await.expect("recorded");
    }
    for number in 0..events * 2 / 3 {
        let claimed = claim(store, at(1)).await.expect("an event");
        let account = format!("account-{}", number % 7);
        let Step::Fetched { facts, body } = fetched(Some(&account), format!("body {number}").as_bytes()) else {
            unreachable!("it is one")
        };
        let facts = Facts { status_on_success: Some(AccountStatus::Active), ..facts };
        let step = Step::Fetched { facts, body };
        let Advanced::Proceed(claimed) = store.advance(claimed, step, at(1)).await.expect("taken") else {
            panic!("nothing else of the account is at work")
        };
        match number % 4 {
            0 => store.settle(claimed, Settlement::Deferred, at(2)).await.expect("settled"),
            1 => store.settle(claimed, dead("broken"), at(2)).await.expect("settled"),
            _ => {
                let result = EventResult::success("well done");
                let claimed = proceed(store, claimed, Step::Handled(result), at(2)).await;
                store.settle(claimed, Settlement::Done(None), at(3)).await.expect("settled");
            }
        }
    }
}

pub(super) async fn an_export_has_every_event_once_in_the_order_of_receipt(store: &dyn EventStore) {
    assert_eq!(exported(store, 10).await, []);
    history(store, 300).await;
    for limit in [1, 7, 1000] {
        let events = exported(store, limit).await;
        let ids: Vec<_> = events.iter().map(|event| event.record.id).collect();
        assert_eq!(ids, (0..300).map(|number| id(&number.to_string())).collect::<Vec<_>>(), "in pages of {limit}");
        assert_eq!(events.iter().filter(|event| event.body.is_some()).count(), 200);
        assert_eq!(events[5].body.as_deref(), Some(b"body 5".as_slice()));
    }
}

pub(super) async fn an_import_leaves_what_an_export_had_and_can_be_done_again(store: &dyn EventStore) {
    let source = MemoryStore::new();
    history(&source, 30).await;
    let events = exported(&source, 1000).await;
    // Cut off once, and begun again.
    assert_eq!(store.import(events[..10].to_vec(), at(9)).await, Ok(10));
    assert_eq!(store.import(events.clone(), at(9)).await, Ok(20));
    assert_eq!(store.import(events.clone(), at(9)).await, Ok(0));
    assert_eq!(exported(store, 1000).await, events);
    for event in &events {
        assert_eq!(store.event(event.record.id).await, Ok(Some(event.record.clone())));
        let body = store.body(event.record.id).await.expect("read").map(|body| body.bytes);
        assert_eq!(body, event.body);
    }
    for account in 0..7 {
        let account = format!("account-{account}");
        let status = source.account_status("default", &account).await;
        assert_eq!(store.account_status("default", &account).await, status, "{account}");
    }
    let Ok(Recorded::Duplicate(known)) = store.record(&notification("2"), at(10)).await else { panic!("known") };
    assert_eq!(known.state, State::Done, "what was done is not run again");
    assert_eq!(store.record(&notification("new"), at(10)).await, Ok(Recorded::New));
    let next = claim(store, at(10)).await.expect("one that was unfinished");
    assert_eq!(next.event().id, id("20"), "the one that was recorded first");
    assert_eq!(exported(store, 1000).await.last().map(|event| event.record.id), Some(id("new")));
}

pub(super) async fn a_secret_is_kept_from_the_first_time_on(store: &dyn EventStore) {
    let first = store.secret("key", vec![1, 2, 3].into()).await.expect("kept");
    let second = store.secret("key", vec![4, 5, 6].into()).await.expect("read");
    assert_eq!(first.expose_secret(), second.expose_secret());
    assert_eq!(first.expose_secret(), [1, 2, 3]);
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    outputs
}

/// Stamps the suite out for one store: `$open` makes a fresh one and whatever must outlive it.
macro_rules! conformance {
    ($open:expr) => {
        $crate::store::conformance::conformance! { $open;
            a_new_event_is_recorded_once_and_then_known
            fifty_notifications_at_once_are_one_event
            a_watch_tells_of_every_change_that_comes_after_it_began
            a_finished_duplicate_brings_the_stored_result
            events_are_claimed_in_order_of_receipt_and_by_one_holder_each
            events_of_busy_marketplaces_are_left_alone
            finished_events_are_removed_by_their_age_in_steps_and_others_stay
            an_event_that_ends_long_after_later_ones_is_removed_like_any_other
            an_event_that_ended_while_the_clock_was_behind_is_not_old
            a_body_is_kept_as_received
            an_event_whose_holder_is_alive_is_never_handed_out_again
            an_event_whose_holder_vanished_is_handed_out_again_at_once
            a_step_that_is_refused_leaves_the_event_to_be_claimed_again
            a_wait_is_as_long_as_it_says_whatever_the_clock_on_the_wall_does
            a_failed_attempt_is_due_again_when_it_says
            of_one_account_one_event_at_a_time_runs_and_others_are_not_held_up
            an_earlier_event_of_an_account_goes_before_a_later_one_that_was_read_first
            an_event_that_is_read_early_waits_until_earlier_ones_have_been_read
            nobody_waits_for_a_body_whose_reader_has_given_way_or_failed
            a_deferred_event_is_resolved_from_outside_and_then_reported
            a_dead_event_is_claimed_again_only_when_an_operator_asks
            a_listing_is_newest_first_in_pages_and_filtered
            an_export_has_every_event_once_in_the_order_of_receipt
            an_import_leaves_what_an_export_had_and_can_be_done_again
            a_secret_is_kept_from_the_first_time_on
            a_secret_is_replaced_by_whoever_knows_the_one_that_is_kept
            a_nonce_is_used_once_however_many_use_it_at_once
            a_nonce_is_forgotten_once_its_time_is_over
            a_result_left_to_an_answer_is_reported_later_if_it_was_given_and_at_once_if_not
            an_event_whose_result_was_handed_over_holds_up_no_later_one_of_its_account
            a_body_that_nobody_could_read_is_kept_with_its_charset
            a_body_without_a_byte_is_a_body
            a_result_that_does_not_fit_is_refused_and_changes_nothing
            a_hastened_event_is_due_at_once_and_a_held_one_stays_where_it_is
            an_account_is_as_the_latest_event_that_succeeded_has_left_it
        }
    };
    ($open:expr; $($sentence:ident)+) => {
        mod conforms {
            $(#[tokio::test]
            async fn $sentence() {
                let (store, _kept) = $open;
                $crate::store::conformance::$sentence(&store).await;
            })+
        }
    };
}
pub(super) use conformance;
