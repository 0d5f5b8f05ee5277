//! What becomes of a recorded event: read, handled once, reported until it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorbell::async_trait;
use doorbell::clock::{Clock, ManualClock, SystemClock, Timestamp};
use doorbell::event::{AccountIdentifier, ErrorCode};
use doorbell::handler::{
    Accept, AddonOrder, NewAccount, SubscriptionCancel, SubscriptionNotice, SubscriptionOrder, UserAssignment,
};
use doorbell::store::memory::MemoryStore;
use doorbell::{EventHandler, HandlerError, HandlerResult, Outcome, retry};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, notify};

/// Counts its runs, and does something else in the first of them.
#[derive(Clone, Default)]
struct Counting {
    runs: Arc<AtomicUsize>,
    first: First,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum First {
    #[default]
    Succeeds,
    AsksForARetry,
    Panics,
    NeverEnds,
    Rejects,
    Defers,
}

impl Counting {
    fn first(first: First) -> Self {
        Self { first, ..Self::default() }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl EventHandler for Counting {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        let is_first = self.runs.fetch_add(1, Ordering::SeqCst) == 0;
        match self.first {
            First::AsksForARetry if is_first => return Err(retry("the database is down")),
            First::Panics if is_first => panic!("a bug"),
            First::NeverEnds if is_first => std::future::pending().await,
            First::Rejects => return Ok(Outcome::rejected(ErrorCode::MaxUsersReached, "sold out")),
            First::Defers => return Ok(Outcome::Deferred),
            _ => {}
        }
        let account = AccountIdentifier::new(format!("account of {}", event.context.event_id)).map_err(retry)?;
        Ok(Outcome::account(account, "welcome"))
    }
}

async fn start(handler: impl EventHandler) -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), handler).await;
    (marketplace, receiver)
}

#[tokio::test]
async fn an_order_is_read_handled_once_and_reported_once() {
    let handler = Counting::default();
    let (marketplace, receiver) = start(handler.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = receiver.until_state("done").await;
    let seen = marketplace.seen("1");
    assert_eq!((seen.reads, seen.taken.len(), seen.refused, handler.runs()), (1, 1, 0, 1));
    let account = format!("account of {}", event["id"].as_str().expect("an id"));
    assert_eq!(seen.taken[0], json!({"success": true, "message": "welcome", "accountIdentifier": account}));
}

#[tokio::test]
async fn a_rejection_is_reported_with_its_code() {
    let (marketplace, receiver) = start(Counting::first(First::Rejects)).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    receiver.until_state("done").await;
    let expected = json!({"success": false, "errorCode": "MAX_USERS_REACHED", "message": "sold out"});
    assert_eq!(marketplace.seen("1").taken, [expected]);
}

#[tokio::test]
async fn a_handler_that_asks_for_it_panics_or_hangs_is_run_again() {
    for first in [First::AsksForARetry, First::Panics, First::NeverEnds] {
        let handler = Counting::first(first);
        let marketplace = Marketplace::start().await;
        let configuration = configuration(&marketplace.base_url, "memory:")
            .replace("[delivery]", "[handler]\ntimeout = \"200ms\"\n[delivery]");
        let receiver = Receiver::start(&configuration, handler.clone()).await;
        receiver.notify("/create", &marketplace.order("1")).await;
        let event = receiver.until_state("done").await;
        assert_eq!((handler.runs(), &event["attempts"]), (2, &json!(2)));
        assert_eq!(marketplace.seen("1").taken.len(), 1);
    }
}

#[tokio::test]
async fn what_a_vendor_does_not_implement_is_answered_configuration_error() {
    let (marketplace, receiver) = start(Counting::default()).await;
    let url = marketplace
        .event("1", &json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": {"accountIdentifier": "a"}}}));
    receiver.notify("/cancel", &url).await;
    receiver.until_state("done").await;
    let result = &marketplace.seen("1").taken[0];
    assert_eq!(result["errorCode"], "CONFIGURATION_ERROR");
    assert!(result["message"].as_str().expect("a message").contains("SUBSCRIPTION_CANCEL"));
}

#[tokio::test]
async fn a_result_is_stored_before_it_is_reported_and_the_handler_does_not_run_again_for_it() {
    let handler = Counting::default();
    let (marketplace, receiver) = start(handler.clone()).await;
    marketplace.with(|state| state.result_twists.extend([Twist::Answer(500), Twist::Answer(503), Twist::Hang]));
    receiver.notify("/create", &marketplace.order("1")).await;
    marketplace.until("the third report has arrived", |state| state.arrived.get("result") == Some(&3)).await;
    let event = receiver.until_state("handled").await;
    assert_eq!(event["result"]["success"], true);
    assert_eq!((handler.runs(), marketplace.seen("1").taken.len()), (1, 0));
}

#[tokio::test]
async fn a_result_whose_answer_was_lost_counts_once() {
    let handler = Counting::default();
    let (marketplace, receiver) = start(handler.clone()).await;
    marketplace.with(|state| state.result_twists.push_back(Twist::TakeAndAnswer(500)));
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = receiver.until_state("done").await;
    let seen = marketplace.seen("1");
    assert_eq!((handler.runs(), seen.taken.len(), seen.refused), (1, 1, 1));
    assert!(event["lastError"].as_str().expect("a note").contains("settled the event already"));
}

#[tokio::test]
async fn a_marketplace_that_was_down_for_hours_is_tried_until_it_is_back() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:").replace("\"10ms\"", "\"1h\"");
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, Counting::default(), clock.clone()).await;
    marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(502); 5]));
    receiver.notify("/create", &marketplace.order("1")).await;
    for failures in 1..=5_usize {
        marketplace.until("the next attempt has arrived", |state| state.events["1"].reads == failures).await;
        until_attempts(&receiver, failures).await;
        clock.advance(Duration::from_hours(1));
    }
    receiver.until_state("done").await;
    assert_eq!(marketplace.seen("1").taken.len(), 1);
}

#[tokio::test]
async fn an_event_that_fails_beyond_all_patience_is_dead_and_an_operator_can_have_it_run_again() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration =
        configuration(&marketplace.base_url, "memory:").replace("[\"10ms\"]", "[\"1m\"]\ngive_up_after = \"1m\"");
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, Counting::default(), clock.clone()).await;
    // The clock stands still, so the second attempt waits for the test.
    marketplace.with(|state| state.read_twists.extend([Twist::RetryAfter(500, "60".into()), Twist::Answer(500)]));
    receiver.notify("/create", &marketplace.order("1")).await;
    until_attempts(&receiver, 1).await;
    clock.advance(Duration::from_mins(1));
    let event = receiver.until_state("dead").await;
    let reason = event["lastError"].as_str().expect("a reason");
    assert!(reason.contains("given up after 1m") && reason.contains("500"), "{reason}");
    let retry = format!("{}/api/v1/events/{}/retry", receiver.admin, event["id"].as_str().expect("an id"));
    let answer = receiver.client.post(&retry).send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    receiver.until_state("done").await;
}

async fn until_attempts(receiver: &Receiver, attempts: usize) {
    while receiver.events().await[0]["attempts"] != json!(attempts) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_body_that_is_no_event_is_read_again() {
    let (marketplace, receiver) = start(Counting::default()).await;
    let url = marketplace.raw_event("1", b"<html>try later</html>");
    receiver.notify("/create", &url).await;
    marketplace.until("it was read", |state| state.events["1"].reads >= 1).await;
    let order = json!({"type": "SUBSCRIPTION_ORDER"}).to_string();
    marketplace.with(|state| state.events.get_mut("1").expect("there").body = order.into_bytes());
    receiver.until_state("done").await;
}

#[tokio::test]
async fn a_deferred_event_is_reported_when_the_product_has_answered() {
    let handler = Counting::first(First::Defers);
    let (marketplace, receiver) = start(handler.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = receiver.until_state("deferred").await;
    assert!(marketplace.seen("1").taken.is_empty());
    let result_url = format!("{}/api/v1/events/{}/result", receiver.admin, event["id"].as_str().expect("an id"));
    let post = |body: Value| {
        receiver.client.post(&result_url).header("content-type", "application/json").body(body.to_string()).send()
    };
    let anonymous = post(json!({"success": true})).await.expect("answers");
    assert_eq!(anonymous.status(), StatusCode::BAD_REQUEST, "an order must carry its account");
    assert_eq!(anonymous.headers()["content-type"], "application/problem+json");
    let taken = post(json!({"success": true, "accountIdentifier": "late"})).await.expect("answers");
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
    receiver.until_state("done").await;
    assert_eq!(marketplace.seen("1").taken[0]["accountIdentifier"], "late");
    assert_eq!(handler.runs(), 1);
    let again = post(json!({"success": true, "accountIdentifier": "later"})).await.expect("answers");
    assert_eq!(again.status(), StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_ping_reaches_no_handler_and_no_result_is_reported_for_it() {
    let handler = Counting::default();
    let (marketplace, receiver) = start(handler.clone()).await;
    let url = marketplace.event("1", &json!({"type": "SUBSCRIPTION_ORDER", "flag": "STATELESS"}));
    receiver.notify("/create", &url).await;
    let event = receiver.until_state("done").await;
    assert_eq!((&event["flag"], &event["result"]), (&json!("STATELESS"), &Value::Null));
    assert_eq!(handler.runs(), 0);
    assert!(!marketplace.with(|state| state.arrived.contains_key("result")));
}

/// Notes which of its methods ran.
#[derive(Clone, Default)]
struct Noting(Arc<std::sync::Mutex<Vec<&'static str>>>);

impl Noting {
    fn note(&self, method: &'static str) {
        self.0.lock().expect("unpoisoned").push(method);
    }
}

#[async_trait]
impl EventHandler for Noting {
    async fn subscription_notice(&self, _: SubscriptionNotice) -> Result<(), HandlerError> {
        self.note("subscription_notice");
        Ok(())
    }

    async fn subscription_cancel(&self, _: SubscriptionCancel) -> HandlerResult {
        self.note("subscription_cancel");
        Ok(Outcome::completed("bye"))
    }

    async fn addon_order(&self, _: AddonOrder) -> HandlerResult<NewAccount> {
        self.note("addon_order");
        let account = AccountIdentifier::new("addon").map_err(retry)?;
        Ok(Outcome::account(account, ""))
    }

    async fn user_assignment(&self, event: UserAssignment) -> HandlerResult<doorbell::handler::AssignedUser> {
        self.note("user_assignment");
        Ok(Outcome::assigned(event.user.email, ""))
    }
}

#[tokio::test]
async fn the_body_decides_which_method_runs_whatever_the_route_said() {
    let account = json!({"accountIdentifier": "a"});
    for (route, body, method) in [
        (
            "/notify",
            json!({"type": "SUBSCRIPTION_NOTICE", "payload": {"account": account, "notice": {"type": "CLOSED"}}}),
            "subscription_notice",
        ),
        ("/create", json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": account}}), "subscription_cancel"),
        ("", json!({"type": "USER_ASSIGNMENT", "payload": {"user": {"email": "a@example.org"}}}), "user_assignment"),
        (
            "/create",
            json!({"type": "SUBSCRIPTION_ORDER", "payload": {"account": {"parentAccountIdentifier": "a"}}}),
            "addon_order",
        ),
    ] {
        let handler = Noting::default();
        let (marketplace, receiver) = start(handler.clone()).await;
        receiver.notify(route, &marketplace.event("1", &body)).await;
        receiver.until_state("done").await;
        assert_eq!(*handler.0.lock().expect("unpoisoned"), [method], "{body}");
        let has_result = usize::from(method != "subscription_notice");
        assert_eq!(marketplace.seen("1").taken.len(), has_result, "{body}");
    }
}

/// Two events of one account: the customer is warned, and then cancels.
fn warned_and_cancelled(marketplace: &Marketplace) -> [String; 2] {
    let payload = json!({"account": {"accountIdentifier": "a"}, "notice": {"type": "UPCOMING_INVOICE"}});
    [("1", "SUBSCRIPTION_NOTICE"), ("2", "SUBSCRIPTION_CANCEL")]
        .map(|(id, kind)| marketplace.event(id, &json!({"type": kind, "payload": payload})))
}

#[tokio::test]
async fn events_of_an_account_run_in_order_of_receipt_whichever_body_comes_first() {
    let handler = Noting::default();
    let (marketplace, receiver) = start(handler.clone()).await;
    let gate = Arc::new(Semaphore::new(0));
    marketplace.with(|state| state.read_twists.push_back(Twist::GiveLate(Arc::clone(&gate))));
    let [warned, cancelled] = warned_and_cancelled(&marketplace);
    receiver.notify("/notify", &warned).await;
    marketplace.until("the first is being read", |state| state.events["1"].reads == 1).await;
    receiver.notify("/cancel", &cancelled).await;
    receiver.until_state("fetched").await;
    gate.add_permits(1);
    marketplace.until_settled("2").await;
    assert_eq!(*handler.0.lock().expect("unpoisoned"), ["subscription_notice", "subscription_cancel"]);
}

#[tokio::test]
async fn an_event_that_is_hard_to_read_holds_others_up_for_two_seconds_only() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let handler = Noting::default();
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, handler.clone(), clock.clone()).await;
    marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
    let [warned, cancelled] = warned_and_cancelled(&marketplace);
    receiver.notify("/notify", &warned).await;
    marketplace.until("the first is being read", |state| state.events["1"].reads == 1).await;
    receiver.notify("/cancel", &cancelled).await;
    receiver.until_state("fetched").await;
    assert!(handler.0.lock().expect("unpoisoned").is_empty());
    clock.advance(Duration::from_secs(2));
    marketplace.until_settled("2").await;
}

#[tokio::test]
async fn events_that_wait_for_an_earlier_one_to_be_read_leave_their_hands_to_others() {
    let marketplace = Marketplace::start().await;
    let configuration = configuration(&marketplace.base_url, "memory:")
        .replace("[delivery]", "[delivery]\nconcurrency = 3\nconcurrency_per_marketplace = 2");
    // By this clock no reading takes long, so none gives way.
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let store = Arc::new(MemoryStore::new());
    let receiver = Receiver::start_with(&configuration, store, Noting::default(), clock).await;
    let gate = Arc::new(Semaphore::new(0));
    marketplace.with(|state| state.read_twists.push_back(Twist::GiveLate(Arc::clone(&gate))));
    for number in 0..10 {
        let body =
            json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": {"accountIdentifier": format!("{number}")}}});
        receiver.notify("/cancel", &marketplace.event(&number.to_string(), &body)).await;
    }
    marketplace.until("all are read", |state| state.events.values().all(|event| event.reads == 1)).await;
    gate.add_permits(1);
    for number in 0..10 {
        marketplace.until_settled(&number.to_string()).await;
    }
}

#[tokio::test]
async fn a_hundred_events_at_once_take_one_inbound_token() {
    let (marketplace, receiver) = start(Accept).await;
    let bearer = receiver.token().await;
    let mut notifications = tokio::task::JoinSet::new();
    for number in 0..100 {
        let url = marketplace.order(&number.to_string());
        let (client, public, bearer) = (receiver.client.clone(), receiver.public.clone(), bearer.clone());
        notifications.spawn(async move { notify(&client, &public, &bearer, "/create", &url).await.status() });
    }
    assert!(notifications.join_all().await.iter().all(StatusCode::is_success));
    marketplace.until("all are settled", |state| state.events.values().all(|event| event.taken.len() == 1)).await;
    assert_eq!(marketplace.with(|state| state.token_requests), 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_after_it_is_refused() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_with(&configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    marketplace.until_settled("1").await;
    clock.advance(Duration::from_secs(43_199 - 30));
    receiver.notify("/create", &marketplace.order("2")).await;
    marketplace.until_settled("2").await;
    marketplace.until("half a minute before its end", |state| state.token_requests == 2).await;
    marketplace.with(|state| state.valid_tokens.retain(|token| token != "token-1"));
    receiver.notify("/create", &marketplace.order("3")).await;
    marketplace.until_settled("3").await;
    marketplace.with(|state| state.valid_tokens.clear());
    receiver.notify("/create", &marketplace.order("4")).await;
    marketplace.until_settled("4").await;
    assert_eq!(marketplace.with(|state| state.token_requests), 3, "one for the start, one at its end, one refused");
    assert!(receiver.events().await.iter().all(|event| event["attempts"] == 1), "a refused token is no failed attempt");
}

#[tokio::test]
async fn no_redirect_is_followed_and_no_token_leaves_for_another_host() {
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let bait = format!("http://{}/events/1", trap.local_addr().expect("an address"));
    let (marketplace, receiver) = start(Accept).await;
    marketplace.with(|state| {
        state.token_twists.push_back(Twist::Redirect(bait.clone()));
        state.read_twists.push_back(Twist::Redirect(bait.clone()));
        state.result_twists.push_back(Twist::Redirect(bait.clone()));
    });
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = receiver.until_state("done").await;
    // Another may have failed while the token endpoint was left alone.
    assert!(event["attempts"].as_u64() >= Some(4), "each of three redirects was a failed attempt: {event}");
    let sprung = tokio::select! {
        biased;
        connection = trap.accept() => Some(connection),
        () = std::future::ready(()) => None,
    };
    assert!(sprung.is_none(), "somebody called the trap");
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let marketplace = Marketplace::start().await;
    // Sunday, 6 November 1994, 08:39:37 GMT.
    let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(784_111_177_000)));
    // What it asks for is honoured up to the longest step.
    let configuration = configuration(&marketplace.base_url, "memory:")
        .replace("[\"10ms\"]", "[\"1ms\", \"1ms\", \"1ms\", \"1ms\", \"1h\"]");
    let receiver = Receiver::start_with(&configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    let bearer = receiver.token().await;
    let (client, public) = (&receiver.client, &receiver.public);
    let waits =
        [("600", 10), ("Sun, 06 Nov 1994 08:59:37 GMT", 10), ("Sunday, 06-Nov-94 09:29:37 GMT", 30), ("86400", 60)];
    marketplace.with(|state| state.read_twists.extend(waits.map(|(wait, _)| Twist::RetryAfter(429, wait.into()))));
    notify(client, public, &bearer, "/create", &marketplace.order("1")).await;
    for (attempt, (wait, minutes)) in (1..).zip(waits) {
        until_attempts(&receiver, attempt).await;
        assert_eq!(receiver.idle_until().await, Some(clock.monotonic().plus(Duration::from_mins(minutes))), "{wait}");
        clock.advance(Duration::from_mins(minutes));
    }
    receiver.until_state("done").await;
}

#[tokio::test]
async fn a_marketplace_that_stalls_leaves_hands_for_the_others() {
    let (stalled, other) = (Marketplace::start().await, Marketplace::start().await);
    let second = configuration(&other.base_url, "memory:");
    let second = &second[second.find("[[integrations.marketplaces]]").expect("a marketplace")..];
    let configuration = format!("{}{second}", configuration(&stalled.base_url, "memory:"))
        .replace("[delivery]", "[delivery]\nconcurrency = 4\nconcurrency_per_marketplace = 3");
    let receiver = Receiver::start(&configuration, Counting::default()).await;
    stalled.with(|state| state.read_twists.extend(vec![Twist::Hang; 20]));
    for number in 0..20 {
        receiver.notify("/create", &stalled.order(&number.to_string())).await;
    }
    stalled.until("all the hands it may have are taken", |state| state.arrived.get("read") == Some(&3)).await;
    for number in 0..5 {
        let id = number.to_string();
        receiver.notify("/create", &other.order(&id)).await;
        other.until_settled(&id).await;
    }
    assert_eq!(stalled.with(|state| state.arrived["read"]), 3);
}
