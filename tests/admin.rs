//! The private listener as the operator and the product call it.

use doorbell::handler::Accept;
use reqwest::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::raw::exchange;
use crate::support::receiver::{Receiver, json as body_of};

/// A receiver that has done three purchases, whose accounts it has made, and what else was put up.
async fn with_purchases() -> (Marketplace, Receiver) {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    for id in ["one", "two", "three"] {
        receiver.notify("/create", &marketplace.order(id)).await;
        marketplace.until_settled(id).await;
    }
    for _ in 0..3 {
        receiver.until_state("done").await;
    }
    (marketplace, receiver)
}

impl Receiver {
    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.admin))
    }

    async fn get(&self, path: &str) -> Response {
        self.admin(Method::GET, path).send().await.expect("answers")
    }

    async fn listed(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/v1/events?{query}")).await;
        assert_eq!(answer.status(), 200, "{query}");
        body_of(answer).await["events"].as_array().expect("a list").clone()
    }
}

/// The detail of an answer that must be a problem (RFC 9457) with this status.
async fn problem(answer: Response, status: u16, what: &str) -> String {
    assert_eq!(answer.status(), status, "{what}");
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json", "{what}");
    let problem = body_of(answer).await;
    assert_eq!(problem["status"], status, "{what}");
    problem["detail"].as_str().unwrap_or_else(|| panic!("{what}: no detail: {problem}")).to_owned()
}

#[tokio::test]
async fn an_account_is_found_with_the_purchase_that_made_it() {
    let (marketplace, receiver) = with_purchases().await;
    let account = marketplace.seen("two").taken[0]["accountIdentifier"].as_str().expect("made").to_owned();
    let cancel = json!({"type": "SUBSCRIPTION_CANCEL", "payload": {"account": {"accountIdentifier": account}}});
    receiver.notify("/cancel", &marketplace.event("four", &cancel)).await;
    marketplace.until_settled("four").await;
    let found = receiver.listed(&format!("account={account}")).await;
    let types: Vec<_> = found.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(types, ["SUBSCRIPTION_CANCEL", "SUBSCRIPTION_ORDER"], "newest first, and nobody else's");
    assert!(receiver.listed("account=nobody").await.is_empty());
    assert_eq!(receiver.listed(&format!("account={account}&type=SUBSCRIPTION_ORDER")).await.len(), 1);
}

#[tokio::test]
async fn an_empty_parameter_is_an_absent_one() {
    let (_marketplace, receiver) = with_purchases().await;
    assert_eq!(receiver.listed("state=&type=&account=&integration=&from=&to=&limit=&cursor=").await.len(), 3);
    assert_eq!(receiver.listed("account&state=done&&").await.len(), 3);
    assert_eq!(receiver.get("/api/v1/export?from=").await.status(), 200);
    assert_eq!(
        receiver.admin(Method::POST, "/api/v1/keys/rotate?revoke=").send().await.expect("answers").status(),
        200
    );
}

#[tokio::test]
async fn a_moment_may_be_written_in_any_way_that_rfc_3339_and_queries_leave() {
    let (_marketplace, receiver) = with_purchases().await;
    for moment in [
        "2020-01-01T00:00:00+02:00",
        "2020-01-01T00:00:00%2B02:00",
        "2020-01-01T00:00:00.5+02:00",
        "2020-01-01+00:00:00+02:00",
        "2020-01-01T00:00:00Z",
        "2020-01-01t00:00:00-03:30",
    ] {
        assert_eq!(receiver.listed(&format!("from={moment}")).await.len(), 3, "{moment}");
        assert_eq!(receiver.listed(&format!("to={moment}")).await.len(), 0, "{moment}");
    }
}

#[tokio::test]
async fn a_query_that_does_not_say_what_was_meant_is_refused_with_the_name_the_value_and_the_remedy() {
    let (_marketplace, receiver) = with_purchases().await;
    for (query, named) in [
        ("status=dead", "status is not a parameter of this route; it takes state, type, account"),
        ("State=dead", "State is not a parameter of this route"),
        ("state=dead&state=done", "state is given more than once"),
        ("account=&account=a", "account is given more than once"),
        ("state=DEAD", "state=DEAD is not received, fetched, handled, done, deferred or dead"),
        ("from=yesterday", "from=yesterday is not a moment in RFC 3339, such as 2026-01-31T08:00:00Z"),
        ("to=2026-01-31", "to=2026-01-31 is not a moment"),
        ("to=2026-01-31T08:00:00", "to=2026-01-31T08:00:00 is not a moment"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from is later than to"),
        ("account=%FF", "account=%FF is not percent-encoded UTF-8"),
        ("limit=0", "limit=0 is not a number from 1 on; no more than 500"),
        ("limit=-1", "limit=-1 is not a number from 1 on"),
        ("limit=many", "limit=many is not a number from 1 on"),
        ("cursor=next", "cursor=next is not the next of any list here; leave it out"),
        ("cursor=0", "cursor=0 is not the next of any list here"),
        ("cursor=-1", "cursor=-1 is not the next of any list here"),
        ("cursor=9999", "cursor=9999 is not the next of any list here"),
        ("cursor=18446744073709551615", "cursor=18446744073709551615 is not the next"),
    ] {
        let detail = problem(receiver.get(&format!("/api/v1/events?{query}")).await, 400, query).await;
        assert!(detail.contains(named), "{query}: {detail}");
    }
    let events = receiver.listed("limit=1").await;
    let event = |rest: &str| format!("/api/v1/events/{}{rest}", events[0]["id"].as_str().expect("an id"));
    let (shown, rerun, resolved) = (event("?foo=1"), event("/retry?dryRun=true"), event("/result?force=true"));
    for (method, path) in [
        (Method::GET, shown.as_str()),
        (Method::POST, rerun.as_str()),
        (Method::POST, resolved.as_str()),
        (Method::GET, "/api/v1/keys?x=1"),
        (Method::GET, "/api/v1/export?from=x"),
        (Method::GET, "/api/v1/export?to=1"),
        (Method::POST, "/api/v1/keys/rotate?revoke=yes"),
        (Method::POST, "/api/v1/keys/rotate?revok=true"),
    ] {
        problem(receiver.admin(method, path).send().await.expect("answers"), 400, path).await;
    }
    assert_eq!(receiver.listed("limit=1").await, events, "none was run again");
}

#[tokio::test]
async fn every_cursor_that_a_list_gave_fits() {
    let (_marketplace, receiver) = with_purchases().await;
    let mut page = "/api/v1/events?limit=1".to_owned();
    let mut seen = Vec::new();
    loop {
        let answer = body_of(receiver.get(&page).await).await;
        seen.extend(answer["events"].as_array().expect("a list").iter().map(|event| event["id"].clone()));
        let Some(next) = answer["next"].as_str() else { break };
        page = format!("/api/v1/events?limit=1&cursor={next}");
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(receiver.listed("limit=100000").await.len(), 3, "more than are given at a time is no mistake");
}

#[tokio::test]
async fn the_scheme_of_a_bearer_token_may_be_written_in_any_case() {
    let marketplace = Marketplace::start().await;
    let text = configuration(&marketplace.base_url, "memory:").replace("[admin]", "[admin]\ntoken = \"operator\"");
    let receiver = Receiver::start(&text, Accept).await;
    for (authorization, status) in [
        ("Bearer operator", 200),
        ("bearer operator", 200),
        ("BEARER  operator", 200),
        ("Bearer Operator", 401),
        ("Beareroperator", 401),
        ("Basic operator", 401),
        ("operator", 401),
        ("Bearer", 401),
        ("Bearer operator operator", 401),
    ] {
        let answer = receiver.admin(Method::GET, "/api/v1/events").header("authorization", authorization);
        let answer = answer.send().await.expect("answers");
        assert_eq!(answer.status(), status, "{authorization}");
        if status == 401 {
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            problem(answer, 401, authorization).await;
        }
    }
}

#[tokio::test]
async fn a_result_that_is_not_what_is_taken_is_refused_by_name_and_changes_nothing() {
    let marketplace = Marketplace::start().await;
    let text =
        configuration(&marketplace.base_url, "memory:").replace("[delivery]", "[delivery]\ngive_up_after = \"1ms\"");
    let receiver = Receiver::start(&text, Accept).await;
    marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(500); 20]));
    receiver.notify("/create", &marketplace.order("one")).await;
    let dead = receiver.until_state("dead").await;
    let path = format!("/api/v1/events/{}/result", dead["id"].as_str().expect("an id"));
    let good = json!({"success": true, "accountIdentifier": "a"}).to_string();
    let large = format!("{{\"success\":true,\"message\":{:?}}}", "m".repeat(70_000));
    for (content_type, body, status, named) in [
        (None, good.clone(), 415, "Content-Type is missing; send Content-Type: application/json"),
        (Some("text/plain"), good.clone(), 415, "Content-Type is \"text/plain\""),
        (Some("application/x-www-form-urlencoded"), good.clone(), 415, "send Content-Type: application/json"),
        (Some("application/json"), large, 413, "more than 65536 bytes"),
        (Some("application/json"), String::new(), 400, "the body is not JSON: EOF"),
        (Some("application/json"), "{\n \"success\": tru }".into(), 400, "line 2 column"),
        (Some("application/json"), format!("{good}x"), 400, "trailing characters"),
        (Some("application/json"), "[]".into(), 400, "the body is not what is taken here"),
        (Some("application/json"), " [true,null,\"m\",\"acct\"]".into(), 400, "must be a JSON object"),
        (Some("application/json"), good.replace("accountIdentifier", "accountidentifier"), 400, "accountidentifier"),
        (Some("application/json"), good.replace("success", "succes"), 400, "unknown field `succes`"),
        (Some("application/json"), "{}".into(), 400, "missing field `success`"),
        (Some("application/json"), "{\"success\":true,\"success\":false}".into(), 400, "duplicate field `success`"),
        (
            Some("application/json"),
            "{\"success\":true,\"message\":5}".into(),
            400,
            "message: invalid type: integer `5`",
        ),
    ] {
        let mut request = receiver.admin(Method::POST, &path).body(body.clone());
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let what = body.chars().take(60).collect::<String>();
        let detail = problem(request.send().await.expect("answers"), status, &what).await;
        assert!(detail.contains(named), "{what}: {detail}");
    }
    let packed = receiver.admin(Method::POST, &path).header(CONTENT_TYPE, "application/json").body(good.clone());
    let packed = packed.header("content-encoding", "gzip").send().await.expect("answers");
    assert!(problem(packed, 415, "packed").await.contains("Content-Encoding is \"gzip\""));
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n11170\r\n{}\r\n0\r\n\r\n",
        " ".repeat(0x11170)
    );
    let (status, head, _) = exchange(&receiver.admin, chunked.as_bytes()).await;
    assert_eq!(status, 413, "whose length is not said beforehand: {head}");
    assert_eq!(receiver.events().await[0]["state"], "dead");

    let taken = receiver.admin(Method::POST, &path).header(CONTENT_TYPE, "Application/JSON; charset=utf-8").body(good);
    assert_eq!(taken.send().await.expect("answers").status(), 202);
}

#[tokio::test]
async fn every_answer_of_the_private_listener_is_kept_by_no_cache_and_guessed_by_no_browser() {
    let (_marketplace, receiver) = with_purchases().await;
    let id = receiver.events().await[0]["id"].as_str().expect("an id").to_owned();
    let event = format!("/api/v1/events/{id}");
    for (method, path) in [
        (Method::GET, "/api/v1/events"),
        (Method::GET, event.as_str()),
        (Method::HEAD, event.as_str()),
        (Method::GET, "/api/v1/export"),
        (Method::GET, "/api/v1/keys"),
        (Method::POST, "/api/v1/keys/rotate"),
        (Method::POST, "/api/v1/events/x/retry"),
        (Method::POST, "/api/v1/events/x/result"),
        (Method::DELETE, event.as_str()),
        (Method::GET, "/health/ready"),
        (Method::GET, "/nowhere"),
        (Method::GET, "/api/v1/events?limit=x"),
    ] {
        let answer = receiver.admin(method.clone(), path).send().await.expect("answers");
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store", "{method} {path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_answered_is_a_problem_that_says_what_is() {
    let (_marketplace, receiver) = with_purchases().await;
    for path in
        ["/", "/api", "/api/v1/event", "/api/v1/events/x", "/api/v1/events/%FF", "/API/v1/events", "/api/v1/events/x/y"]
    {
        problem(receiver.get(path).await, 404, path).await;
    }
    for (method, path, allowed) in [
        (Method::POST, "/api/v1/events", "GET, HEAD"),
        (Method::DELETE, "/api/v1/events/x", "GET, HEAD"),
        (Method::OPTIONS, "/api/v1/export", "GET, HEAD"),
        (Method::PUT, "/api/v1/keys", "GET, HEAD"),
        (Method::POST, "/health/ready", "GET, HEAD"),
        (Method::GET, "/api/v1/keys/rotate", "POST"),
        (Method::GET, "/api/v1/events/x/retry", "POST"),
        (Method::PATCH, "/api/v1/events/x/result", "POST"),
    ] {
        let answer = receiver.admin(method.clone(), path).send().await.expect("answers");
        assert_eq!(answer.headers()[ALLOW], allowed, "{method} {path}");
        let detail = problem(answer, 405, path).await;
        assert!(detail.contains(method.as_str()) && detail.contains(allowed), "{detail}");
    }
}

#[tokio::test]
async fn a_head_is_that_of_a_get_and_slashes_at_the_end_or_doubled_change_nothing() {
    let (_marketplace, receiver) = with_purchases().await;
    let id = receiver.events().await[0]["id"].as_str().expect("an id").to_owned();
    for path in ["/api/v1/events".to_owned(), format!("/api/v1/events/{id}"), "/health/live".to_owned()] {
        let got = receiver.get(&path).await;
        let length = got.headers()[CONTENT_LENGTH].clone();
        let got = got.text().await.expect("text");
        let head = receiver.admin(Method::HEAD, &path).send().await.expect("answers");
        assert_eq!((head.status().as_u16(), &head.headers()[CONTENT_LENGTH]), (200, &length), "{path}");
        assert!(head.bytes().await.expect("nothing").is_empty());
        for other in [format!("{path}/"), path.replace('/', "//"), format!("{path}///?")] {
            let answer = receiver.get(&other).await;
            assert_eq!(answer.status(), 200, "{other}");
            assert_eq!(answer.text().await.expect("text"), got, "{other}");
        }
    }
    let retried = receiver.admin(Method::POST, &format!("/api//v1/events/{id}/retry/")).send().await.expect("answers");
    assert_eq!(retried.status(), 202);
}

#[tokio::test]
async fn json_of_the_private_listener_can_be_printed_as_it_comes() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    let hostile = "\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{200b}\u{2028}x";
    let body = json!({"type": format!("NEW{hostile}"), "payload": {"account": {"accountIdentifier": hostile}}});
    receiver.notify("", &marketplace.event("one", &body)).await;
    marketplace.until_settled("one").await;
    let answer = receiver.get("/api/v1/events").await.text().await.expect("text");
    assert!(answer.chars().all(|c| !c.is_control() && !"\u{202e}\u{200b}\u{2028}".contains(c)), "{answer:?}");
    let events: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(events["events"][0]["account"], hostile, "and means what it meant");
    let missing = receiver.get("/api/v1/events?%C2%9B31m=").await.text().await.expect("text");
    assert!(missing.chars().all(|c| !c.is_control()), "{missing:?}");
}

/// An answer's text, with names in place of what differs from run to run: `varying`, and every moment.
async fn text_of(answer: Response, varying: &[(&str, &str)]) -> String {
    let mut text = answer.text().await.expect("text");
    for (found, name) in varying {
        text = text.replace(found, name);
    }
    let moment = "2026-01-31T08:00:00.000Z".len();
    while let Some(end) = text
        .match_indices("Z\"")
        .map(|(at, _)| at + 1)
        .find(|end| *end >= moment && text[..end - 1].ends_with(|c: char| c.is_ascii_digit()))
    {
        text.replace_range(end - moment..end, "MOMENT");
    }
    let is_milliseconds = |number: &&str| number.len() == 13 && number.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = text.split([':', ',', '}']).filter(is_milliseconds).map(str::to_owned).collect::<Vec<_>>();
    numbers.iter().fold(text, |text, number| text.replace(number, "MILLISECONDS"))
}

#[tokio::test]
async fn an_answer_is_written_as_it_always_was_to_the_byte() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    receiver.notify("/create", &marketplace.order("one")).await;
    marketplace.until_settled("one").await;
    let event = receiver.until_state("done").await;
    let id = event["id"].as_str().expect("an id");
    let keys = body_of(receiver.get("/api/v1/keys").await).await;
    let kid = keys["keys"][0]["kid"].as_str().expect("a key");
    let varying = [(marketplace.base_url.as_str(), "MARKETPLACE"), (id, "ID"), (kid, "KID")];
    let path = format!("/api/v1/events/{id}");
    for (method, path, expected) in [
        (Method::GET, "/api/v1/events?state=dead", r#"{"events":[],"next":null}"#),
        (
            Method::GET,
            "/api/v1/events",
            r#"{"events":[{"account":null,"attempts":1,"eventUrl":"MARKETPLACE/api/integration/v1/events/one","flag":null,"id":"ID","integration":"default","lastError":null,"marketplace":"MARKETPLACE","receivedAt":"MOMENT","result":{"accountIdentifier":"account-ID","message":"accepted","success":true},"state":"done","token":"one","type":"SUBSCRIPTION_ORDER","updatedAt":"MOMENT"}],"next":null}"#,
        ),
        (
            Method::GET,
            &path,
            r#"{"account":null,"attempts":1,"body":"{\"payload\":{\"order\":{\"editionCode\":\"BASIC\"}},\"type\":\"SUBSCRIPTION_ORDER\"}","bodyEncoding":"text","charset":null,"eventUrl":"MARKETPLACE/api/integration/v1/events/one","flag":null,"id":"ID","integration":"default","lastError":null,"marketplace":"MARKETPLACE","receivedAt":"MOMENT","result":{"accountIdentifier":"account-ID","message":"accepted","success":true},"state":"done","timeline":[{"at":"MOMENT","note":"announced as SUBSCRIPTION_ORDER","step":"received"},{"at":"MOMENT","step":"fetched"},{"at":"MOMENT","step":"handled"},{"at":"MOMENT","step":"done"}],"timelineForgotten":0,"token":"one","type":"SUBSCRIPTION_ORDER","updatedAt":"MOMENT"}"#,
        ),
        (
            Method::GET,
            "/api/v1/export",
            r#"{"events":[{"event":{"id":"ID","integration":"default","marketplace":"MARKETPLACE","eventUrl":"MARKETPLACE/api/integration/v1/events/one","announced":"SUBSCRIPTION_ORDER","state":"done","receivedAt":MILLISECONDS,"updatedAt":MILLISECONDS,"due":MILLISECONDS,"attempts":1,"failures":0,"type":"SUBSCRIPTION_ORDER","hasBody":true,"result":{"success":true,"message":"accepted","accountIdentifier":"account-ID"},"statusOnSuccess":"ACTIVE","timeline":{"steps":[{"at":MILLISECONDS,"step":"fetched"},{"at":MILLISECONDS,"step":"handled"},{"at":MILLISECONDS,"step":"done"}]}},"body":"{\"payload\":{\"order\":{\"editionCode\":\"BASIC\"}},\"type\":\"SUBSCRIPTION_ORDER\"}"}],"unreadable":[],"next":null}"#,
        ),
        (Method::GET, "/api/v1/keys", r#"{"keys":[{"createdAt":"MOMENT","kid":"KID","verifiesUntil":null}]}"#),
        (
            Method::GET,
            "/api/v1/nowhere",
            r#"{"detail":"there is no such route here","status":404,"title":"Not Found","type":"about:blank"}"#,
        ),
        (
            Method::PUT,
            "/api/v1/keys",
            r#"{"detail":"PUT does nothing here; this route answers GET, HEAD","status":405,"title":"Method Not Allowed","type":"about:blank"}"#,
        ),
        (Method::GET, "/health/live", r#"{"status":"live"}"#),
        (Method::GET, "/health/ready", r#"{"status":"ready"}"#),
        (
            Method::POST,
            &format!("{path}/retry"),
            r#"{"id":"ID","token":"one","eventUrl":"MARKETPLACE/api/integration/v1/events/one","integration":"default","marketplace":"MARKETPLACE","type":"SUBSCRIPTION_ORDER","flag":null,"account":null,"state":"fetched","receivedAt":"MOMENT","updatedAt":"MOMENT","attempts":1,"result":null,"lastError":null}"#,
        ),
    ] {
        let answer = receiver.admin(method.clone(), path).send().await.expect("answers");
        assert_eq!(text_of(answer, &varying).await, expected, "{method} {path}");
    }
}
