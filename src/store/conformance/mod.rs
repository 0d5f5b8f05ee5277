//! The contract of [`EventStore`](super::EventStore), sentence by sentence, for every store: a file a noun.

pub(super) mod accounts;
pub(super) mod backup;
pub(super) mod history;
pub(super) mod inbox;
pub(super) mod model;
pub(super) mod order;
pub(super) mod queue;
pub(super) mod secrets;

use std::sync::Arc;
use std::time::Duration;

use super::{Advanced, Claim, Completion, EventStore, Progress};
use crate::clock::{Moment, Now, Timestamp};
use crate::event::{
    BaseUrl, Body, EventId, EventRecord, EventType, EventUrl, ExtractedFields, Failure, Notification, State,
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

pub(in crate::store) fn id(token: &str) -> EventId {
    notification(token).id()
}

pub(super) fn fetched(account: Option<&str>, body: &[u8]) -> Progress {
    let fields = ExtractedFields {
        kind: EventType::SubscriptionChange,
        flag: None,
        account: account.map(str::to_owned),
        status_on_success: None,
    };
    Progress::Fetched { fields, body: Body { bytes: body.to_vec(), charset: None } }
}

/// A failure that ends an event for good.
pub(super) fn dead(reason: &str) -> Completion {
    let failure = Failure { reason: reason.to_owned(), ..Failure::default() };
    Completion::Dead { failure, unreadable: None, may_recover: false }
}

/// A failure that lets an event wait for so many seconds.
pub(super) fn retry(seconds: u32, reason: &str) -> Completion {
    let failure = Failure { reason: reason.to_owned(), ..Failure::default() };
    Completion::Retry { wait: Duration::from_secs(seconds.into()), failure, unreadable: None }
}

/// A claim of the event that is next.
pub(in crate::store) async fn claim(store: &dyn EventStore, now: Now) -> Option<Claim> {
    store.claim(1, &[], now).await.expect("the store answers").claims.pop()
}

pub(in crate::store) async fn proceed(store: &dyn EventStore, claim: Claim, step: &Progress, now: Now) -> Claim {
    match store.advance(claim, step, now).await.expect("the step is taken") {
        Advanced::Proceed(claim) => claim,
        Advanced::Blocked => panic!("nothing else of the account is at work"),
    }
}

async fn state(store: &dyn EventStore, token: &str) -> State {
    record(store, id(token)).await.expect("the event is there").state
}

/// Both at once.
async fn both<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    tokio::join!(one, other)
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

pub(in crate::store) async fn record(store: &dyn EventStore, id: EventId) -> Option<EventRecord> {
    store.load(id, false).await.expect("the store answers").map(|event| event.record)
}

pub(in crate::store) async fn body(store: &dyn EventStore, id: EventId) -> Option<Body> {
    store.load(id, true).await.expect("the store answers").and_then(super::StoredEvent::into_body)
}

/// When to ask for work again.
pub(in crate::store) async fn idle_until(store: &dyn EventStore, saturated: &[String], now: Now) -> Option<Moment> {
    store.claim(0, saturated, now).await.expect("the store answers").idle_until
}

/// Two handles to one store of this process.
pub(in crate::store) fn both_handles(store: impl EventStore) -> model::Handles {
    let store: Arc<dyn EventStore> = Arc::new(store);
    [Arc::clone(&store), store]
}

/// Stamps the suite out for one store: `$open` makes a fresh one and whatever must outlive it, and `$restart` opens it
/// again from that, as another process would, if it can. The model runs `$cases` times.
macro_rules! conformance {
    ($cases:expr, $open:expr, $restart:expr) => {
        $crate::store::conformance::conformance! { $cases, $open, $restart;
            inbox {
                a_new_event_is_recorded_once_and_then_known
                fifty_notifications_at_once_are_one_event
                a_finished_duplicate_brings_the_stored_result
                a_deferred_event_is_resolved_from_outside_and_then_reported
                a_dead_event_is_claimed_again_only_when_an_operator_asks
                a_result_that_does_not_fit_is_refused_and_changes_nothing
                an_event_that_is_made_due_is_due_at_once_and_a_held_one_stays_where_it_is
            }
            queue {
                events_are_claimed_in_order_of_receipt_and_by_one_holder_each
                events_of_saturated_marketplaces_are_left_alone
                an_event_whose_holder_is_alive_is_never_handed_out_again
                an_event_whose_holder_vanished_is_handed_out_again_at_once
                a_step_that_is_refused_gives_the_claim_back_and_what_is_lost_again_and_again_waits
                an_event_that_is_made_due_does_not_forget_how_often_it_was_lost
                a_wait_is_as_long_as_it_says_whatever_the_clock_on_the_wall_does
                a_failed_attempt_is_due_again_when_it_says
                a_result_left_to_an_answer_is_reported_later_if_it_was_given_and_at_once_if_not
                a_body_that_nobody_could_read_is_kept_with_its_charset
                a_body_without_a_byte_is_a_body
                a_body_is_kept_as_received
                a_batch_has_those_that_have_been_due_longest_and_says_when_to_ask_again
                a_step_that_is_asked_for_again_is_taken_once
                an_event_that_is_released_is_claimed_again_and_its_last_holder_writes_nothing
                a_store_that_is_closed_takes_no_write
            }
            order {
                of_one_account_one_event_at_a_time_runs_and_others_are_not_held_up
                an_earlier_event_of_an_account_goes_before_a_later_one_that_was_read_first
                an_event_that_is_read_early_waits_until_earlier_ones_have_been_read
                nobody_waits_for_a_body_whose_reader_takes_long_or_failed
                an_event_whose_result_was_handed_over_holds_up_no_later_one_of_its_account
            }
            history {
                a_subscription_tells_of_every_change_that_comes_after_it_began
                finished_events_are_removed_by_their_age_in_steps_and_others_stay
                an_event_that_ends_long_after_later_ones_is_removed_like_any_other
                an_event_that_ended_while_the_clock_was_behind_is_not_old
                a_listing_is_newest_first_in_pages_and_filtered
                events_are_counted_by_state_whatever_becomes_of_them
            }
            accounts {
                an_account_is_as_the_latest_event_that_succeeded_has_left_it
            }
            secrets {
                a_secret_is_kept_from_the_first_time_on
                a_secret_is_replaced_by_whoever_knows_the_one_that_is_kept
                a_nonce_is_used_once_however_many_use_it_at_once
                a_nonce_is_forgotten_once_its_time_is_over
                what_is_kept_for_a_time_is_taken_once_and_not_after_it
                what_is_too_long_to_be_kept_for_a_time_is_refused
            }
            backup {
                an_export_has_every_event_once_in_the_order_of_receipt
                an_import_leaves_what_an_export_had_and_can_be_done_again
            }
        }
    };
    ($cases:expr, $open:expr, $restart:expr; $($noun:ident { $($sentence:ident)+ })+) => {
        mod conforms {
            $($(#[tokio::test]
            async fn $sentence() {
                let (store, _kept) = $open;
                $crate::store::conformance::$noun::$sentence(&store).await;
            })+)+

            #[test]
            fn claims_order_and_leases_are_as_the_model_has_them_for_two_replicas() {
                let open = || {
                    let (store, kept) = $open;
                    ($crate::store::conformance::both_handles(store), kept)
                };
                $crate::store::conformance::model::holds($cases, open, $restart);
            }
        }
    };
}
pub(super) use conformance;
