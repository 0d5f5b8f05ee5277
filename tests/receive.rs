//! What the public listener takes, what it refuses, and that what it takes is recorded once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::configuration;
use crate::support::faulty_queue::{Fault, FaultyQueue};
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, json as body_of, notify, token};
use doorbell::app::StoreParts;
use doorbell::async_trait;
use doorbell::clock::{Clock, ManualClock, Now, SystemClock, Timestamp};
use doorbell::event::{BaseUrl, EventId, EventRecord, EventUrl, Failure, Notification};
use doorbell::handler::Accept;
use doorbell::store::memory::MemoryStore;
use doorbell::store::{
    Completion, Counts, EventStore, Filter, History, Inbox, OperatorAction, Page, Pruned, Recorded, Retention, Secrets,
    Sequence, StoreError, StoredEvent, Subscription,
};
use reqwest::StatusCode;
use secrecy::SecretSlice;
use serde_json::json;

async fn start() -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    (marketplace, receiver)
}

#[tokio::test]
async fn every_notification_route_records_and_answers_by_the_contract() {
    let (marketplace, receiver) = start().await;
    for (route, status) in [
        ("", 202),
        ("/create", 202),
        ("/upgrade", 202),
        ("/cancel", 202),
        ("/notify", 200),
        ("/assign", 202),
        ("/unassign", 202),
        ("/event-status", 202),
        ("/addon", 202),
        ("/user-updated", 202),
    ] {
        let url = marketplace.order(&format!("event{}", route.replace('/', "-")));
        let answer = receiver.notify(route, &url).await;
        assert_eq!(answer.status(), status, "{route}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(body_of(answer).await["success"], true, "{route}");
    }
    assert_eq!(receiver.events().await.len(), 10);
}

#[tokio::test]
async fn the_url_for_all_types_waits_for_the_body_and_tells_notices_and_pings_from_the_rest() {
    let (marketplace, receiver) = start().await;
    for (id, body, status) in [
        ("order", json!({"type": "SUBSCRIPTION_ORDER"}), 202),
        ("notice", json!({"type": "SUBSCRIPTION_NOTICE", "payload": {"notice": {"type": "CLOSED"}}}), 200),
        ("ping", json!({"type": "SUBSCRIPTION_ORDER", "flag": "STATELESS"}), 200),
    ] {
        let answer = receiver.notify("", &marketplace.event(id, &body)).await;
        assert_eq!(answer.status(), status, "{id}");
        assert_eq!(body_of(answer).await["success"], true, "{id}");
    }
}

#[tokio::test]
async fn the_url_for_all_types_waits_two_seconds_and_no_longer() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let configuration = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_with(&configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    let bearer = receiver.token().await;
    marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
    let url = marketplace.event("1", &json!({"type": "SUBSCRIPTION_NOTICE"}));
    let (client, public) = (receiver.client.clone(), receiver.public.clone());
    let answer = tokio::spawn(async move { notify(&client, &public, &bearer, "", &url).await });
    marketplace.until("it is being read", |state| state.events["1"].reads == 1).await;
    assert!(!answer.is_finished());
    clock.advance(Duration::from_secs(2));
    assert_eq!(answer.await.expect("answered").status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn who_prefers_xml_gets_answers_and_refusals_in_xml() {
    let (marketplace, receiver) = start().await;
    let bearer = receiver.token().await;
    let url = marketplace.order("1");
    let ask = async |bearer: &str, query: &str| {
        let request = receiver.client.get(format!("{}/notifications/create?{query}", receiver.public));
        let answer = request.bearer_auth(bearer).header("accept", "application/xml").send().await.expect("answers");
        assert_eq!(answer.headers()["content-type"], "application/xml");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    let (status, taken) = ask(&bearer, &format!("eventUrl={url}")).await;
    assert_eq!(
        (status, taken.as_str()),
        (202, "<result><success>true</success><message>event recorded</message></result>")
    );
    let (status, refused) = ask("nonsense", "").await;
    assert!(status == 401 && refused.contains("<errorCode>UNAUTHORIZED</errorCode>"), "{status} {refused}");
    let (status, refused) = ask(&bearer, "").await;
    assert!(status == 400 && refused.contains("<errorCode>INVALID_RESPONSE</errorCode>"), "{status} {refused}");
}

#[tokio::test]
async fn the_event_url_may_come_under_its_old_name_and_among_other_parameters() {
    let (marketplace, receiver) = start().await;
    let url = marketplace.order("1");
    let bearer = receiver.token().await;
    for query in [format!("url={url}"), format!("lang=en&eventUrl={url}&x=y")] {
        let request = receiver.client.get(format!("{}/notifications/create?{query}", receiver.public));
        let answer = request.bearer_auth(&bearer).send().await.expect("answers");
        assert!(answer.status().is_success(), "{query}");
    }
    assert_eq!(receiver.events().await.len(), 1);
}

#[tokio::test]
async fn bad_input_is_answered_with_the_fault_and_nothing_is_recorded() {
    let (marketplace, receiver) = start().await;
    let base = &marketplace.base_url;
    let port = base.rsplit(':').next().expect("a port");
    let bearer = receiver.token().await;
    let long = format!("eventUrl={base}/{}", "a".repeat(4000));
    let parameters = format!("eventUrl={base}/events/1&x={}", "a".repeat(4000));
    let cases = [
        (String::new(), "eventUrl is missing"),
        ("eventUrl=".into(), "eventUrl is missing"),
        ("EVENTURL=x".into(), "eventUrl is missing"),
        (format!("eventUrl={base}/events/1&eventUrl={base}/events/2"), "more than once"),
        ("eventUrl=%7BeventUrl%7D".into(), "is the placeholder \"{eventUrl}\""),
        ("eventUrl=events/1".into(), "not an absolute http or https URL"),
        ("eventUrl=file:///etc/passwd".into(), "not an absolute http or https URL"),
        ("eventUrl=http://evil.example/events/1".into(), "lies in no marketplace of this integration"),
        (format!("eventUrl=http://127.0.0.1:{port}@evil.example/events/1"), "names a user before its host"),
        (format!("eventUrl=http://evil.example%5C@127.0.0.1:{port}/events/1"), "'\\\\'"),
        ("eventUrl=http://127.0.0.1:1/events/1".into(), "points to http://127.0.0.1:1/events/1, which"),
        (format!("eventUrl=https://127.0.0.1:{port}/events/1"), "which lies in no marketplace"),
        (format!("eventUrl=http://localhost:{port}/events/1"), "which lies in no marketplace"),
        (format!("eventUrl=http://2130706433:{port}/events/1"), "not in normal form"),
        (format!("eventUrl={base}/events/../../secrets"), "not in normal form"),
        (format!("eventUrl={base}/events/%252e%252e/secrets"), "not in normal form"),
        (format!("eventUrl={base}/events/1%23x"), "fragment"),
        (format!("eventUrl={base}/events/1%0d%0aX:y"), "'\\r'"),
        (format!("eventUrl={base}/"), "no event id"),
        (long, "at most 2048 are accepted"),
        (parameters, "at most 2048 are kept"),
    ];
    for (query, fault) in cases {
        for route in ["", "/create"] {
            let request = receiver.client.get(format!("{}/notifications{route}?{query}", receiver.public));
            let answer = request.bearer_auth(&bearer).send().await.expect("answers");
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}");
            let body = body_of(answer).await;
            assert_eq!((&body["success"], &body["errorCode"]), (&json!(false), &json!("INVALID_RESPONSE")), "{query}");
            let message = body["message"].as_str().expect("a message");
            assert!(message.contains(fault), "{query}: {message} lacks {fault}");
        }
    }
    assert!(receiver.events().await.is_empty());
    assert!(marketplace.with(|state| state.arrived.is_empty()), "nobody was called");
}

#[tokio::test]
async fn an_over_long_request_line_is_refused_and_nothing_is_recorded() {
    let (marketplace, receiver) = start().await;
    let url = format!("{}/{}", marketplace.base_url, "a".repeat(300_000));
    let request = receiver.client.get(format!("{}/notifications/create?eventUrl={url}", receiver.public));
    // The server may close the connection while the rest is still being sent.
    if let Ok(answer) = request.bearer_auth(receiver.token().await).send().await {
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
    assert!(receiver.events().await.is_empty());
}

#[tokio::test]
async fn what_is_no_route_or_no_get_is_answered_in_json() {
    let (_marketplace, receiver) = start().await;
    let get = receiver.client.get(format!("{}/notification", receiver.public)).send().await.expect("answers");
    assert_eq!(get.status(), StatusCode::NOT_FOUND);
    assert_eq!(body_of(get).await["errorCode"], "NOT_FOUND");
    let post = receiver.client.post(format!("{}/notifications/create", receiver.public)).send().await.expect("answers");
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(body_of(post).await["errorCode"], "INVALID_OPERATION");
}

#[tokio::test]
async fn fifty_notifications_of_one_event_at_once_are_one_event_and_one_run() {
    let (marketplace, receiver) = start().await;
    let url = marketplace.order("1");
    let bearer = receiver.token().await;
    let mut notifications = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (client, public, bearer, url) =
            (receiver.client.clone(), receiver.public.clone(), bearer.clone(), url.clone());
        notifications.spawn(async move { notify(&client, &public, &bearer, "/create", &url).await.status() });
    }
    let statuses = notifications.join_all().await;
    assert!(statuses.iter().all(StatusCode::is_success), "{statuses:?}");
    marketplace.until_settled("1").await;
    receiver.until_state("done").await;
    assert_eq!(receiver.events().await.len(), 1);
    let seen = marketplace.seen("1");
    assert_eq!((seen.reads, seen.taken.len(), seen.refused), (1, 1, 0));
}

#[tokio::test]
async fn a_duplicate_of_a_finished_event_is_answered_with_its_result() {
    let (marketplace, receiver) = start().await;
    let url = marketplace.order("1");
    receiver.notify("/create", &url).await;
    receiver.until_state("done").await;
    let answer = receiver.notify("/create", &url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(body_of(answer).await, marketplace.seen("1").taken[0]);
}

#[tokio::test]
async fn a_duplicate_of_an_unfinished_event_is_answered_202() {
    let (marketplace, receiver) = start().await;
    marketplace.with(|state| state.read_twists.push_back(Twist::Hang));
    let url = marketplace.order("1");
    for _ in 0..2 {
        assert_eq!(receiver.notify("/create", &url).await.status(), StatusCode::ACCEPTED);
    }
    assert_eq!(receiver.events().await.len(), 1);
}

#[tokio::test]
async fn a_path_in_the_public_url_is_the_prefix_of_every_public_route() {
    let marketplace = Marketplace::start().await;
    let configuration = configuration(&marketplace.base_url, "memory:")
        .replace("[server]", "[server]\npublic_url = \"http://127.0.0.1:8080/in/front\"");
    let receiver = Receiver::start(&configuration, Accept).await;
    assert!(receiver.public.ends_with("/in/front"));
    let url = marketplace.order("1");
    assert_eq!(receiver.notify("/create", &url).await.status(), StatusCode::ACCEPTED);
    for (path, status) in [
        ("/in/front/health/ready", 200),
        ("/in/front/health/live", 200),
        ("/health/ready", 404),
        ("/notifications/create", 404),
    ] {
        let answer =
            receiver.client.get(format!("http://{}{path}", receiver.app.public)).send().await.expect("answers");
        assert_eq!(answer.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_token_of_one_integration_records_nothing_for_another() {
    let (ours, theirs) = (Marketplace::start().await, Marketplace::start().await);
    let second = configuration(&theirs.base_url, "memory:");
    let second = &second[second.find("[[integrations]]").expect("an integration")..];
    let second = second.replace("\"default\"", "\"second\"").replace("\"marketplace\"", "\"second-client\"");
    let receiver = Receiver::start(&format!("{}{second}", configuration(&ours.base_url, "memory:")), Accept).await;
    let answer = receiver.notify("/create", &theirs.order("1")).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(body_of(answer).await["errorCode"], "FORBIDDEN");
    assert!(receiver.events().await.is_empty());
    let bearer = token(&receiver.client, &receiver.public, "second-client", "outbound-secret").await;
    let answer = notify(&receiver.client, &receiver.public, &bearer, "/create", &theirs.order("1")).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

/// How an inbox fails.
enum InboxFault {
    /// Its medium fails at every notification.
    Medium(StoreError),
    /// It never writes a notification.
    Hangs,
    /// It changes no event, so often.
    AmendsNothing(AtomicUsize),
    /// It never changes an event.
    HangsAtAmendment,
}

/// An inbox that fails in one way, and does as another one otherwise.
struct BrokenInbox(Arc<dyn EventStore>, InboxFault);

#[async_trait]
impl Inbox for BrokenInbox {
    async fn record(&self, notification: &Notification, now: Now) -> Result<Recorded, StoreError> {
        match &self.1 {
            InboxFault::Medium(error) => Err(error.clone()),
            InboxFault::Hangs => std::future::pending().await,
            InboxFault::AmendsNothing(_) | InboxFault::HangsAtAmendment => self.0.record(notification, now).await,
        }
    }
    async fn amend(&self, id: EventId, action: OperatorAction, now: Now) -> Result<EventRecord, StoreError> {
        if let InboxFault::AmendsNothing(left) = &self.1
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            return Err(StoreError::Unavailable("the disk is full".into()));
        }
        if matches!(self.1, InboxFault::HangsAtAmendment) {
            std::future::pending::<()>().await;
        }
        self.0.amend(id, action, now).await
    }
    async fn make_due(&self, id: EventId, now: Now) -> Result<(), StoreError> {
        self.0.make_due(id, now).await
    }
    async fn ready(&self) -> Result<(), StoreError> {
        match &self.1 {
            InboxFault::Medium(error) => Err(error.clone()),
            InboxFault::Hangs | InboxFault::AmendsNothing(_) | InboxFault::HangsAtAmendment => Ok(()),
        }
    }
}

/// `store` with an inbox that fails so.
fn with_broken_inbox(store: &Arc<dyn EventStore>, fault: InboxFault) -> StoreParts {
    let inbox = Arc::new(BrokenInbox(Arc::clone(store), fault));
    StoreParts { inbox, ..Arc::clone(store).into() }
}

/// A receiver whose inbox fails so.
async fn start_with_inbox(marketplace: &Marketplace, fault: InboxFault, clock: Arc<dyn Clock>) -> Receiver {
    let store = memory();
    let parts = with_broken_inbox(&store, fault);
    Receiver::start_on(&configuration(&marketplace.base_url, "memory:"), &store, parts, Accept, clock).await
}

/// A history that never finds an event.
struct HangingHistory(Arc<dyn EventStore>);

#[async_trait]
impl History for HangingHistory {
    async fn load(&self, _: EventId, _: bool) -> Result<Option<StoredEvent>, StoreError> {
        std::future::pending().await
    }
    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        self.0.list(filter, before, limit).await
    }
    async fn counts(&self) -> Result<Counts, StoreError> {
        self.0.counts().await
    }
    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        self.0.prune(moment, now, limit).await
    }
    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        self.0.retention().await
    }
    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        self.0.note_retention(retention).await
    }
    fn subscribe(&self, id: EventId) -> Subscription {
        self.0.subscribe(id)
    }
}

/// Makes something of a store hang.
type Hang = fn(&Arc<dyn EventStore>) -> StoreParts;

/// `store` with a history that never finds an event.
fn with_hanging_history(store: &Arc<dyn EventStore>) -> StoreParts {
    let history = Arc::new(HangingHistory(Arc::clone(store)));
    StoreParts { history, ..Arc::clone(store).into() }
}

fn memory() -> Arc<dyn EventStore> {
    Arc::new(MemoryStore::new())
}

/// A store whose queue has a fault.
fn with_faulty_queue(fault: Fault) -> (Arc<dyn EventStore>, StoreParts) {
    let store = memory();
    let queue = Arc::new(FaultyQueue::new(Arc::clone(&store) as _, fault));
    let parts = StoreParts { queue, ..Arc::clone(&store).into() };
    (store, parts)
}

#[tokio::test]
async fn a_receiver_whose_delivery_has_ended_is_not_ready_and_says_so_on_both_listeners() {
    let marketplace = Marketplace::start().await;
    let configuration = configuration(&marketplace.base_url, "memory:");
    let (store, parts) = with_faulty_queue(Fault::PanicsAtClaim);
    let receiver = Receiver::start_on(&configuration, &store, parts, Accept, Arc::new(SystemClock)).await;
    for listener in [&receiver.public, &receiver.admin] {
        let not_ready = async {
            let ready = || receiver.client.get(format!("{listener}/health/ready")).send();
            while ready().await.expect("answers").status() != StatusCode::SERVICE_UNAVAILABLE {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, not_ready).await.expect("it says so");
        let live = receiver.client.get(format!("{listener}/health/live")).send().await.expect("answers");
        assert_eq!(live.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn an_event_whose_work_panics_again_and_again_is_counted_and_dead_in_the_end() {
    let marketplace = Marketplace::start().await;
    let (store, parts) = with_faulty_queue(Fault::PanicsAtAdvance);
    let text =
        configuration(&marketplace.base_url, "memory:").replace("[\"10ms\"]", "[\"1ms\"]\ngive_up_after = \"1ms\"");
    let receiver = Receiver::start_on(&text, &store, parts, Accept, Arc::new(SystemClock)).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    let dead = receiver.until_state("dead").await;
    assert!(dead["lastError"].as_str().expect("a reason").contains("ended without an outcome"), "{dead}");
    assert!(dead["attempts"].as_u64() >= Some(2), "{dead}");
}

#[tokio::test]
async fn a_store_that_does_not_write_in_time_is_answered_503() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let receiver = start_with_inbox(&marketplace, InboxFault::Hangs, clock.clone()).await;
    let url = marketplace.order("1");
    let answer = tokio::select! {
        answer = receiver.notify("/create", &url) => answer,
        () = crate::support::let_time_pass(&clock) => unreachable!("time does not end"),
    };
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
}

/// A store of the one event at `url`, which died of something that may have passed.
async fn with_a_dead_event(marketplace: &Marketplace, url: &str) -> Arc<dyn EventStore> {
    let store = memory();
    let base = BaseUrl::parse(&marketplace.base_url).expect("a base URL");
    let url = EventUrl::parse(url, [&base]).expect("an event URL");
    let now = SystemClock.read();
    store.record(&Notification::new("default".into(), url, None, String::new()), now).await.expect("recorded");
    let claim = store.claim(1, &[], now).await.expect("works").claims.pop().expect("an event");
    let dead = Completion::Dead { failure: Failure::default(), unreadable: None, may_recover: true };
    store.settle(claim, &dead, now).await.expect("written");
    store
}

#[tokio::test]
async fn a_dead_event_that_cannot_be_taken_up_again_is_answered_503_until_it_is() {
    let marketplace = Marketplace::start().await;
    let url = marketplace.order("1");
    let store = with_a_dead_event(&marketplace, &url).await;
    let parts = with_broken_inbox(&store, InboxFault::AmendsNothing(AtomicUsize::new(2)));
    let text = configuration(&marketplace.base_url, "memory:");
    let receiver = Receiver::start_on(&text, &store, parts, Accept, Arc::new(SystemClock)).await;
    for _ in 0..2 {
        let answer = receiver.notify("/create", &url).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(receiver.events().await[0]["state"], "dead");
    }
    assert_eq!(receiver.notify("/create", &url).await.status(), StatusCode::ACCEPTED);
    receiver.until_state("done").await;
}

#[tokio::test]
async fn whatever_the_store_is_asked_for_a_notification_is_answered_within_four_seconds() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:");
    let url = marketplace.order("1");
    let by_another_spelling = url.replace("/events/1", "/events/%31");
    let new = marketplace.order("2");
    let not_recorded = StatusCode::SERVICE_UNAVAILABLE;
    let at_amendment: Hang = |store| with_broken_inbox(store, InboxFault::HangsAtAmendment);
    for (hang, route, url, status) in [
        (at_amendment, "/create", &url, not_recorded),
        (with_hanging_history, "/create", &by_another_spelling, not_recorded),
        // What is durable is never denied.
        (with_hanging_history, "", &new, StatusCode::ACCEPTED),
    ] {
        let store = with_a_dead_event(&marketplace, &marketplace.order("1")).await;
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let receiver = Receiver::start_on(&text, &store, hang(&store), Accept, clock.clone()).await;
        let bearer = receiver.token().await;
        let start = clock.monotonic();
        let answer = tokio::select! {
            answer = notify(&receiver.client, &receiver.public, &bearer, route, url) => answer,
            () = crate::support::let_time_pass(&clock) => unreachable!("time does not end"),
        };
        assert_eq!(answer.status(), status, "{url}");
        assert_eq!(answer.headers().contains_key("retry-after"), status == not_recorded);
        let waited = clock.monotonic().since(start);
        assert!(waited < Duration::from_secs(8), "{waited:?} is the end of all patience, and not the store's");
    }
}

/// Secrets that are never told.
struct HangingSecrets;

#[async_trait]
impl Secrets for HangingSecrets {
    async fn get(&self, _: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
        std::future::pending().await
    }
    async fn create(&self, _: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
        Ok(fresh)
    }
    async fn replace(&self, _: &str, _: &SecretSlice<u8>, _: SecretSlice<u8>) -> Result<bool, StoreError> {
        std::future::pending().await
    }
    async fn put(&self, _: [u8; 16], _: Timestamp, _: SecretSlice<u8>, _: Timestamp) -> Result<bool, StoreError> {
        std::future::pending().await
    }
    async fn take(&self, _: [u8; 16], _: Timestamp, _: Timestamp) -> Result<Option<SecretSlice<u8>>, StoreError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn whatever_a_request_waits_for_it_is_answered() {
    use crate::support::signature::{Request, SECRET};
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let text = configuration(&marketplace.base_url, "memory:")
        .replace(
            "kind = \"oauth2\"\n        client_id = \"marketplace\"",
            "kind = \"oauth1\"\n        client_id = \"legacy\"",
        )
        .replace("outbound-secret", SECRET);
    // The store never says whether the nonce was used before.
    let store = memory();
    let parts = StoreParts { secrets: Arc::new(HangingSecrets), ..Arc::clone(&store).into() };
    let receiver = Receiver::start_on(&text, &store, parts, Accept, clock.clone()).await;
    let url = marketplace.order("1");
    let origin = "http://127.0.0.1:8080";
    let signed = Request::new(origin, "/notifications/create", &url, clock.now().as_seconds());
    let encoded: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    let notification = receiver
        .client
        .get(format!("{}/notifications/create?eventUrl={encoded}", receiver.public))
        .header("authorization", signed.header())
        .send();
    let answer = tokio::select! {
        answer = notification => answer.expect("answers"),
        () = crate::support::let_time_pass(&clock) => unreachable!("time does not end"),
    };
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn what_cannot_be_made_durable_is_answered_503_and_never_2xx() {
    let marketplace = Marketplace::start().await;
    for fault in [StoreError::Unavailable("disk 7 of array secret-array is full".into()), StoreError::Overloaded] {
        let receiver = start_with_inbox(&marketplace, InboxFault::Medium(fault), Arc::new(SystemClock)).await;
        let answer = receiver.notify("/create", &marketplace.order("1")).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
        let body = body_of(answer).await;
        assert_eq!(body["errorCode"], "TRANSPORT_ERROR");
        assert!(!body["message"].as_str().expect("a message").contains("secret-array"), "inner causes stay inside");
        let ready = receiver.client.get(format!("{}/health/ready", receiver.public)).send().await.expect("answers");
        assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
