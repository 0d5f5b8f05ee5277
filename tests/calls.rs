//! What a marketplace's answers to reading and reporting are taken for.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock};
use doorbell::config::Config;
use doorbell::event::{EventResult, EventUrl};
use doorbell::marketplace::{Fetched, MarketplaceClient, Reported};
use reqwest::StatusCode;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};

struct Called {
    marketplace: Marketplace,
    client: MarketplaceClient,
    url: EventUrl,
}

impl Called {
    async fn start() -> Self {
        let marketplace = Marketplace::start().await;
        let config = Config::from_toml(&configuration(&marketplace.base_url, "memory:")).expect("a configuration");
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let client =
            MarketplaceClient::new(&config.integrations[0].marketplaces[0], &config.egress, clock).expect("a client");
        let url = EventUrl::parse(&marketplace.order("1"), [client.base_url()]).expect("an event URL");
        Self { marketplace, client, url }
    }
}

#[tokio::test]
async fn a_body_comes_with_what_the_answer_says_that_it_is() {
    let called = Called::start().await;
    for (header, expected) in [
        (vec![("Content-Type", "application/xml; charset=ISO-8859-1")], Some("application/xml; charset=ISO-8859-1")),
        (vec![("Content-Type", "nonsense")], Some("nonsense")),
        (vec![], None),
    ] {
        called.marketplace.with(|state| state.read_twists.push_back(Twist::Say(200, header, b"<event/>".to_vec())));
        let fetched = called.client.fetch(&called.url).await.expect("an answer");
        let expected = Fetched::Body { bytes: b"<event/>".to_vec(), content_type: expected.map(str::to_owned) };
        assert_eq!(fetched, expected);
    }
}

#[tokio::test]
async fn an_event_that_is_not_there_is_missing_and_one_that_was_settled_is_not_unknown() {
    let called = Called::start().await;
    for status in [404, 410] {
        called.marketplace.with(|state| state.read_twists.push_back(Twist::Answer(status)));
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(called.client.fetch(&called.url).await.expect("an answer"), Fetched::Missing(status));
    }
    let result = EventResult::success("done");
    for (status, expected) in [
        (404, Reported::Unknown(StatusCode::NOT_FOUND)),
        (409, Reported::SettledBefore(StatusCode::CONFLICT)),
        (410, Reported::SettledBefore(StatusCode::GONE)),
        (200, Reported::Taken),
        (202, Reported::Taken),
        (204, Reported::Taken),
    ] {
        called.marketplace.with(|state| state.result_twists.push_back(Twist::Answer(status)));
        assert_eq!(called.client.report(&called.url, &result).await.expect("an answer"), expected);
    }
}

#[tokio::test]
async fn how_long_a_marketplace_asks_to_be_left_alone_is_passed_on_as_it_stands() {
    let called = Called::start().await;
    for (asked, expected) in [
        ("120", Some(Duration::from_mins(2))),
        ("0", Some(Duration::ZERO)),
        ("86400", Some(Duration::from_hours(24))),
        ("99999999999999999999999", Some(Duration::from_secs(u32::MAX.into()))),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(Duration::ZERO)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        called.marketplace.with(|state| state.read_twists.push_back(Twist::RetryAfter(503, asked.to_owned())));
        let error = called.client.fetch(&called.url).await.expect_err("no body");
        assert_eq!((error.retry_after(), error.to_string().contains("503")), (expected, true), "{asked:?}");
    }
}

/// The headers and the body of an answer.
type Content = (Vec<(&'static str, &'static str)>, Vec<u8>);

/// More than is read, and what it is packed into.
fn too_much() -> [Content; 2] {
    let plain = vec![b'x'; 3 << 20];
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&plain).expect("packs");
    [(vec![], plain), (vec![("Content-Encoding", "gzip")], packed.finish().expect("packs"))]
}

#[tokio::test]
async fn a_failure_is_told_by_its_status_however_much_comes_along() {
    for (headers, body) in too_much() {
        let called = Called::start().await;
        let says = |status| {
            let headers = [headers.clone(), vec![("Retry-After", "7")]].concat();
            called.marketplace.with(|state| state.read_twists.push_back(Twist::Say(status, headers, body.clone())));
        };
        says(503);
        let error = called.client.fetch(&called.url).await.expect_err("no event");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{headers:?}: {error}");
        assert!(error.to_string().contains("answered 503") && error.into_received().is_none(), "{headers:?}");
        says(404);
        let fetched = called.client.fetch(&called.url).await;
        assert_eq!(fetched.expect("an answer"), Fetched::Missing(StatusCode::NOT_FOUND), "{headers:?}");
        let tokens = called.marketplace.with(|state| state.token_requests);
        says(401);
        assert!(matches!(called.client.fetch(&called.url).await, Ok(Fetched::Body { .. })), "{headers:?}");
        assert_eq!(
            called.marketplace.with(|state| state.token_requests),
            tokens + 1,
            "the token that was refused is dropped"
        );
    }
}

#[tokio::test]
async fn a_result_is_taken_once_the_marketplace_says_so_however_much_comes_behind() {
    let called = Called::start().await;
    for (headers, body) in too_much() {
        called.marketplace.with(|state| state.result_twists.push_back(Twist::Say(200, headers, body)));
        let reported = called.client.report(&called.url, &EventResult::success("done")).await;
        assert_eq!(reported.expect("it is taken"), Reported::Taken);
    }
}
