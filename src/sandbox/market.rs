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
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::Desk;
use super::bodies::to_xml;
use crate::clock::Timestamp;
use crate::config::Inbound;
use crate::event::EventResult;

/// What the real thing grants.
const TOKEN_LIFETIME: Duration = Duration::from_secs(43_199);
/// Events that are remembered; older ones are forgotten.
const MAX_EVENTS: usize = 100_000;
/// How long a slow answer takes.
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

/// The format an event is given out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Xml,
}

/// How things stand in the marketplace's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Standing {
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
    /// The format it is given out in whatever `Accept` says.
    pub(super) format: Option<Format>,
    pub(super) standing: Standing,
    pub(super) result: Option<EventResult>,
    /// How often it was read.
    pub(super) reads: u32,
    /// How often a result for it was taken: at most once.
    pub(super) results_taken: u32,
    /// How often a result for it was refused, because there was one or none was asked for.
    pub(super) results_refused: u32,
}

/// The marketplace's books.
#[derive(Debug)]
pub(super) struct Market {
    pub(super) base_url: String,
    client_id: String,
    client_secret: crate::config::Secret,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
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
            books: Mutex::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account that new events are about.
    pub(super) fn account(&self) -> String {
        self.books().account.clone().unwrap_or_else(|| "sandbox-account".to_owned())
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
            standing: Standing::Pending,
            result: None,
            reads: 0,
            results_taken: 0,
            results_refused: 0,
        };
        let mut books = self.books();
        books.events.insert(id, event);
        let number = books.next;
        books.next += 1;
        books.order.insert(number, id);
        if books.events.len() > MAX_EVENTS
            && let Some((_, oldest)) = books.order.pop_first()
        {
            books.events.remove(&oldest);
        }
        (id, self.event_url(id))
    }

    pub(super) fn event_url(&self, id: Uuid) -> String {
        format!("{}/api/integration/v1/events/{id}", self.base_url)
    }

    /// Notes what the receiver answered to a notification: a `200` with a result settles the event.
    pub(super) fn answered(&self, id: Uuid, status: u16, answer: &Value) {
        let mut books = self.books();
        let Some(event) = books.events.get_mut(&id) else { return };
        if event.asks_for_no_result() {
            if matches!(status, 200..=202) {
                event.standing = Standing::Complete;
            }
        } else if matches!(status, 200 | 201)
            && event.standing == Standing::Pending
            && let Ok(result) = serde_json::from_value(answer.clone())
        {
            books.settle(id, result);
        }
    }

    /// The newest `limit` events, newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<MarketEvent> {
        let books = self.books();
        books.order.values().rev().take(limit).filter_map(|id| books.events.get(id).cloned()).collect()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<MarketEvent> {
        self.books().events.get(&id).cloned()
    }

    /// An event's body, the format it is to have, and how this reading of it misbehaves.
    fn read(&self, id: Uuid) -> Option<(Value, Option<Format>, Option<Fault>)> {
        let mut books = self.books();
        let event = books.events.get_mut(&id)?;
        event.reads += 1;
        Some((event.body.clone(), event.format, event.fault.filter(|_| event.reads == 1)))
    }

    fn has_token(&self, token: &str, now: Timestamp) -> bool {
        self.books().tokens.get(token).is_some_and(|end| *end > now)
    }
}

impl Books {
    fn settle(&mut self, id: Uuid, result: EventResult) {
        let Some(event) = self.events.get_mut(&id) else { return };
        // Whatever a question is answered with, it is answered.
        let is_complete = result.success || event.event_type == "SUBSCRIPTION_STATUS";
        event.standing = if is_complete { Standing::Complete } else { Standing::Failed };
        event.results_taken += 1;
        if event.event_type == "SUBSCRIPTION_ORDER" && result.success && result.account_identifier.is_some() {
            self.account.clone_from(&result.account_identifier);
        }
        event.result = Some(result);
    }
}

/// Routes that wait for the sandbox to open have it as their `Desk`.
pub(super) type DeskData = web::Data<OnceLock<Desk>>;

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

async fn issue(desk: DeskData, request: HttpRequest, form: web::Form<TokenForm>) -> HttpResponse {
    let Some(desk) = desk.get() else { return closed() };
    let refusal = |status: StatusCode, error: &str| HttpResponse::build(status).json(json!({ "error": error }));
    let market = &desk.market;
    let expected = format!("{}:{}", market.client_id, market.client_secret.expose());
    let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let given = header.and_then(|header| STANDARD.decode(header.strip_prefix("Basic ")?).ok()).unwrap_or_default();
    let given = percent_encoding::percent_decode(&given).collect::<Vec<u8>>();
    if !bool::from(given.ct_eq(expected.as_bytes())) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if form.grant_type != "client_credentials" {
        return refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let token = Uuid::new_v4().to_string();
    let now = desk.clock.now();
    let mut books = market.books();
    books.tokens.retain(|_, end| *end > now);
    books.tokens.insert(token.clone(), now.plus(TOKEN_LIFETIME));
    drop(books);
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": TOKEN_LIFETIME.as_secs(),
        "scope": form.scope.as_deref().unwrap_or("ROLE_APPLICATION"),
    }))
}

async fn read(desk: DeskData, request: HttpRequest, id: web::Path<Uuid>) -> HttpResponse {
    let Some(desk) = desk.get() else { return closed() };
    if !is_authorized(desk, &request) {
        return unauthorized();
    }
    let Some((body, format, fault)) = desk.market.read(*id) else { return no_such_event() };
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

/// XML unless JSON is asked for, as the real thing answers.
fn asked_for(request: &HttpRequest) -> Format {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("json") { Format::Json } else { Format::Xml }
}

async fn take_result(
    desk: DeskData,
    request: HttpRequest,
    id: web::Path<Uuid>,
    result: web::Json<EventResult>,
) -> HttpResponse {
    let Some(desk) = desk.get() else { return closed() };
    if !is_authorized(desk, &request) {
        return unauthorized();
    }
    let refusal = |status: StatusCode, message: &str| HttpResponse::build(status).json(json!({ "message": message }));
    let mut books = desk.market.books();
    let Some(event) = books.events.get_mut(&id) else {
        drop(books);
        return no_such_event();
    };
    if event.asks_for_no_result() {
        event.results_refused += 1;
        return refusal(StatusCode::CONFLICT, "this event asks for no result");
    }
    if event.standing != Standing::Pending {
        event.results_refused += 1;
        return refusal(StatusCode::CONFLICT, "this event has a result");
    }
    let is_order = matches!(event.event_type.as_str(), "SUBSCRIPTION_ORDER" | "ADDON_ORDER");
    if is_order && result.success && result.account_identifier.as_deref().unwrap_or_default().is_empty() {
        event.results_refused += 1;
        return refusal(StatusCode::BAD_REQUEST, "a successful order must carry accountIdentifier");
    }
    let is_lost = event.fault == Some(Fault::LostResult);
    books.settle(*id, result.into_inner());
    drop(books);
    if is_lost {
        return HttpResponse::InternalServerError().body("sandbox: simulated loss of the answer");
    }
    HttpResponse::NoContent().finish()
}

fn is_authorized(desk: &Desk, request: &HttpRequest) -> bool {
    let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer "));
    token.is_some_and(|token| desk.market.has_token(token, desk.clock.now()))
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
