//! Days on which clocks are set, ingresses answer for nobody, processes end and marketplaces ring again: no event is run
//! twice, told to nobody, given up for nothing or left alone for ever.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::event::AccountIdentifier;
use doorbell::handler::{Accept, NewAccount, SubscriptionCancel, SubscriptionOrder};
use doorbell::store::EventStore;
use doorbell::store::memory::MemoryStore;
use doorbell::store::sled::SledStore;
use doorbell::{EventHandler, Handler, HandlerResult, Outcome, async_trait, retry};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::PATIENCE;
use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, json as body_of};

const HOUR: Duration = Duration::from_hours(1);

/// Counts its runs by event, and fails as often as it is told to.
#[derive(Clone, Default)]
struct Failing {
    runs: Arc<AtomicUsize>,
    failures: Arc<Mutex<HashMap<String, usize>>>,
    gate: Option<Arc<Semaphore>>,
}

impl Failing {
    fn times(account: &str, times: usize) -> Self {
        Self { failures: Arc::new(Mutex::new(HashMap::from([(account.to_owned(), times)]))), ..Self::default() }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    async fn run(&self, account: &str) -> Result<(), doorbell::HandlerError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.map_err(retry)?.forget();
        }
        let mut failures = self.failures.lock().expect("unpoisoned");
        let Some(left) = failures.get_mut(account).filter(|left| **left > 0) else { return Ok(()) };
        *left -= 1;
        Err(retry("the database is down"))
    }
}

#[async_trait]
impl EventHandler for Failing {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        self.run("order").await?;
        Ok(Outcome::account(AccountIdentifier::new(format!("account of {}", event.context.event_id))?, "welcome"))
    }

    async fn subscription_cancel(&self, event: SubscriptionCancel) -> HandlerResult {
        self.run(event.account.account_identifier.as_deref().unwrap_or_default()).await?;
        Ok(Outcome::completed("gone"))
    }
}

/// A receiver in simulated time.
struct Scene {
    marketplace: Marketplace,
    receiver: Receiver,
    clock: Arc<ManualClock>,
}

impl Scene {
    async fn start(delivery: &str, handler: impl Handler) -> Self {
        let marketplace = Marketplace::start().await;
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let store = Arc::new(MemoryStore::new());
        let receiver = start(&marketplace, delivery, store, handler, &clock).await;
        Self { marketplace, receiver, clock }
    }

    async fn event(&self) -> Value {
        let id = self.receiver.events().await[0]["id"].as_str().expect("an id").to_owned();
        let shown = self.receiver.client.get(format!("{}/api/v1/events/{id}", self.receiver.admin));
        body_of(shown.send().await.expect("answers")).await
    }

    /// Waits until the one event there is satisfies `condition`; no time passes.
    async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                let event = self.event().await;
                if condition(&event) {
                    return event;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(event) => event,
            Err(_) => panic!("waited in vain until {what}: {}", self.event().await),
        }
    }

    /// Lets time pass from one attempt to the next until the one event there is has reached this state.
    async fn until_state_in_time(&self, state: &str) -> Value {
        pass_time(&self.receiver, &self.clock, async || self.event().await["state"] == state).await;
        self.event().await
    }
}

/// Lets time pass, from one moment at which something is due to the next, until `condition`.
async fn pass_time(receiver: &Receiver, clock: &ManualClock, condition: impl AsyncFn() -> bool) {
    let passing = async {
        while !condition().await {
            let now = clock.monotonic();
            match receiver.idle_until().await {
                Some(due) if due > now => clock.advance(due.since(now)),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, passing).await.is_ok();
    assert!(in_time, "time passed in vain: {:?}", receiver.events().await);
}

async fn start(
    marketplace: &Marketplace,
    delivery: &str,
    store: Arc<dyn EventStore>,
    handler: impl Handler,
    clock: &Arc<ManualClock>,
) -> Receiver {
    let configuration = configuration(&marketplace.base_url, "memory:").replace("retry = [\"10ms\"]", delivery);
    Receiver::start_with(&configuration, store, handler, clock.clone()).await
}

fn cancel(marketplace: &Marketplace, id: &str, account: &str) -> String {
    let payload = json!({"account": {"accountIdentifier": account}});
    marketplace.event(id, &json!({"type": "SUBSCRIPTION_CANCEL", "payload": payload}))
}

// Clocks

#[tokio::test]
async fn a_clock_that_is_set_forward_runs_no_handler_twice() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = Failing { gate: Some(Arc::clone(&gate)), ..Failing::default() };
    let scene = Scene::start("retry = [\"1s\"]", handler.clone()).await;
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    scene.receiver.until_state("fetched").await;
    for days in [1, 400, 4000] {
        scene.clock.set(scene.clock.now().plus(HOUR * 24 * days));
        // Whatever would be handed out now is handed out before this is answered.
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    }
    gate.add_permits(9);
    scene.receiver.until_state("done").await;
    assert_eq!((handler.runs(), scene.marketplace.seen("1").taken.len()), (1, 1));
}

#[tokio::test]
async fn a_clock_that_is_set_back_stops_no_event_and_no_account() {
    let scene = Scene::start("retry = [\"1m\"]", Failing::default()).await;
    scene.marketplace.with(|state| state.read_twists.push_back(Twist::RetryAfter(503, "60".into())));
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    scene.until("it failed", |event| event["attempts"] == 1).await;
    scene.clock.set(doorbell::clock::Timestamp::from_millis(scene.clock.now().as_millis() - 3_600_000));
    scene.clock.advance(Duration::from_mins(1));
    scene.receiver.until_state("done").await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_between_two_processes_makes_no_event_wait_longer_than_it_was_to_wait() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Arc::new(SledStore::open(directory.path(), false, clock.read()).expect("opens"));
    let receiver = start(&marketplace, "retry = [\"1m\"]", open(), Failing::default(), &clock).await;
    marketplace.with(|state| state.read_twists.push_back(Twist::RetryAfter(503, "60".into())));
    receiver.notify("/create", &marketplace.order("1")).await;
    marketplace.until("it was read", |state| state.events["1"].reads == 1).await;
    while receiver.events().await[0]["lastError"].is_null() {
        tokio::task::yield_now().await;
    }
    receiver.app.stop().await;
    drop(receiver.store);
    clock.set(doorbell::clock::Timestamp::from_millis(clock.now().as_millis() - 3_600_000));
    let receiver = start(&marketplace, "retry = [\"1m\"]", open(), Failing::default(), &clock).await;
    clock.advance(Duration::from_secs(59));
    assert_eq!(marketplace.seen("1").reads, 1);
    clock.advance(Duration::from_secs(1));
    receiver.until_state("done").await;
}

#[tokio::test]
async fn a_call_that_takes_hours_is_not_made_again_meanwhile() {
    let scene = Scene::start("retry = [\"1s\"]\n[egress]\ntotal_timeout = \"1h\"\nread_timeout = \"1h\"", Accept).await;
    let gate = Arc::new(Semaphore::new(0));
    scene.marketplace.with(|state| state.read_twists.push_back(Twist::GiveLate(Arc::clone(&gate))));
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    scene.marketplace.until("it is being read", |state| state.events["1"].reads == 1).await;
    for _ in 0..9 {
        scene.clock.advance(HOUR);
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    }
    gate.add_permits(1);
    let event = scene.receiver.until_state("done").await;
    assert_eq!((scene.marketplace.with(|state| state.arrived["read"]), &event["attempts"]), (1, &json!(1)));
}

// Patience

#[tokio::test]
async fn a_downtime_uses_up_no_patience() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let store = Arc::new(MemoryStore::new());
    let delivery = "retry = [\"1s\"]\ngive_up_after = \"24h\"";
    let receiver = start(&marketplace, delivery, store.clone(), Accept, &clock).await;
    marketplace.with(|state| state.out_of_service = true);
    for number in 0..20 {
        receiver.notify("/create", &marketplace.order(&number.to_string())).await;
    }
    receiver.app.stop().await;
    clock.advance(HOUR * 48);
    marketplace.with(|state| {
        state.out_of_service = false;
        state.read_twists.extend(vec![Twist::Answer(503); 20]);
    });
    let receiver = start(&marketplace, delivery, store, Accept, &clock).await;
    pass_time(&receiver, &clock, async || {
        let events = receiver.events().await;
        assert!(events.iter().all(|event| event["state"] != "dead"), "{events:?}");
        events.iter().all(|event| event["state"] == "done")
    })
    .await;
}

#[tokio::test]
async fn waiting_behind_another_event_of_the_account_uses_up_no_patience() {
    let handler = Failing::default();
    handler.failures.lock().expect("unpoisoned").insert("a".to_owned(), 1000);
    let scene = Scene::start("retry = [\"10s\"]\ngive_up_after = \"1m\"", handler.clone()).await;
    for id in ["1", "2"] {
        scene.receiver.notify("/cancel", &cancel(&scene.marketplace, id, "a")).await;
    }
    let some = async |state: &str| scene.receiver.events().await.iter().any(|event| event["state"] == state);
    pass_time(&scene.receiver, &scene.clock, async || some("dead").await).await;
    // One failure more, of the second: its first.
    handler.failures.lock().expect("unpoisoned").insert("a".to_owned(), 1);
    pass_time(&scene.receiver, &scene.clock, async || some("done").await).await;
}

#[tokio::test]
async fn no_event_dies_at_its_first_try_however_little_patience_there_is() {
    let scene = Scene::start("retry = [\"1s\"]\ngive_up_after = \"1ms\"", Failing::times("order", 1)).await;
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    scene.until("it failed once", |event| event["lastError"].is_string()).await;
    assert_eq!(scene.event().await["state"], "fetched");
    scene.clock.advance(Duration::from_secs(1));
    scene.receiver.until_state("done").await;
}

// 404 and 410

#[tokio::test]
async fn one_404_or_410_is_not_believed() {
    for status in [404, 410] {
        let scene = Scene::start("retry = [\"10s\"]", Accept).await;
        scene.marketplace.with(|state| state.read_twists.extend([Twist::Answer(status), Twist::Answer(status)]));
        scene.marketplace.with(|state| state.result_twists.push_back(Twist::Answer(404)));
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
        let event = scene.until_state_in_time("done").await;
        assert_eq!((scene.marketplace.seen("1").taken.len(), &event["lastError"]), (1, &Value::Null), "{status}");
    }
}

#[tokio::test]
async fn an_event_that_the_marketplace_does_not_know_for_a_minute_is_dead() {
    for (status, patience, least) in [(404, "24h", 60), (410, "24h", 60), (404, "20s", 20)] {
        let scene = Scene::start(&format!("retry = [\"10s\"]\ngive_up_after = \"{patience}\""), Accept).await;
        scene.marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(status); 1000]));
        let start = scene.clock.now();
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
        let event = scene.until_state_in_time("dead").await;
        let reason = event["lastError"].as_str().expect("a reason");
        assert!(reason.contains("no such event") && reason.contains(&status.to_string()), "{reason}");
        assert!(event["attempts"].as_u64().expect("a number") >= 3, "{event}");
        assert!(scene.clock.now().since(start) >= Duration::from_secs(least), "{status} {patience}");
    }
}

#[tokio::test]
async fn a_result_that_was_settled_already_is_done_and_one_that_nobody_confirms_says_so() {
    for (status, confirmed) in [(409, true), (410, true), (404, false)] {
        let scene = Scene::start("retry = [\"10s\"]", Accept).await;
        scene.marketplace.with(|state| state.result_twists.extend(vec![Twist::Answer(status); 1000]));
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
        let event = scene.until_state_in_time("done").await;
        let note = event["lastError"].as_str().expect("a note");
        assert_eq!(note.contains("not confirmed"), !confirmed, "{note}");
        assert_eq!(note.contains("settled the event already"), confirmed, "{note}");
        let reports = scene.marketplace.with(|state| state.arrived["result"]);
        assert!(if confirmed { reports == 1 } else { reports >= 3 }, "{status}: {reports}");
    }
}

// Ringing again

#[tokio::test]
async fn a_notification_that_is_repeated_brings_a_waiting_event_forward_whatever_its_state() {
    for (state, reads, handler, results) in [
        ("received", vec![Twist::RetryAfter(503, "3600".into())], Failing::default(), vec![]),
        ("fetched", vec![], Failing::times("order", 1), vec![]),
        ("handled", vec![], Failing::default(), vec![Twist::RetryAfter(503, "3600".into())]),
    ] {
        let scene = Scene::start("retry = [\"1h\"]", handler).await;
        scene.marketplace.with(|state| {
            state.read_twists.extend(reads);
            state.result_twists.extend(results);
        });
        let url = scene.marketplace.order("1");
        scene.receiver.notify("/create", &url).await;
        scene.until("it failed", |event| event["state"] == state && event["lastError"].is_string()).await;
        scene.receiver.notify("/create", &url).await;
        scene.receiver.until_state("done").await;
    }
}

#[tokio::test]
async fn a_notification_that_is_repeated_takes_up_an_event_that_died_of_something_that_may_have_passed() {
    for (handler, reads, results) in [
        (Failing::default(), vec![Twist::Answer(503); 1000], vec![]),
        (Failing::default(), vec![Twist::Answer(404); 1000], vec![]),
        (Failing::times("order", 1000), vec![], vec![]),
        (Failing::default(), vec![], vec![Twist::Answer(503); 1000]),
    ] {
        let shown = format!("{reads:?} {results:?}");
        let scene = Scene::start("retry = [\"1ms\"]\ngive_up_after = \"1ms\"", handler.clone()).await;
        scene.marketplace.with(|state| {
            state.read_twists.extend(reads);
            state.result_twists.extend(results);
        });
        let url = scene.marketplace.order("1");
        scene.receiver.notify("/create", &url).await;
        scene.until_state_in_time("dead").await;
        // The cause is gone.
        scene.marketplace.with(|state| (state.read_twists.clear(), state.result_twists.clear()));
        handler.failures.lock().expect("unpoisoned").clear();
        scene.receiver.notify("/create", &url).await;
        scene.until_state_in_time("done").await;
        assert_eq!(scene.marketplace.seen("1").taken.len(), 1, "{shown}");
    }
}

/// Makes no valid result, ever.
struct Nameless(Arc<AtomicUsize>);

#[async_trait]
impl EventHandler for Nameless {
    async fn subscription_order(&self, _: SubscriptionOrder) -> HandlerResult<NewAccount> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Outcome::account(AccountIdentifier::new("a".repeat(300_000))?, "welcome"))
    }
}

#[tokio::test]
async fn an_event_that_died_for_good_is_not_run_again_by_a_repeated_notification() {
    let runs = Arc::new(AtomicUsize::new(0));
    let scene = Scene::start("retry = [\"1ms\"]", Nameless(Arc::clone(&runs))).await;
    let url = scene.marketplace.order("1");
    scene.receiver.notify("/create", &url).await;
    let dead = scene.until("it died", |event| event["state"] == "dead").await;
    assert!(dead["lastError"].as_str().expect("a reason").contains("300000 bytes is too long"), "{dead}");
    for _ in 0..5 {
        let answer = scene.receiver.notify("/create", &url).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert!(body_of(answer).await["message"].as_str().expect("words").contains("operator"));
    }
    assert_eq!((scene.event().await["state"].as_str(), runs.load(Ordering::SeqCst)), (Some("dead"), 1));
}

// What a record can hold

#[tokio::test]
async fn a_long_type_or_flag_is_cut_and_a_long_account_identifier_makes_the_event_dead_by_name() {
    let long = "L".repeat(300_000);
    let account = |account: &str| json!({"account": {"accountIdentifier": account}});
    for (body, state) in [
        (json!({"type": long, "payload": account("a")}), "done"),
        (json!({"type": "SUBSCRIPTION_CANCEL", "flag": long, "payload": account("a")}), "done"),
        (
            json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": {"accountIdentifier": "a", "status": long}}}),
            "done",
        ),
        (json!({"type": "SUBSCRIPTION_CANCEL", "payload": account(&long)}), "dead"),
    ] {
        let scene = Scene::start("retry = [\"1ms\"]", Accept).await;
        scene.receiver.notify("", &scene.marketplace.event("1", &body)).await;
        let event = scene.until(state, |event| event["state"] == state).await;
        for field in ["type", "flag", "account", "lastError"] {
            assert!(event[field].as_str().is_none_or(|text| text.len() <= 300), "{field}");
        }
        if state == "dead" {
            let reason = event["lastError"].as_str().expect("a reason");
            assert!(reason.contains("account") && reason.contains("300000 bytes"), "{reason}");
        }
        assert_eq!(event["body"].as_str().expect("the body is kept").len(), body.to_string().len());
    }
}

// Bodies that nobody can read

#[tokio::test]
async fn a_body_that_nobody_can_read_is_kept_and_shown_and_believed_when_it_stays_the_same() {
    for (body, shown, encoding) in
        [(b"try later".to_vec(), "try later", "text"), (vec![0xff, 0xfe, 0, 1, 2, 3], "//4AAQID", "base64")]
    {
        let scene = Scene::start("retry = [\"5s\"]", Accept).await;
        scene.receiver.notify("/create", &scene.marketplace.raw_event("1", &body)).await;
        let waiting = scene.until("it was read", |event| event["attempts"] == 1).await;
        assert_eq!((&waiting["body"], &waiting["bodyEncoding"]), (&json!(shown), &json!(encoding)), "at once");
        let start = scene.clock.now();
        let event = scene.until_state_in_time("dead").await;
        assert!(scene.clock.now().since(start) >= Duration::from_secs(10), "not within ten seconds");
        assert!((3..30).contains(&event["attempts"].as_u64().expect("a number")), "{event}");
        assert_eq!((&event["body"], &event["bodyEncoding"]), (&json!(shown), &json!(encoding)));
        // Somebody mends it there, and rings again.
        let order = json!({"type": "SUBSCRIPTION_ORDER"}).to_string();
        scene.marketplace.with(|state| state.events.get_mut("1").expect("there").body = order.clone().into_bytes());
        let url = format!("{}/api/integration/v1/events/1", scene.marketplace.base_url);
        scene.receiver.notify("/create", &url).await;
        let event = scene.until_state_in_time("done").await;
        assert_eq!(event["body"], json!(order));
    }
}

#[tokio::test]
async fn bodies_that_nobody_can_read_and_that_differ_are_not_believed() {
    let scene = Scene::start("retry = [\"30s\"]", Accept).await;
    scene.marketplace.with(|state| {
        let page = |number| format!("<html>try later, request {number}</html>").into_bytes();
        state.read_twists.extend((0..9).map(|number| Twist::Say(200, vec![], page(number))));
    });
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    // As often as the pages differ, and then once more.
    let event = scene.until_state_in_time("done").await;
    assert_eq!(event["attempts"], 10);
}

#[tokio::test]
async fn an_answer_that_is_packed_wrongly_or_too_large_is_kept_like_any_body_that_nobody_can_read() {
    for (headers, bytes) in [
        (vec![("Content-Encoding", "gzip")], b"{\"type\":\"SUBSCRIPTION_ORDER\"}".to_vec()),
        (vec![("Content-Encoding", "br")], b"\x0b\x02\x80".to_vec()),
        (vec![], vec![b' '; (1 << 20) + 1]),
    ] {
        let scene = Scene::start("retry = [\"5s\"]", Accept).await;
        scene.marketplace.with(|state| {
            let answer = Twist::Say(200, headers.clone(), bytes.clone());
            state.read_twists.extend(std::iter::repeat_n(answer, 1000));
        });
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
        let event = scene.until_state_in_time("dead").await;
        assert!(event["attempts"].as_u64() < Some(30), "{}", event["lastError"]);
        assert!(event["body"].as_str().is_some_and(|body| !body.is_empty()), "{headers:?}: it is kept");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_believed_though_it_differs_each_time() {
    let scene = Scene::start("retry = [\"5s\"]", Accept).await;
    scene.marketplace.with(|state| {
        let page = |number: usize| [number.to_string().into_bytes(), vec![b' '; 3 << 20]].concat();
        state.read_twists.extend((0..40).map(|number| Twist::Say(200, vec![], page(number))));
    });
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    let event = scene.until_state_in_time("dead").await;
    assert!(event["attempts"].as_u64() < Some(30), "{}", event["lastError"]);
    assert_eq!(event["body"].as_str().map(str::len), Some(1 << 20), "as much of it is kept as is read");
}

#[tokio::test]
async fn a_page_for_people_is_waited_out_for_a_minute() {
    for (content_type, page) in [
        ("text/html; charset=UTF-8", "Down for maintenance"),
        ("application/json", "\n<!doctype HTML><html>Down for maintenance</html>"),
        ("application/json", "<HTML>Down for maintenance</HTML>"),
    ] {
        let scene = Scene::start("retry = [\"5s\"]", Accept).await;
        let url = scene.marketplace.event_with("1", &[("Content-Type", content_type)], page.as_bytes());
        scene.receiver.notify("/create", &url).await;
        scene.until("it was read", |event| event["attempts"] == 1).await;
        let start = scene.clock.now();
        let event = scene.until_state_in_time("dead").await;
        assert!(scene.clock.now().since(start) >= Duration::from_mins(1), "{page}: {}", event["lastError"]);
        assert_eq!(event["body"], json!(page));
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_called_that_and_kept() {
    for status in [200, 204] {
        let scene = Scene::start("retry = [\"5s\"]", Accept).await;
        scene.marketplace.with(|state| {
            state.read_twists.extend(std::iter::repeat_n(Twist::Answer(status), 1000));
        });
        scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
        let event = scene.until_state_in_time("dead").await;
        let reason = event["lastError"].as_str().expect("a reason");
        assert!(reason.contains(&format!("answered {status}")) && reason.contains("without a body"), "{reason}");
        assert_eq!((&event["body"], &event["bodyEncoding"]), (&json!(""), &json!("text")));
    }
}

#[tokio::test]
async fn a_result_is_left_to_its_answer_once_whatever_the_clock_says() {
    let marketplace = Marketplace::start().await;
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let text = configuration(&marketplace.base_url, "memory:")
        .replace("name = \"default\"", "name = \"default\"\nanswer = \"sync\"");
    let receiver = Receiver::start_with(&text, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    let gate = Arc::new(Semaphore::new(0));
    marketplace.with(|state| state.read_twists.push_back(Twist::GiveLate(Arc::clone(&gate))));
    let url = marketplace.order("1");
    let answer = tokio::select! {
        answer = receiver.notify("/create", &url) => answer,
        () = crate::support::let_time_pass(&clock) => unreachable!("time does not end"),
    };
    assert_eq!(answer.status(), StatusCode::ACCEPTED, "nobody waits any more");
    clock.set(doorbell::clock::Timestamp::from_millis(clock.now().as_millis() - 3_600_000));
    gate.add_permits(1);
    receiver.until_state("handled").await;
    clock.advance(Duration::from_secs(5));
    marketplace.until_settled("1").await;
}

// What operators say

#[tokio::test]
async fn an_event_that_died_before_it_was_read_is_resolved_with_an_account_or_not_at_all_if_somebody_waits_for_it() {
    // It may be an order by any route: what counts is its body, which nobody has read. Who rang at that of notices has had
    // the answer, and waits for no result.
    for (route, is_answered) in [("/create", false), ("", false), ("/assign", false), ("/notify", true)] {
        let scene = Scene::start("retry = [\"1ms\"]\ngive_up_after = \"1ms\"", Accept).await;
        scene.marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(503); 1000]));
        let url = scene.marketplace.order("1");
        let notifying = scene.receiver.notify(route, &url);
        let (answer, event) = tokio::join!(notifying, scene.until_dead_in_time());
        assert!(answer.status().is_success());
        let result_url =
            format!("{}/api/v1/events/{}/result", scene.receiver.admin, event["id"].as_str().expect("an id"));
        let post = |body: Value| {
            let request = scene.receiver.client.post(&result_url).header("content-type", "application/json");
            request.body(body.to_string()).send()
        };
        let unseen = post(json!({"success": true, "accountIdentifier": "\u{200b}"})).await.expect("answers");
        assert_eq!(unseen.status(), StatusCode::BAD_REQUEST, "{route}");
        if is_answered {
            continue;
        }
        let nameless = post(json!({"success": true})).await.expect("answers");
        assert_eq!(nameless.status(), StatusCode::BAD_REQUEST, "{route}");
        let problem = body_of(nameless).await;
        assert!(problem["detail"].as_str().expect("words").contains("accountIdentifier"), "{problem}");
        scene.marketplace.with(|state| state.read_twists.clear());
        let named = post(json!({"success": true, "accountIdentifier": "acct"})).await.expect("answers");
        assert_eq!(named.status(), StatusCode::ACCEPTED);
        scene.receiver.until_state("done").await;
        assert_eq!(scene.marketplace.seen("1").taken, [json!({"success": true, "accountIdentifier": "acct"})]);
    }
}

impl Scene {
    async fn until_dead_in_time(&self) -> Value {
        while self.receiver.events().await.is_empty() {
            tokio::task::yield_now().await;
        }
        self.until_state_in_time("dead").await
    }
}

impl Scene {
    /// Gives an event this result as an operator.
    async fn resolve(&self, event: &Value, result: &Value) -> reqwest::Response {
        let url = format!("{}/api/v1/events/{}/result", self.receiver.admin, event["id"].as_str().expect("an id"));
        let request = self.receiver.client.post(url).header("content-type", "application/json");
        request.body(result.to_string()).send().await.expect("answers")
    }
}

#[tokio::test]
async fn what_was_answered_as_a_notice_and_died_unread_is_reported_only_with_an_account() {
    for (result, taken) in [
        (json!({"success": true}), vec![]),
        (json!({"success": false, "errorCode": "NOT_FOUND"}), vec![]),
        (json!({"success": true, "accountIdentifier": "a"}), vec![json!({"success": true, "accountIdentifier": "a"})]),
    ] {
        let scene = Scene::start("retry = [\"1ms\"]\ngive_up_after = \"1ms\"", Accept).await;
        scene.marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(503); 1000]));
        let url = scene.marketplace.order("1");
        let (answer, event) = tokio::join!(scene.receiver.notify("/notify", &url), scene.until_dead_in_time());
        assert_eq!(answer.status(), StatusCode::OK);
        scene.marketplace.with(|state| state.read_twists.clear());
        assert_eq!(scene.resolve(&event, &result).await.status(), StatusCode::ACCEPTED, "{result}");
        scene.receiver.until_state("done").await;
        assert_eq!(scene.marketplace.seen("1").taken, taken, "{result}");
    }
}

#[tokio::test]
async fn a_notice_whose_account_is_too_long_is_shown_as_one_and_reported_to_nobody_and_a_ping_passes() {
    let scene = Scene::start("retry = [\"1ms\"]", Accept).await;
    let payload = json!({"account": {"accountIdentifier": "a".repeat(300)}, "notice": {"type": "CLOSED"}});
    let ping = json!({"type": "SUBSCRIPTION_CANCEL", "flag": "STATELESS", "payload": payload});
    scene.receiver.notify("", &scene.marketplace.event("ping", &ping)).await;
    scene.receiver.until_state("done").await;

    let scene = Scene::start("retry = [\"1ms\"]", Accept).await;
    let notice = json!({"type": "SUBSCRIPTION_NOTICE", "flag": "DEVELOPMENT", "payload": payload});
    // Rung as something else, so that it is known by its body only.
    scene.receiver.notify("/assign", &scene.marketplace.event("notice", &notice)).await;
    let event = scene.until_dead_in_time().await;
    assert_eq!((&event["type"], &event["flag"]), (&json!("SUBSCRIPTION_NOTICE"), &json!("DEVELOPMENT")));
    let resolved = scene.resolve(&event, &json!({"success": true})).await;
    assert_eq!(resolved.status(), StatusCode::ACCEPTED);
    assert_eq!(body_of(resolved).await["state"], "done");
    assert!(scene.marketplace.seen("notice").taken.is_empty());
}

#[tokio::test]
async fn a_notice_that_an_operator_resolves_is_reported_to_nobody() {
    let payload = json!({"account": {"accountIdentifier": "a"}, "notice": {"type": "CLOSED"}});
    let scene = Scene::start("retry = [\"1ms\"]\ngive_up_after = \"1ms\"", Silent).await;
    let url = scene.marketplace.event("1", &json!({"type": "SUBSCRIPTION_NOTICE", "payload": payload}));
    scene.receiver.notify("/notify", &url).await;
    let event = scene.until_dead_in_time().await;
    let result_url = format!("{}/api/v1/events/{}/result", scene.receiver.admin, event["id"].as_str().expect("an id"));
    let request = scene.receiver.client.post(&result_url).header("content-type", "application/json");
    let answer = request.body("{\"success\":true}").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(body_of(answer).await["state"], "done");
    scene.clock.advance(HOUR);
    // Whatever is reported is reported before a later event of the marketplace is done.
    scene.receiver.notify("/cancel", &cancel(&scene.marketplace, "2", "b")).await;
    scene.marketplace.until_settled("2").await;
    assert!(scene.marketplace.seen("1").taken.is_empty());
}

/// Never knows what to make of a notice.
struct Silent;

#[async_trait]
impl EventHandler for Silent {
    async fn subscription_notice(
        &self,
        _: doorbell::handler::SubscriptionNotice,
    ) -> Result<(), doorbell::HandlerError> {
        Err(retry("not yet"))
    }

    async fn subscription_cancel(&self, _: SubscriptionCancel) -> HandlerResult {
        Ok(Outcome::completed("gone"))
    }
}

/// A product that asks for half an hour's wait, once.
#[derive(Default)]
struct Patient(AtomicUsize);

#[async_trait]
impl EventHandler for Patient {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(retry("the product is being moved").after(Duration::from_mins(30)));
        }
        Ok(Outcome::account(AccountIdentifier::new(event.context.event_id.to_string())?, "welcome"))
    }
}

#[tokio::test]
async fn a_handler_that_asks_for_a_wait_is_not_run_before_it_is_over() {
    let scene = Scene::start("", Patient::default()).await;
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    scene.until("it was run", |event| event["lastError"].is_string()).await;
    let before = scene.clock.monotonic();
    scene.until_state_in_time("done").await;
    assert!(scene.clock.monotonic().since(before) >= Duration::from_mins(30));
}

/// Product logic that treats all events alike, and gives this verdict of each.
struct Always(doorbell::Verdict);

#[async_trait]
impl Handler for Always {
    async fn run(
        &self,
        _: &doorbell::handler::Context,
        _: &doorbell::event::Event,
    ) -> Result<doorbell::Verdict, doorbell::HandlerError> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn an_event_that_asks_for_a_result_and_gets_none_is_dead_by_name_and_not_done_in_silence() {
    let scene = Scene::start("", Always(doorbell::Verdict::NoResult)).await;
    scene.receiver.notify("/create", &scene.marketplace.order("1")).await;
    let event = scene.until("it is dead", |event| event["state"] == "dead").await;
    assert_eq!(event["lastError"], "the handler made no valid result: the event asks for one, and there is none");
}

#[tokio::test]
async fn whatever_a_handler_makes_of_a_notice_nobody_is_told() {
    let result = doorbell::event::EventResult::success("noted");
    for verdict in [doorbell::Verdict::Result(result), doorbell::Verdict::Deferred, doorbell::Verdict::NoResult] {
        let scene = Scene::start("", Always(verdict)).await;
        let notice = json!({"type": "SUBSCRIPTION_NOTICE", "payload": {"account": {"accountIdentifier": "a"}}});
        scene.receiver.notify("/notify", &scene.marketplace.event("1", &notice)).await;
        scene.until("it is done", |event| event["state"] == "done").await;
        assert_eq!(scene.marketplace.seen("1").taken.len(), 0);
    }
}
