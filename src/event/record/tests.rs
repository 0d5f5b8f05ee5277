//! What a record goes through, and what it never becomes.

use proptest::prelude::*;

use super::bounds::*;
use super::change::*;
use super::*;
use crate::event::extracted::*;
use crate::event::outcome::*;
use crate::event::{BaseUrl, ErrorCode, Event, EventUrl};

fn recorded() -> EventRecord {
    let base = BaseUrl::parse("https://market.example").expect("a base URL");
    let url = EventUrl::parse("https://market.example/events/1", [&base]).expect("an event URL");
    EventRecord::new(&Notification::new("default".into(), url, None, String::new()), Timestamp::from_millis(1))
}

fn fields() -> ExtractedFields {
    ExtractedFields { kind: EventType::SubscriptionCancel, flag: None, account: None, status_on_success: None }
}

fn failure(reason: &str) -> Failure {
    let (took, cause) = (Duration::from_secs(1), Some("404".to_owned()));
    Failure { reason: reason.to_owned(), took, cause, understood: None }
}

fn retry(wait: u64) -> Change {
    let wait = Duration::from_secs(wait);
    Change::Retry { wait, failure: failure("transient"), unreadable: None }
}

fn dead(may_recover: bool) -> Change {
    Change::Dead { failure: failure("for good"), unreadable: None, may_recover }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        ".{0,40}",
        (any::<char>(), prop_oneof![Just(300_usize), Just(300_000)])
            .prop_map(|(c, length)| c.to_string().repeat(length)),
    ]
}

/// What a body with such texts leaves, if they can be kept.
fn any_fields() -> impl Strategy<Value = ExtractedFields> {
    (any_text(), prop::option::of(any_text()), prop::option::of(any_text())).prop_filter_map(
        "an account that can be kept",
        |(kind, flag, account)| {
            let account = account.map(|account| serde_json::json!({ "accountIdentifier": account }));
            let body =
                serde_json::json!({ "type": format!("X{kind}"), "flag": flag, "payload": { "account": account } });
            ExtractedFields::of(&Event::read(body.to_string().as_bytes(), None).ok()?).ok()
        },
    )
}

fn any_change() -> impl Strategy<Value = Change> {
    let result = (any::<bool>(), any_text(), prop::option::of(any_text())).prop_map(|(success, message, account)| {
        EventResult { success, account_identifier: account, ..EventResult::success(message) }
    });
    prop_oneof![
        (any_fields(), prop::option::of("[a-z0-9-]{0,20}"))
            .prop_map(|(fields, charset)| Change::Fetched(fields, charset)),
        result.prop_map(Change::Handled),
        prop::option::of(any_text()).prop_map(Change::Done),
        Just(Change::Deferred),
        Just(Change::AwaitResponse { until: Timestamp::from_millis(9) }),
        Just(Change::HandedOver { wait: Duration::from_secs(9) }),
        (0_u64..9, any_text()).prop_map(|(wait, reason)| Change::Retry {
            wait: Duration::from_secs(wait),
            failure: failure(&reason),
            unreadable: None
        }),
        any::<bool>().prop_map(dead),
        (any_text(), any_text()).prop_map(|(kind, flag)| {
            let body = serde_json::json!({ "type": format!("X{kind}"), "flag": flag }).to_string();
            let understood = Event::read(body.as_bytes(), None).ok().map(|event| Understood::of(&event));
            let failure = Failure { understood, ..failure("not taken") };
            Change::Dead { failure, unreadable: Some(Unreadable::default()), may_recover: true }
        }),
        Just(Change::Rerun),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_steps_reaches_a_state_that_contradicts_itself_or_a_record_that_is_too_long(
        changes in prop::collection::vec(any_change(), 0..64)
    ) {
        let mut record = recorded();
        for (step, change) in changes.into_iter().enumerate() {
            let before = record.clone();
            let now = Timestamp::from_millis(i64::try_from(step).expect("few steps") + 10);
            if record.apply(change, now).is_err() {
                prop_assert_eq!(&record, &before);
            }
            prop_assert!(!record.awaiting_response || record.state == State::Handled);
            match record.state {
                State::Received => prop_assert!(record.kind.is_none() && record.result.is_none()),
                State::Fetched | State::Deferred => prop_assert!(record.kind.is_some() && record.result.is_none()),
                State::Handled => prop_assert!(record.result.is_some()),
                State::Done => prop_assert!(record.kind.is_some() || record.result.is_some()),
                State::Dead => prop_assert!(record.last_error.is_some()),
            }
            let stored = serde_json::to_vec(&record).expect("serializes").len();
            prop_assert!(stored < MAX_RECORD_BYTES, "{} bytes", stored);
            // A copy that is taken in names everything as before.
            let imported = record.clone().imported(record.has_body);
            prop_assert_eq!(
                (&imported.kind, &imported.flag, &imported.understood, &imported.account, &imported.state),
                (&record.kind, &record.flag, &record.understood, &record.account, &record.state)
            );
            prop_assert_eq!(&imported.result, &record.result);
        }
    }
}

#[test]
fn a_dead_event_with_a_result_is_reported_again_and_not_handled_again() {
    let mut record = recorded();
    let result = EventResult::success("bought");
    let changes = [Change::Fetched(fields(), None), Change::Handled(result.clone()), dead(true), Change::Rerun];
    for change in changes {
        record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
    }
    assert_eq!((record.state, record.result), (State::Handled, Some(result)));
}

#[test]
fn attempts_are_counted_whether_they_fail_or_not() {
    let mut record = recorded();
    let mut counted = Vec::new();
    let changes = [
        retry(1),
        retry(1),
        Change::Fetched(fields(), None),
        Change::Handled(EventResult::success("")),
        retry(1),
        Change::Done(None),
        Change::Rerun,
        dead(false),
    ];
    for change in changes {
        record.apply(change, Timestamp::from_millis(2)).expect("a legal step");
        counted.push(record.attempts);
    }
    assert_eq!(counted, [1, 2, 3, 3, 3, 4, 4, 5]);
}

#[test]
fn patience_counts_waits_and_attempts_since_the_first_failure_and_no_downtime_or_set_clock() {
    let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
    let took = Duration::from_secs(1);
    let mut record = recorded();
    let used = |record: &EventRecord, now| record.retried_for(at(now), took).as_secs();
    assert_eq!(used(&record, 1_000_000), 0, "what waited before the first failure does not count");
    record.apply(retry(30), at(1_000_000)).expect("legal");
    assert_eq!(used(&record, 1_000_031), 31);
    assert_eq!(used(&record, 1_000_011), 11, "brought forward by a duplicate");
    assert_eq!(used(&record, 9_000_000), 31, "a downtime, or a clock that was set forward");
    assert_eq!(used(&record, 0), 1, "a clock that was set back");
    record.apply(retry(60), at(9_000_000)).expect("legal");
    assert_eq!(used(&record, 9_000_061), 31 + 61);
    record.apply(Change::Fetched(fields(), None), at(9_000_070)).expect("legal");
    assert_eq!(used(&record, 9_999_999), 0, "progress ends the row of failures");
}

#[test]
fn a_failure_that_comes_again_is_counted_with_its_time_until_another_one_comes() {
    let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
    let took = Duration::from_secs(1);
    let mut record = recorded();
    record.apply(retry(20), at(100)).expect("legal");
    record.apply(retry(20), at(121)).expect("legal");
    let third = record.repeated("404", at(142), took);
    assert_eq!((third.times, third.lasted()), (3, Duration::from_secs(42)));
    assert_eq!(record.repeated("503", at(142), took).times, 1);
    let other = Failure { cause: None, ..failure("down") };
    let other = Change::Retry { wait: Duration::from_secs(1), failure: other, unreadable: None };
    record.apply(other, at(142)).expect("legal");
    assert_eq!(record.repeated("404", at(150), took).times, 1);
}

#[test]
fn a_result_fits_the_type_of_its_event_or_of_its_route() {
    let base = BaseUrl::parse("https://market.example").expect("a base URL");
    let url = EventUrl::parse("https://market.example/events/1", [&base]).expect("an event URL");
    let died_of = |route: Option<EventType>| {
        let notification = Notification::new("default".into(), url.clone(), route, String::new());
        let mut record = EventRecord::new(&notification, Timestamp::from_millis(1));
        record.apply(dead(false), Timestamp::from_millis(2)).expect("legal");
        record
    };
    let success = EventResult::success("by hand");
    let named = EventResult { account_identifier: Some("acct".into()), ..success.clone() };
    let failure = EventResult::failure(ErrorCode::InvalidOperation, "no");
    let hidden = EventResult { account_identifier: Some("\u{200b}".into()), ..success.clone() };
    let long = EventResult { user_identifier: Some("u".repeat(257)), ..named.clone() };
    for (route, result, fits) in [
        (Some(EventType::SubscriptionOrder), &success, false),
        (Some(EventType::AddonOrder), &success, false),
        (None, &success, false),
        (Some(EventType::SubscriptionCancel), &success, false),
        (Some(EventType::SubscriptionNotice), &success, true),
        (Some(EventType::SubscriptionNotice), &hidden, false),
        (Some(EventType::SubscriptionNotice), &failure, true),
        (Some(EventType::SubscriptionOrder), &named, true),
        (None, &named, true),
        (None, &failure, true),
        (None, &long, false),
        (None, &hidden, false),
    ] {
        assert_eq!(died_of(route.clone()).check_result(result).is_ok(), fits, "{route:?} {result:?}");
    }
}

/// An event that died of a body that says it is this, and whose account cannot be kept.
fn refused(body: &str) -> EventRecord {
    let event = Event::read(body.as_bytes(), None).expect("an event");
    let failure = Failure { understood: Some(Understood::of(&event)), ..failure("its account is too long") };
    let mut record = recorded();
    let change = Change::Dead { failure, unreadable: Some(Unreadable::default()), may_recover: true };
    record.apply(change, Timestamp::from_millis(2)).expect("legal");
    record
}

#[test]
fn a_body_that_was_understood_and_not_taken_says_which_result_fits_and_is_read_again_when_run_again() {
    let nameless = Change::Handled(EventResult::success("by hand"));
    for (body, state) in [
        (r#"{"type":"SUBSCRIPTION_NOTICE"}"#, Some(State::Done)),
        (r#"{"type":"SUBSCRIPTION_ORDER","flag":"STATELESS"}"#, Some(State::Done)),
        (r#"{"type":"SUBSCRIPTION_CANCEL"}"#, Some(State::Handled)),
        (r#"{"type":"SUBSCRIPTION_ORDER"}"#, None),
    ] {
        let mut record = refused(body);
        let resolved = record.apply_operator_action(nameless.clone(), Timestamp::from_millis(3));
        assert_eq!(resolved.ok().map(|_| record.state), state, "{body}");
        let mut record = refused(body);
        record.apply(Change::Rerun, Timestamp::from_millis(3)).expect("legal");
        assert_eq!((record.state, record.presumed_kind()), (State::Received, None), "{body}");
    }
}

#[test]
fn a_ping_is_taken_whatever_its_account_is_called() {
    for account in ["a".repeat(300), "\u{1}".repeat(256)] {
        let body = |flag: &str| {
            serde_json::json!({
                "type": "SUBSCRIPTION_CANCEL", "flag": flag, "payload": { "account": { "accountIdentifier": account } }
            })
        };
        let read = |flag: &str| Event::read(body(flag).to_string().as_bytes(), None).expect("an event");
        assert_eq!(ExtractedFields::of(&read("STATELESS")).expect("taken").account, None);
        assert!(ExtractedFields::of(&read("DEVELOPMENT")).is_err());
    }
}

#[test]
fn an_account_that_is_long_as_json_only_is_called_the_same_in_a_copy_that_is_taken_in() {
    let account = "\"".repeat(MAX_IDENTIFIER_BYTES);
    let mut record = recorded();
    let fields = ExtractedFields { account: Some(account.clone()), ..fields() };
    record.apply(Change::Fetched(fields, None), Timestamp::from_millis(2)).expect("legal");
    let result = EventResult { account_identifier: Some(account.clone()), ..EventResult::success("") };
    record.apply(Change::Handled(result), Timestamp::from_millis(3)).expect("legal");
    let imported = record.clone().imported(true);
    assert_eq!((imported.account, imported.result), (Some(account), record.result));
}
