//! The contract of [`EventStore`](super::EventStore), sentence by sentence, for every store.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};

use super::memory::MemoryStore;
use super::{Advanced, Amendment, Claim, EventStore, Filter, Recorded, Settlement, Step, StoreError, StoredEvent};
use crate::clock::Timestamp;
use crate::event::{
    AccountStatus, BaseUrl, ErrorCode, EventId, EventResult, EventType, EventUrl, Facts, Notification, State,
};

pub(super) const LEASE: Duration = Duration::from_mins(1);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1000)
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
    Step::Fetched { facts, body: body.to_vec() }
}

async fn claim(store: &dyn EventStore, now: Timestamp) -> Option<Claim> {
    store.claim(LEASE, now, &[]).await.expect("the store answers")
}

async fn proceed(store: &dyn EventStore, claim: Claim, step: Step, now: Timestamp) -> Claim {
    match store.advance(claim, step, LEASE, now).await.expect("the step is taken") {
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
    assert_eq!(store.event(id("1")).await.expect("answers").expect("there").received_at, at(0));
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
    assert!(claim(store, at(0)).await.is_some());
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
        store.record(&notification(token), at(i64::try_from(second).expect("small"))).await.expect("recorded");
    }
    for token in ["1", "2", "3"] {
        assert_eq!(claim(store, at(10)).await.expect("an event").event().id, id(token));
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
    let held = store.claim(LEASE, at(2), &busy).await.expect("answers").expect("the other one");
    assert_eq!(held.event().id, elsewhere("2").id());
    assert!(store.claim(LEASE, at(2), &busy).await.expect("answers").is_none());
    assert_eq!(store.next_due(&busy).await, Ok(Some(at(2).plus(LEASE))), "the end of the lease, not the busy event");
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
            "dead" => Settlement::Dead("gone".into()),
            "deferred" => Settlement::Deferred,
            "unfinished" => Settlement::Retry { due: at(9999), error: "passing".into() },
            _ => Settlement::Done(None),
        };
        let moment = if token == "fresh" { at(50) } else { at(10) };
        store.settle(held, settlement, moment).await.expect("settled");
    }
    assert_eq!(store.prune(at(10), 10).await, Ok(0), "nothing is older than what changed then");
    assert_eq!(store.prune(at(11), 2).await, Ok(2), "the oldest, no more than asked for");
    assert_eq!(store.prune(at(11), 2).await, Ok(1));
    assert_eq!(store.prune(at(11), 2).await, Ok(0));
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
    for (token, settlement) in [
        ("late", Settlement::Retry { due: at(50), error: "passing".into() }),
        ("dead", Settlement::Dead("gone".into())),
        ("newest", Settlement::Done(None)),
    ] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, fetched(None, b"{}"), at(0)).await;
        store.settle(held, settlement, at(0)).await.expect("settled");
    }
    assert_eq!(store.prune(at(40), 10).await, Ok(0));
    let late = claim(store, at(50)).await.expect("the late one");
    store.settle(late, Settlement::Done(None), at(50)).await.expect("settled");
    assert_eq!(store.prune(at(60), 10).await, Ok(1));
    assert_eq!(store.event(id("late")).await, Ok(None));
}

pub(super) async fn a_body_is_kept_as_received(store: &dyn EventStore) {
    let body: Vec<u8> = (0..100_000_u32).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    store.record(&notification("1"), at(0)).await.expect("recorded");
    assert_eq!(store.body(id("1")).await, Ok(None));
    let claimed = claim(store, at(0)).await.expect("one event");
    let _held = proceed(store, claimed, fetched(None, &body), at(1)).await;
    assert_eq!(store.body(id("1")).await, Ok(Some(body)));
}

pub(super) async fn an_event_whose_holder_vanished_is_handed_out_again_after_its_lease(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let vanished = claim(store, at(0)).await.expect("one event");
    assert!(claim(store, at(59)).await.is_none());
    assert_eq!(store.next_due(&[]).await, Ok(Some(at(60))));
    let second = claim(store, at(60)).await.expect("the lease has ended");
    let late = store.advance(vanished, fetched(None, b"{}"), LEASE, at(61)).await;
    assert!(matches!(late, Err(StoreError::LeaseEnded)), "{late:?}");
    assert_eq!(state(store, "1").await, State::Received);
    let _held = proceed(store, second, fetched(None, b"{}"), at(62)).await;
}

pub(super) async fn a_holder_whose_lease_ended_cannot_settle(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let late = store.settle(held, Settlement::Dead("late".into()), at(60)).await;
    assert_eq!(late, Err(StoreError::LeaseEnded));
    assert_eq!(state(store, "1").await, State::Received);
}

pub(super) async fn progress_renews_the_lease(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let held = proceed(store, held, fetched(None, b"{}"), at(59)).await;
    assert!(claim(store, at(100)).await.is_none());
    store.settle(held, Settlement::Deferred, at(118)).await.expect("the lease still holds");
    assert_eq!(state(store, "1").await, State::Deferred);
}

pub(super) async fn a_failed_attempt_is_due_again_when_it_says(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    let retry = Settlement::Retry { due: at(30), error: "down".into() };
    store.settle(held, retry, at(1)).await.expect("settled");
    assert_eq!(store.next_due(&[]).await, Ok(Some(at(30))));
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
    let waiting = store.advance(second, fetched(Some("a"), b"{}"), LEASE, at(1)).await;
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
        let waiting = store.advance(earlier, fetched(Some("a"), b"{}"), LEASE, at(1)).await;
        assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    }
    let retry = Settlement::Retry { due: at(2), error: "down".into() };
    store.settle(third, retry, at(2)).await.expect("settled");
    for token in ["1", "2", "3"] {
        let next = claim(store, at(3)).await.expect("the next of the account");
        assert_eq!(next.event().id, id(token));
        assert!(claim(store, at(3)).await.is_none(), "one at a time");
        store.settle(next, Settlement::Dead("enough".into()), at(3)).await.expect("settled");
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
        let waiting = store.advance(early, fetched(Some(account), b"{}"), LEASE, at(1)).await;
        assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}: the first may be of account {account}");
    }
    assert!(claim(store, at(1)).await.is_none());
    let first = proceed(store, first, fetched(Some("a"), b"{}"), at(1)).await;
    assert_eq!(claim(store, at(1)).await.expect("of another account").event().id, id("4"));
    assert!(claim(store, at(1)).await.is_none(), "3 waits for 1, which is of its account");
    store.settle(first, Settlement::Dead("enough".into()), at(2)).await.expect("settled");
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
    let waiting = store.advance(third, step(), LEASE, at(1)).await;
    assert!(matches!(waiting, Ok(Advanced::Waiting)), "{waiting:?}");
    store.give_way(&first).await.expect("answers");
    assert!(claim(store, at(1)).await.is_none(), "the second is still being read");
    let retry = Settlement::Retry { due: at(9), error: "down".into() };
    store.settle(second, retry, at(1)).await.expect("settled");
    let third = claim(store, at(1)).await.expect("nothing is in its way");
    assert_eq!((third.event().id, third.event().state), (id("3"), State::Fetched));
    let waiting = store.advance(first, step(), LEASE, at(1)).await;
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

pub(super) async fn a_result_left_to_an_answer_is_reported_only_if_none_was_given(store: &dyn EventStore) {
    for token in ["given", "kept"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, fetched(None, b"{}"), at(0)).await;
        let early = store.amend(id(token), Amendment::Answered, at(0)).await;
        assert!(matches!(early, Err(StoreError::Illegal(_))), "{early:?}");
        let held = proceed(store, held, Step::Handled(EventResult::success(token)), at(0)).await;
        store.settle(held, Settlement::LeftToAnswer { until: at(5) }, at(1)).await.expect("settled");
        assert!(claim(store, at(4)).await.is_none());
    }
    let given = store.amend(id("given"), Amendment::Answered, at(4)).await.expect("amended");
    assert_eq!(given.state, State::Done);
    let again = store.amend(id("given"), Amendment::Answered, at(4)).await;
    assert!(matches!(again, Err(StoreError::Illegal(_))), "{again:?}");
    let held = claim(store, at(5)).await.expect("the other one");
    assert_eq!((held.event().id, held.event().state), (id("kept"), State::Handled));
    assert_eq!(store.amend(id("kept"), Amendment::Answered, at(5)).await, Err(StoreError::Held));
    store.settle(held, Settlement::Done(None), at(5)).await.expect("settled");
    assert!(claim(store, at(1000)).await.is_none());
}

pub(super) async fn a_hastened_event_is_due_at_once_and_a_held_one_stays_where_it_is(store: &dyn EventStore) {
    store.record(&notification("1"), at(0)).await.expect("recorded");
    let held = claim(store, at(0)).await.expect("one event");
    store.hasten(id("1"), at(1)).await.expect("nothing to do");
    assert!(claim(store, at(1)).await.is_none());
    let later = Settlement::Retry { due: at(1000), error: "passing".into() };
    store.settle(held, later, at(1)).await.expect("settled");
    store.hasten(id("2"), at(2)).await.expect("nothing to do");
    assert!(claim(store, at(2)).await.is_none());
    store.hasten(id("1"), at(2)).await.expect("hastened");
    let held = claim(store, at(2)).await.expect("due now");
    store.settle(held, Settlement::Dead("gone".into()), at(2)).await.expect("settled");
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
        Step::Fetched { facts, body: b"{}".to_vec() }
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
    store.settle(held, Settlement::Dead("gone".into()), at(1)).await.expect("settled");
    assert!(claim(store, at(100_000)).await.is_none());
    store.amend(id("1"), Amendment::Rerun, at(100_000)).await.expect("put back");
    assert!(claim(store, at(100_000)).await.is_some());
}

pub(super) async fn a_listing_is_newest_first_in_pages_and_filtered(store: &dyn EventStore) {
    for token in ["1", "2", "3", "4", "5"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let held = claim(store, at(0)).await.expect("1");
    store.settle(held, Settlement::Dead("gone".into()), at(1)).await.expect("settled");
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
    let until = at(600);
    let (one, other) = both(store.use_nonce([1; 16], until, at(0)), store.use_nonce([1; 16], until, at(0))).await;
    assert!(one.expect("told") ^ other.expect("told"));
    assert!(!store.use_nonce([1; 16], until, at(599)).await.expect("told"));
    assert!(store.use_nonce([2; 16], until, at(0)).await.expect("told"));
}

pub(super) async fn a_nonce_is_forgotten_once_its_time_is_over(store: &dyn EventStore) {
    assert!(store.use_nonce([1; 16], at(10), at(0)).await.expect("told"));
    assert!(store.use_nonce([2; 16], at(700), at(100)).await.expect("told"));
    assert!(store.use_nonce([1; 16], at(10), at(100)).await.expect("told"), "what is over is there no more");
    assert!(!store.use_nonce([2; 16], at(700), at(100)).await.expect("told"));
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
        let Advanced::Proceed(claimed) = store.advance(claimed, step, LEASE, at(1)).await.expect("taken") else {
            panic!("nothing else of the account is at work")
        };
        match number % 4 {
            0 => store.settle(claimed, Settlement::Deferred, at(2)).await.expect("settled"),
            1 => store.settle(claimed, Settlement::Dead("broken".into()), at(2)).await.expect("settled"),
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
    assert_eq!(store.import(events[..10].to_vec()).await, Ok(10));
    assert_eq!(store.import(events.clone()).await, Ok(20));
    assert_eq!(store.import(events.clone()).await, Ok(0));
    assert_eq!(exported(store, 1000).await, events);
    for event in &events {
        assert_eq!(store.event(event.record.id).await, Ok(Some(event.record.clone())));
        assert_eq!(store.body(event.record.id).await, Ok(event.body.clone()));
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
            a_body_is_kept_as_received
            an_event_whose_holder_vanished_is_handed_out_again_after_its_lease
            a_holder_whose_lease_ended_cannot_settle
            progress_renews_the_lease
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
            a_result_left_to_an_answer_is_reported_only_if_none_was_given
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
