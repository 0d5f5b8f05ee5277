//! `POST /simulate/…`: make something happen. `GET /simulate/events`: see what came of it.

use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::bodies::{KINDS, Kind, generate, merge};
use super::market::{Fault, Format, MarketEvent, Shared, closed, no_such_event};
use super::{Receiver, SandboxState};
use crate::config::{Outbound, SharedSecret};
use crate::printable;

/// How many events one request may simulate.
const MAX_COUNT: usize = 10_000;
/// How many events a list shows.
const LISTED: usize = 100;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(super::act("/simulate/ping", ping))
        .service(super::read("/simulate/events", list))
        .service(super::read("/simulate/events/{id}", show))
        .service(super::act("/simulate/{kind}", simulate))
        .default_service(web::to(no_such_route));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    via: Option<Via>,
    count: Option<usize>,
    fault: Option<Fault>,
    format: Option<Format>,
}

/// Which of the receiver's URLs is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Via {
    /// The one for the event's type.
    Typed,
    /// The one for all types.
    Shared,
}

async fn no_such_route() -> HttpResponse {
    let kinds: Vec<_> = KINDS.iter().map(|kind| format!("/simulate/{}", kind.path)).collect();
    let message = "there is no such route in the sandbox";
    print(404, &json!({ "message": message, "post": kinds, "ping": "/simulate/ping", "get": "/simulate/events" }))
}

async fn simulate(
    sandbox: Shared,
    kind: web::Path<String>,
    query: web::Query<Query>,
    overrides: web::Bytes,
) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    let Some(kind) = KINDS.iter().find(|known| known.path == *kind) else { return no_such_route().await };
    let overrides = if overrides.iter().all(u8::is_ascii_whitespace) {
        json!({})
    } else {
        match serde_json::from_slice::<Value>(&overrides) {
            Ok(value @ Value::Object(_)) => value,
            Ok(_) => return print(400, &json!({ "message": "the body must be a JSON object, merged over the event" })),
            Err(error) => return print(400, &json!({ "message": format!("the body is not JSON: {error}") })),
        }
    };
    let count = query.count.unwrap_or(1);
    if !(1..=MAX_COUNT).contains(&count) {
        return print(400, &json!({ "message": format!("count must be 1 to {MAX_COUNT}") }));
    }
    let route = if query.via == Some(Via::Shared) { String::new() } else { format!("/{}", kind.route) };
    let mut simulated = Vec::with_capacity(count);
    for _ in 0..count {
        simulated.push(sandbox.simulate(kind, &route, (query.fault, query.format), overrides.clone()).await);
    }
    match simulated.len() {
        1 => print(200, &simulated[0]),
        _ => print(200, &json!({ "events": simulated })),
    }
}

/// A dummy event to every URL of the receiver's, as a marketplace's ping test does.
async fn ping(sandbox: Shared, request: HttpRequest) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    let mut answers = Vec::new();
    let shared = KINDS.iter().take(1).map(|kind| (kind, String::new()));
    for (kind, route) in KINDS.iter().map(|kind| (kind, format!("/{}", kind.route))).chain(shared) {
        let dummy = json!({ "flag": "STATELESS" });
        let mut answer = sandbox.simulate(kind, &route, (None, None), dummy).await;
        answer["url"] = json!(format!("{}/notifications{route}", sandbox.receiver.base));
        let status = answer["answer"]["status"].as_u64();
        answer["passed"] = json!(matches!(status, Some(200 | 202)));
        answers.push(answer);
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        return print(200, &json!(answers));
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["event", "url", "answer", "ping"]);
    for answer in &answers {
        let passed = if answer["passed"] == true { "passed" } else { "FAILED" };
        let said = match answer["answer"]["status"].as_u64() {
            Some(status) => status.to_string(),
            None => answer["answer"]["error"].as_str().unwrap_or_default().to_owned(),
        };
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        let cells = [text("type"), text("url"), said, passed.to_owned()];
        table.add_row(cells.map(|cell| printable::line(&cell).into_owned()));
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(format!("{table}\n"))
}

async fn list(sandbox: Shared) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    let events: Vec<_> = sandbox.market.newest(LISTED).iter().map(|event| view(sandbox, event)).collect();
    print(200, &json!({ "events": events }))
}

async fn show(sandbox: Shared, id: web::Path<String>) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    let event = Uuid::parse_str(&id).ok().and_then(|id| sandbox.market.get(id));
    match event {
        Some(event) => {
            let mut shown = view(sandbox, &event);
            shown["body"] = event.body;
            print(200, &shown)
        }
        None => no_such_event(),
    }
}

/// An event in the marketplace's view.
fn view(sandbox: &SandboxState, event: &MarketEvent) -> Value {
    let told = event.result.as_ref().and_then(|result| result.account_identifier.clone());
    let account = told.map_or_else(|| event.body["payload"]["account"]["accountIdentifier"].clone(), Value::String);
    // An add-on that was only just ordered has its parent's account in the body.
    let account =
        if account.is_null() { event.body["payload"]["account"]["parentAccountIdentifier"].clone() } else { account };
    json!({
        "id": event.id,
        "eventUrl": sandbox.market.event_url(event.id),
        "type": event.event_type,
        "state": event.status,
        "accountIdentifier": account,
        "result": event.result,
        "fault": event.fault,
        "reads": event.reads,
        "resultsTaken": event.results_taken,
        "resultsRefused": event.results_refused,
    })
}

impl SandboxState {
    async fn simulate(
        &self,
        kind: &Kind,
        route: &str,
        (fault, format): (Option<Fault>, Option<Format>),
        overrides: Value,
    ) -> Value {
        let mut body = generate(kind, &self.market.base_url, &self.market.account());
        merge(&mut body, overrides);
        let event_type = body["type"].as_str().unwrap_or(kind.event_type).to_owned();
        let (id, event_url) = self.market.add(&event_type, body, fault, format);
        let mut answer = self.notify(route, id, &event_url).await;
        if fault == Some(Fault::Duplicate) {
            answer = json!([answer, self.notify(route, id, &event_url).await]);
        }
        json!({ "id": id, "type": event_type, "eventUrl": event_url, "answer": answer })
    }

    /// Notifies the receiver, and takes its answer.
    async fn notify(&self, route: &str, id: Uuid, event_url: &str) -> Value {
        match self.receiver.notify(route, event_url).await {
            Ok((status, answer)) => {
                self.market.answered(id, status, &answer);
                json!({ "status": status, "body": answer })
            }
            Err(error) => json!({ "error": error }),
        }
    }
}

impl Receiver {
    async fn notify(&self, route: &str, event_url: &str) -> Result<(u16, Value), String> {
        let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("eventUrl", event_url).finish();
        let request = Request::get(format!("{}/notifications{route}?{query}", self.base))
            .header(AUTHORIZATION, self.authorization().await?)
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        let answer = self.egress.call(request).await.map_err(|error| error.to_string())?;
        let body =
            serde_json::from_slice(answer.body()).unwrap_or_else(|_| json!(String::from_utf8_lossy(answer.body())));
        Ok((answer.status().as_u16(), body))
    }

    /// The `Authorization` header that the receiver takes: a token of its own endpoint, or else name and password.
    async fn authorization(&self) -> Result<String, String> {
        if let Some(oauth2) = self.outbound.oauth2() {
            return Ok(format!("Bearer {}", self.token(&oauth2.client).await?));
        }
        let basic = self.outbound.iter().find_map(|outbound| match outbound {
            Outbound::Basic(client) => Some(client),
            _ => None,
        });
        let client = basic.ok_or_else(|| {
            let kinds: Vec<_> = self.outbound.iter().map(Outbound::kind).collect();
            format!(
                "the first integration takes {} only, which the sandbox cannot do; give it an outbound of the kind oauth2 \
                 or basic as well",
                kinds.join(" and ")
            )
        })?;
        let credentials = format!("{}:{}", client.client_id, client.client_secret.expose());
        Ok(format!("Basic {}", STANDARD.encode(credentials)))
    }

    /// A bearer token of the receiver's own token endpoint.
    async fn token(&self, client: &SharedSecret) -> Result<String, String> {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let credentials = format!("{}:{}", encoded(&client.client_id), encoded(client.client_secret.expose()));
        let request = Request::post(format!("{}/oauth2/token", self.base))
            .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(b"grant_type=client_credentials".to_vec())
            .map_err(|error| error.to_string())?;
        let answer = self.egress.call(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let token = body["access_token"].as_str().map(str::to_owned);
        token.ok_or_else(|| format!("the receiver's token endpoint answered {status} without a token"))
    }
}

/// JSON for people: indented, and with a line end for the terminal.
fn print(status: u16, value: &Value) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
    HttpResponse::build(status).content_type("application/json").body(format!("{value:#}\n"))
}
