//! The marketplace's own routes: tokens, events, results.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, AUTHORIZATION};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::SandboxState;
use super::bodies::to_xml;
use crate::clock::Timestamp;
use crate::config::{Inbound, Secret};
use crate::event::EventResult;
use crate::http;

/// The lifetime of the tokens that AppDirect issues.
const TOKEN_LIFETIME: Duration = Duration::from_secs(43_199);
/// How many events are kept; the oldest one goes first.
const MAX_EVENTS: usize = 100_000;
/// The delay of [`Fault::Slow`].
const SLOW: Duration = Duration::from_secs(3);

/// How a simulated event misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// It is notified twice.
    Duplicate,
    /// The first reading takes long.
    Slow,
    /// The first reading is answered 500.
    Error,
    /// The first reading is answered 401.
    Unauthorized,
    /// The first reading is answered with something that is no event.
    Garbage,
    /// The first result is taken, and its answer lost.
    LostResult,
}

/// The format of an event's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Xml,
}

/// What has become of an event in the marketplace's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventStatus {
    Pending,
    Complete,
    Failed,
}

/// An event as the marketplace keeps it.
#[derive(Debug, Clone)]
pub(super) struct MarketEvent {
    pub(super) id: Uuid,
    pub(super) event_type: String,
    pub(super) body: Value,
    pub(super) fault: Option<Fault>,
    /// The format of its body, whatever `Accept` says.
    pub(super) format: Option<Format>,
    pub(super) status: EventStatus,
    pub(super) result: Option<EventResult>,
    pub(super) reads: u32,
    pub(super) results_taken: u32,
    /// Results that came after the first one, or for an event that has none.
    pub(super) results_refused: u32,
}

/// The marketplace: its credentials, and what it knows.
#[derive(Debug)]
pub(super) struct Market {
    pub(super) base_url: String,
    client_id: String,
    client_secret: Secret,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tokens: HashMap<String, Timestamp>,
    events: HashMap<Uuid, MarketEvent>,
    order: BTreeMap<u64, Uuid>,
    next: u64,
    /// The account of the latest successful order.
    account: Option<String>,
}

impl MarketEvent {
    fn asks_for_no_result(&self) -> bool {
        self.event_type == "SUBSCRIPTION_NOTICE" || self.body["flag"] == "STATELESS"
    }
}

impl Market {
    pub(super) fn new(base_url: String, inbound: &Inbound) -> Self {
        Self {
            base_url,
            client_id: inbound.client_id.clone(),
            client_secret: inbound.client_secret.clone(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account that new events are about.
    pub(super) fn account(&self) -> String {
        self.state().account.clone().unwrap_or_else(|| "sandbox-account".to_owned())
    }

    pub(super) fn add(
        &self,
        event_type: &str,
        body: Value,
        fault: Option<Fault>,
        format: Option<Format>,
    ) -> (Uuid, String) {
        let id = Uuid::new_v4();
        let event = MarketEvent {
            id,
            event_type: event_type.to_owned(),
            body,
            fault,
            format,
            status: EventStatus::Pending,
            result: None,
            reads: 0,
            results_taken: 0,
            results_refused: 0,
        };
        let mut state = self.state();
        state.events.insert(id, event);
        let number = state.next;
        state.next += 1;
        state.order.insert(number, id);
        if state.events.len() > MAX_EVENTS
            && let Some((_, oldest)) = state.order.pop_first()
        {
            state.events.remove(&oldest);
        }
        (id, self.event_url(id))
    }

    pub(super) fn event_url(&self, id: Uuid) -> String {
        format!("{}/api/integration/v1/events/{id}", self.base_url)
    }

    /// Takes the receiver's answer to a notification: a `200` with a result settles the event.
    pub(super) fn answered(&self, id: Uuid, status: u16, answer: &Value) {
        let mut state = self.state();
        let Some(event) = state.events.get_mut(&id) else { return };
        if event.asks_for_no_result() {
            if matches!(status, 200..=202) {
                event.status = EventStatus::Complete;
            }
        } else if matches!(status, 200 | 201)
            && event.status == EventStatus::Pending
            && let Ok(result) = serde_json::from_value(answer.clone())
        {
            state.settle(id, result);
        }
    }

    /// The newest `limit` events, newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<MarketEvent> {
        let state = self.state();
        state.order.values().rev().take(limit).filter_map(|id| state.events.get(id).cloned()).collect()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<MarketEvent> {
        self.state().events.get(&id).cloned()
    }

    /// The body of an event, its format, and the fault of this reading, which only the first one has.
    fn read(&self, id: Uuid) -> Option<(Value, Option<Format>, Option<Fault>)> {
        let mut state = self.state();
        let event = state.events.get_mut(&id)?;
        event.reads += 1;
        Some((event.body.clone(), event.format, event.fault.filter(|_| event.reads == 1)))
    }

    fn has_token(&self, token: &str, now: Timestamp) -> bool {
        self.state().tokens.get(token).is_some_and(|end| *end > now)
    }
}

impl State {
    fn settle(&mut self, id: Uuid, result: EventResult) {
        let Some(event) = self.events.get_mut(&id) else { return };
        // A status request is complete whatever its answer is.
        let is_complete = result.success || event.event_type == "SUBSCRIPTION_STATUS";
        event.status = if is_complete { EventStatus::Complete } else { EventStatus::Failed };
        event.results_taken += 1;
        if event.event_type == "SUBSCRIPTION_ORDER" && result.success && result.account_identifier.is_some() {
            self.account.clone_from(&result.account_identifier);
        }
        event.result = Some(result);
    }
}

/// What a route takes: nothing is in it until the sandbox is open.
pub(super) type Shared = web::Data<OnceLock<SandboxState>>;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(super::act("/oauth2/token", issue))
        .service(super::read("/api/integration/v1/events/{id}", read))
        .service(super::act("/api/integration/v1/events/{id}/result", take_result));
}

#[derive(Deserialize)]
struct TokenForm {
    grant_type: String,
    scope: Option<String>,
}

async fn issue(sandbox: Shared, request: HttpRequest, form: web::Form<TokenForm>) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    let refusal = |status: StatusCode, error: &str| HttpResponse::build(status).json(json!({ "error": error }));
    let market = &sandbox.market;
    let expected = format!("{}:{}", market.client_id, market.client_secret.expose());
    let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let given = header.and_then(|header| STANDARD.decode(header.strip_prefix("Basic ")?).ok()).unwrap_or_default();
    let given = percent_encoding::percent_decode(&given).collect::<Vec<u8>>();
    if !http::is_same_secret(&given, expected.as_bytes()) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if form.grant_type != "client_credentials" {
        return refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let token = Uuid::new_v4().to_string();
    let now = sandbox.clock.now();
    let mut state = market.state();
    state.tokens.retain(|_, end| *end > now);
    state.tokens.insert(token.clone(), now.plus(TOKEN_LIFETIME));
    drop(state);
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": TOKEN_LIFETIME.as_secs(),
        "scope": form.scope.as_deref().unwrap_or("ROLE_APPLICATION"),
    }))
}

async fn read(sandbox: Shared, request: HttpRequest, id: web::Path<Uuid>) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    if !is_authorized(sandbox, &request) {
        return unauthorized();
    }
    let Some((body, format, fault)) = sandbox.market.read(*id) else { return no_such_event() };
    match fault {
        Some(Fault::Unauthorized) => return unauthorized(),
        Some(Fault::Error) => return HttpResponse::InternalServerError().body("sandbox: simulated error"),
        Some(Fault::Garbage) => {
            return HttpResponse::Ok().content_type("text/html").body("<html>sandbox: simulated garbage");
        }
        Some(Fault::Slow) => tokio::time::sleep(SLOW).await,
        Some(Fault::Duplicate | Fault::LostResult) | None => {}
    }
    match format.unwrap_or_else(|| asked_for(&request)) {
        Format::Json => HttpResponse::Ok().json(body),
        Format::Xml => HttpResponse::Ok().content_type("application/xml").body(to_xml(&body)),
    }
}

/// XML unless the request asks for JSON, as AppDirect answers.
fn asked_for(request: &HttpRequest) -> Format {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("json") { Format::Json } else { Format::Xml }
}

async fn take_result(
    sandbox: Shared,
    request: HttpRequest,
    id: web::Path<Uuid>,
    result: web::Json<EventResult>,
) -> HttpResponse {
    let Some(sandbox) = sandbox.get() else { return closed() };
    if !is_authorized(sandbox, &request) {
        return unauthorized();
    }
    let refusal = |status: StatusCode, message: &str| HttpResponse::build(status).json(json!({ "message": message }));
    let mut state = sandbox.market.state();
    let Some(event) = state.events.get_mut(&id) else {
        drop(state);
        return no_such_event();
    };
    if event.asks_for_no_result() {
        event.results_refused += 1;
        return refusal(StatusCode::CONFLICT, "this event asks for no result");
    }
    if event.status != EventStatus::Pending {
        event.results_refused += 1;
        return refusal(StatusCode::CONFLICT, "this event has a result");
    }
    let is_order = matches!(event.event_type.as_str(), "SUBSCRIPTION_ORDER" | "ADDON_ORDER");
    if is_order && result.success && result.account_identifier.as_deref().unwrap_or_default().is_empty() {
        event.results_refused += 1;
        return refusal(StatusCode::BAD_REQUEST, "a successful order must carry accountIdentifier");
    }
    let is_lost = event.fault == Some(Fault::LostResult);
    state.settle(*id, result.into_inner());
    drop(state);
    if is_lost {
        return HttpResponse::InternalServerError().body("sandbox: simulated loss of the answer");
    }
    HttpResponse::NoContent().finish()
}

fn is_authorized(sandbox: &SandboxState, request: &HttpRequest) -> bool {
    http::bearer_token(request).is_some_and(|token| sandbox.market.has_token(token, sandbox.clock.now()))
}

pub(super) fn closed() -> HttpResponse {
    HttpResponse::ServiceUnavailable().body("the sandbox is starting\n")
}

pub(super) fn no_such_event() -> HttpResponse {
    HttpResponse::NotFound().json(json!({ "message": "there is no such event" }))
}

fn unauthorized() -> HttpResponse {
    HttpResponse::Unauthorized().insert_header(("WWW-Authenticate", "Bearer")).finish()
}
