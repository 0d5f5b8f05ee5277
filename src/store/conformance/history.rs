//! What is shown, watched and removed.

use std::time::Duration;

use super::{at, body, claim, dead, fetched, id, notification, proceed, record, retry, state, wall};
use crate::clock::{Now, Timestamp};
use crate::event::State;
use crate::store::{Completion, Counts, EventStore, Filter, OperatorAction, Recorded, Retention};

pub(in crate::store) async fn a_subscription_tells_of_every_change_that_comes_after_it_began(store: &dyn EventStore) {
    let mut early = store.subscribe(id("1"));
    for token in ["1", "2"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let claimed = claim(store, at(0)).await.expect("one event");
    assert_eq!(claimed.event().id, id("1"));
    let mut subscription = store.subscribe(id("1"));
    let mut other = store.subscribe(id("2"));
    let claimed = proceed(store, claimed, &fetched(None, b"{}"), at(1)).await;
    early.changed().await;
    subscription.changed().await;
    assert_eq!(state(store, "1").await, State::Fetched);
    store.settle(claimed, &Completion::Done(None), at(2)).await.expect("settled");
    subscription.changed().await;
    assert_eq!(state(store, "1").await, State::Done);
    store.amend(id("1"), OperatorAction::Rerun, at(3)).await.expect("amended");
    subscription.changed().await;
    assert_eq!(state(store, "1").await, State::Fetched);
    let changed = tokio::time::timeout(Duration::ZERO, other.changed()).await;
    assert!(changed.is_err(), "the other event has not changed");
}

/// Removes all that is old, in steps.
async fn pruned(store: &dyn EventStore, moment: Timestamp, now: Timestamp, limit: usize) -> usize {
    let mut removed = 0;
    loop {
        let step = store.prune(moment, now, limit).await.expect("pruned");
        assert!(step.removed <= limit);
        removed += step.removed;
        if step.is_through {
            return removed;
        }
    }
}

pub(in crate::store) async fn finished_events_are_removed_by_their_age_in_steps_and_others_stay(
    store: &dyn EventStore,
) {
    let tokens = ["dead", "1", "2", "deferred", "3", "fresh", "unfinished", "newest"];
    for (second, token) in (0..).zip(tokens) {
        store.record(&notification(token), at(second)).await.expect("recorded");
    }
    for token in tokens {
        let Some(held) = claim(store, at(10)).await else { break };
        let held = proceed(store, held, &fetched(None, b"{}"), at(10)).await;
        assert_eq!(held.event().id, id(token));
        let completion = match token {
            "dead" => dead("gone"),
            "deferred" => Completion::Deferred,
            "unfinished" => retry(9999, "transient"),
            _ => Completion::Done(None),
        };
        let moment = if token == "fresh" { at(50) } else { at(10) };
        store.settle(held, &completion, moment).await.expect("settled");
    }
    assert_eq!(pruned(store, wall(10), wall(100), 10).await, 0, "nothing is older than what changed then");
    assert!(pruned(store, wall(11), wall(100), 2).await >= 3, "in steps");
    assert_eq!(pruned(store, wall(11), wall(100), 2).await, 0);
    for token in ["1", "2", "3"] {
        assert_eq!((record(store, id(token)).await, body(store, id(token)).await), (None, None), "{token}");
    }
    let page = store.list(&Filter::default(), None, 10).await.expect("a page");
    let kept = page.events.iter().map(|event| event.id).filter(|kept| *kept != id("newest"));
    assert_eq!(kept.collect::<Vec<_>>(), ["unfinished", "fresh", "deferred", "dead"].map(id));
    assert!(body(store, id("fresh")).await.is_some());
    assert_eq!(store.record(&notification("1"), at(200)).await, Ok(Recorded::New), "it is not known any more");
    store.amend(id("dead"), OperatorAction::Rerun, at(200)).await.expect("it waits for an operator");
}

pub(in crate::store) async fn an_event_that_ends_long_after_later_ones_is_removed_like_any_other(
    store: &dyn EventStore,
) {
    for (token, completion) in
        [("late", retry(50, "transient")), ("dead", dead("gone")), ("newest", Completion::Done(None))]
    {
        store.record(&notification(token), at(0)).await.expect("recorded");
        let held = claim(store, at(0)).await.expect("one event");
        let held = proceed(store, held, &fetched(None, b"{}"), at(0)).await;
        store.settle(held, &completion, at(0)).await.expect("settled");
    }
    assert_eq!(pruned(store, wall(40), wall(100), 10).await, 0);
    let late = claim(store, at(50)).await.expect("the late one");
    store.settle(late, &Completion::Done(None), at(50)).await.expect("settled");
    assert!(pruned(store, wall(60), wall(100), 10).await >= 1);
    assert_eq!(record(store, id("late")).await, None);
}

pub(in crate::store) async fn an_event_that_ended_while_the_clock_was_behind_is_not_old(store: &dyn EventStore) {
    for _ in 0..2 {
        store.note_retention(Retention::at(wall(100_000))).await.expect("noted");
    }
    let behind = Now { wall: wall(5), ..at(100_000) };
    for token in ["1", "newest"] {
        store.record(&notification(token), behind).await.expect("recorded");
        let held = claim(store, behind).await.expect("one event");
        let held = proceed(store, held, &fetched(None, b"{}"), behind).await;
        store.settle(held, &Completion::Done(None), behind).await.expect("settled");
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

pub(in crate::store) async fn a_listing_is_newest_first_in_pages_and_filtered(store: &dyn EventStore) {
    for token in ["1", "2", "3", "4", "5"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    let held = claim(store, at(0)).await.expect("1");
    store.settle(held, &dead("gone"), at(1)).await.expect("settled");
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

pub(in crate::store) async fn events_are_counted_by_state_whatever_becomes_of_them(store: &dyn EventStore) {
    let none = Counts::default();
    for number in 0..600 {
        store.record(&notification(&number.to_string()), at(0)).await.expect("recorded");
    }
    assert_eq!(store.counts().await, Ok(Counts { received: 600, ..none }));
    for completion in [Completion::Done(None), Completion::Deferred, dead("gone"), retry(9, "down")] {
        let held = claim(store, at(1)).await.expect("an event");
        let held = proceed(store, held, &fetched(None, b"{}"), at(1)).await;
        store.settle(held, &completion, at(1)).await.expect("settled");
    }
    let counts = Counts { received: 596, fetched: 1, done: 1, deferred: 1, dead: 1, ..none };
    assert_eq!(store.counts().await, Ok(counts));
    store.amend(id("2"), OperatorAction::Rerun, at(2)).await.expect("put back");
    assert_eq!(store.record(&notification("1"), at(2)).await.map(drop), Ok(()));
    assert_eq!(store.counts().await, Ok(Counts { fetched: 2, dead: 0, ..counts }));
    assert_eq!(pruned(store, wall(100), wall(200), 10).await, 1);
    assert_eq!(store.counts().await, Ok(Counts { fetched: 2, dead: 0, done: 0, ..counts }));
}
