//! When the answer to a notification is the result itself, and when it is reported instead.

use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::event::AccountIdentifier;
use doorbell::handler::{Accept, NewAccount, SubscriptionCancel, SubscriptionOrder};
use doorbell::store::memory::MemoryStore;
use doorbell::{EventHandler, HandlerResult, Outcome, async_trait, retry};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, json as body_of, notify};

/// Runs each order when the test lets it.
struct Gated(Arc<Semaphore>);

#[async_trait]
impl EventHandler for Gated {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        self.0.acquire().await.map_err(retry)?.forget();
        Ok(Outcome::account(AccountIdentifier::new(format!("account of {}", event.context.event_id))?, "welcome"))
    }

    async fn subscription_cancel(&self, _: SubscriptionCancel) -> HandlerResult {
        Ok(Outcome::completed("gone"))
    }
}

fn answering(marketplace: &Marketplace, answer: &str) -> String {
    configuration(&marketplace.base_url, "memory:")
        .replace("name = \"default\"", &format!("name = \"default\"\nanswer = {answer}"))
}

async fn start(answer: &str) -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&answering(&marketplace, answer), Accept).await;
    (marketplace, receiver)
}

/// Answers with results, by a clock and a gate of the test's.
async fn start_gated() -> (Marketplace, Receiver, Arc<ManualClock>, Arc<Semaphore>) {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let gate = Arc::new(Semaphore::new(0));
    let receiver = Receiver::start_with(
        &answering(&marketplace, "\"sync\""),
        Arc::new(MemoryStore::new()),
        Gated(Arc::clone(&gate)),
        clock.clone(),
    )
    .await;
    (marketplace, receiver, clock, gate)
}

/// A notification on its way, while the test does something else.
async fn notifying(receiver: &Receiver, route: &'static str, url: &str) -> JoinHandle<Response> {
    let (client, public, bearer) = (receiver.client.clone(), receiver.public.clone(), receiver.token().await);
    let url = url.to_owned();
    tokio::spawn(async move { notify(&client, &public, &bearer, route, &url).await })
}

async fn show(receiver: &Receiver, id: &Value) -> Value {
    let url = format!("{}/api/v1/events/{}", receiver.admin, id.as_str().expect("an id"));
    body_of(receiver.client.get(url).send().await.expect("answers")).await
}

fn cancel_of(account: &str) -> Value {
    json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": {"accountIdentifier": account}}})
}

fn status_of(account: &str) -> Value {
    json!({"type": "SUBSCRIPTION_STATUS", "payload": {"account": {"accountIdentifier": account}}})
}

#[tokio::test]
async fn a_result_given_in_the_answer_is_reported_all_the_same_unless_the_marketplace_has_it() {
    for (answer, route, has_it) in [("\"sync\"", "/create", true), ("{ SUBSCRIPTION_ORDER = \"sync\" }", "", false)] {
        let marketplace = Marketplace::start().await;
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let store = Arc::new(MemoryStore::new());
        let receiver = Receiver::start_with(&answering(&marketplace, answer), store, Accept, clock.clone()).await;
        let answer = receiver.notify(route, &marketplace.order("1")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let given = body_of(answer).await;
        assert!(given["success"] == true && given["accountIdentifier"].is_string(), "{given}");
        // That an answer was sent does not say that anybody had it: a proxy in between may have swallowed it.
        if has_it {
            marketplace.with(|state| state.events.get_mut("1").expect("there").taken.push(given.clone()));
        }
        until_handed_over(&receiver).await;
        clock.advance(Duration::from_secs(9));
        assert_eq!(receiver.events().await[0]["state"], "handled");
        assert_eq!(marketplace.with(|state| state.arrived.get("result").copied()), None, "not before ten seconds");
        clock.advance(Duration::from_secs(21));
        let event = receiver.until_state("done").await;
        assert_eq!((&event["result"], &event["lastError"]), (&given, &Value::Null));
        let seen = marketplace.seen("1");
        assert_eq!((seen.taken, seen.refused), (vec![given], usize::from(has_it)));
    }
}

#[tokio::test]
async fn only_the_types_that_are_named_are_answered_with_their_result() {
    let (marketplace, receiver) = start("{ SUBSCRIPTION_CANCEL = \"sync\" }").await;
    let order = receiver.notify("/create", &marketplace.order("1")).await;
    assert_eq!(order.status(), StatusCode::ACCEPTED);
    marketplace.until_settled("1").await;
    // The body wins over the route, and its type is not one that is waited for.
    let mistaken = receiver.notify("/cancel", &marketplace.order("2")).await;
    assert_eq!(mistaken.status(), StatusCode::ACCEPTED);
    marketplace.until_settled("2").await;
    let cancel = receiver.notify("/cancel", &marketplace.event("3", &cancel_of("a"))).await;
    assert_eq!(cancel.status(), StatusCode::OK);
    assert_eq!(body_of(cancel).await["success"], true);
}

#[tokio::test]
async fn a_result_that_is_not_known_within_four_seconds_is_answered_202_and_reported() {
    let (marketplace, receiver, clock, gate) = start_gated().await;
    let answer = notifying(&receiver, "/create", &marketplace.order("1")).await;
    receiver.until_state("fetched").await;
    assert!(!answer.is_finished());
    clock.advance(Duration::from_secs(4));
    assert_eq!(answer.await.expect("answered").status(), StatusCode::ACCEPTED);
    clock.advance(Duration::from_secs(1));
    gate.add_permits(1);
    marketplace.until_settled("1").await;
}

#[tokio::test]
async fn a_result_whose_caller_hung_up_before_it_was_known_is_reported() {
    let (marketplace, receiver, clock, gate) = start_gated().await;
    let mut caller = TcpStream::connect(receiver.app.public).await.expect("connects");
    let (url, bearer) = (marketplace.order("1"), receiver.token().await);
    let request = format!(
        "GET /notifications/create?eventUrl={url} HTTP/1.1\r\nHost: doorbell\r\nAuthorization: Bearer {bearer}\r\n\r\n"
    );
    caller.write_all(request.as_bytes()).await.expect("sent");
    receiver.until_state("fetched").await;
    caller.shutdown().await.expect("hung up");
    gate.add_permits(1);
    let mut answer = Vec::new();
    caller.read_to_end(&mut answer).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "it may only have said all it has to say");
    let event = receiver.until_state("handled").await;
    until_handed_over(&receiver).await;
    clock.advance(Duration::from_secs(30));
    marketplace.until_settled("1").await;
    let done = receiver.until_state("done").await;
    assert_eq!((done["id"].clone(), marketplace.seen("1").taken.len()), (event["id"].clone(), 1));
}

#[tokio::test]
async fn of_many_callers_that_wait_for_one_event_each_is_given_the_result() {
    let (marketplace, receiver) = start("\"sync\"").await;
    let url = marketplace.order("1");
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(notifying(&receiver, "/create", &url).await);
    }
    let mut given = Vec::new();
    for answer in answers {
        let answer = answer.await.expect("answered");
        assert_eq!(answer.status(), StatusCode::OK);
        given.push(body_of(answer).await);
    }
    given.dedup();
    assert_eq!(given.len(), 1);
    // Whoever came after the first answer had the result reported at once.
    receiver.notify("/create", &url).await;
    receiver.until_state("done").await;
    assert_eq!((marketplace.seen("1").taken, marketplace.seen("1").refused), (given, 0));
}

#[tokio::test]
async fn a_duplicate_of_an_event_whose_result_is_not_confirmed_is_given_it_and_has_it_reported_at_once() {
    let marketplace = Marketplace::start().await;
    let configuration =
        configuration(&marketplace.base_url, "memory:").replace("retry = [\"10ms\"]", "retry = [\"10h\"]");
    let receiver = Receiver::start(&configuration, Accept).await;
    marketplace.with(|state| state.result_twists.push_back(Twist::RetryAfter(503, "3600".into())));
    let url = marketplace.order("1");
    assert_eq!(receiver.notify("/create", &url).await.status(), StatusCode::ACCEPTED);
    until_failed(&receiver, 1).await;
    let answer = receiver.notify("/create", &url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let given = body_of(answer).await;
    marketplace.until_settled("1").await;
    assert_eq!(marketplace.seen("1").taken, [given]);
}

#[tokio::test]
async fn a_duplicate_of_an_event_that_died_on_the_way_back_is_given_the_result_and_has_it_reported() {
    let marketplace = Marketplace::start().await;
    let configuration =
        configuration(&marketplace.base_url, "memory:").replace("[delivery]", "[delivery]\ngive_up_after = \"1ms\"");
    let receiver = Receiver::start(&configuration, Accept).await;
    marketplace.with(|state| state.result_twists.extend(vec![Twist::RetryAfter(503, "1".into()); 2]));
    let url = marketplace.order("1");
    receiver.notify("/create", &url).await;
    receiver.until_state("dead").await;
    let answer = receiver.notify("/create", &url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let given = body_of(answer).await;
    marketplace.until_settled("1").await;
    assert_eq!(marketplace.seen("1").taken, [given]);
}

/// Waits until the receiver has noted that a result was handed over.
async fn until_handed_over(receiver: &Receiver) {
    let noted = async {
        loop {
            let event = receiver.events().await[0].clone();
            let shown = show(receiver, &event["id"]).await;
            if shown["timeline"].as_array().expect("steps").iter().any(|step| step["step"] == "answered") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, noted).await.expect("it is noted");
}

async fn until_failed(receiver: &Receiver, attempts: u64) {
    let failed = async {
        while receiver.events().await[0]["attempts"] != attempts || receiver.events().await[0]["lastError"].is_null() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, failed).await.expect("it fails");
}

#[tokio::test]
async fn how_a_subscription_stands_is_answered_from_the_events_so_far() {
    let (marketplace, receiver) = start("\"async\"").await;
    receiver.notify("/create", &marketplace.order("order")).await;
    marketplace.until_settled("order").await;
    let account = marketplace.seen("order").taken[0]["accountIdentifier"].as_str().expect("an account").to_owned();
    let notice = |kind: &str| {
        json!({"type": "SUBSCRIPTION_NOTICE",
               "payload": {"account": {"accountIdentifier": account}, "notice": {"type": kind}}})
    };
    let steps = [
        ("", None, "ACTIVE"),
        ("/notify", Some(notice("DEACTIVATED")), "SUSPENDED"),
        ("/notify", Some(notice("REACTIVATED")), "ACTIVE"),
        ("/cancel", Some(cancel_of(&account)), "CANCELLED"),
    ];
    for (number, (route, event, status)) in steps.into_iter().enumerate() {
        if let Some(event) = event {
            receiver.notify(route, &marketplace.event(&format!("step {number}").replace(' ', "-"), &event)).await;
        }
        for (route, id) in [("/event-status", "typed"), ("", "shared")] {
            // Events of one account run in order, so the step before has been taken by then.
            let answer =
                receiver.notify(route, &marketplace.event(&format!("{id}-{number}"), &status_of(&account))).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(body_of(answer).await, json!({"success": true, "message": status}), "{id} {number}");
        }
    }
    let unknown = receiver.notify("/event-status", &marketplace.event("nobody", &status_of("nobody"))).await;
    assert_eq!(unknown.status(), StatusCode::OK);
    let unknown = body_of(unknown).await;
    assert!(unknown["success"] == false && unknown["errorCode"] == "ACCOUNT_NOT_FOUND", "{unknown}");
}

#[tokio::test]
async fn a_status_url_that_is_given_a_known_event_answers_from_its_record() {
    let marketplace = Marketplace::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start(&configuration, Gated(Arc::clone(&gate))).await;
    let url = marketplace.order("1");
    receiver.notify("/create", &url).await;
    receiver.until_state("fetched").await;
    assert_eq!(receiver.notify("/event-status", &url).await.status(), StatusCode::ACCEPTED);
    gate.add_permits(1);
    receiver.until_state("done").await;
    let answer = receiver.notify("/event-status", &url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(body_of(answer).await, marketplace.seen("1").taken[0]);
    assert_eq!(receiver.events().await.len(), 1);
}

#[tokio::test]
async fn the_timeline_tells_every_attempt_and_that_the_route_was_mistaken() {
    let (marketplace, receiver) = start("\"async\"").await;
    marketplace.with(|state| state.read_twists.push_back(Twist::Answer(500)));
    receiver.notify("/cancel", &marketplace.order("1")).await;
    let event = receiver.until_state("done").await;
    let shown = show(&receiver, &event["id"]).await;
    let steps: Vec<_> = shown["timeline"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|step| (step["step"].as_str().expect("a name"), step["note"].as_str().unwrap_or_default()))
        .collect();
    let [first, failed, fetched, ("handled", ""), ("done", "")] = steps[..] else { panic!("{steps:?}") };
    assert_eq!(first, ("received", "announced as SUBSCRIPTION_CANCEL"));
    assert!(failed.0 == "failed" && failed.1.contains("500"), "{failed:?}");
    let mistaken = "announced as SUBSCRIPTION_CANCEL; by its body it is SUBSCRIPTION_ORDER, which counts";
    assert_eq!(fetched, ("fetched", mistaken));
}

/// Tries to answer an order without naming the account.
struct Nameless;

#[async_trait]
impl EventHandler for Nameless {
    async fn subscription_order(&self, _: SubscriptionOrder) -> HandlerResult<NewAccount> {
        Ok(Outcome::account(AccountIdentifier::new("")?, "welcome"))
    }
}

#[tokio::test]
async fn an_order_without_an_account_identifier_is_dead_at_once_with_that_reason() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Nameless).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = receiver.until_state("dead").await;
    let reason = event["lastError"].as_str().expect("a reason");
    assert!(reason.contains("an account identifier must not be empty"), "{reason}");
    assert_eq!(event["attempts"], 1);
}
