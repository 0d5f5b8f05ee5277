use std::num::NonZeroUsize;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{IgnoredAny, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::problem::Problem;
use super::request::{self, Parameters, unfit};
use super::{Office, Operator, act, json, read};
use crate::event::{ErrorCode, EventId, EventRecord, EventResult, EventType, Flag, State, shown_event_url};
use crate::store::{Filter, History, OperatorAction, Page, Sequence, StoreError, StoredEvent};

/// Events on a page if the caller does not say, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Calls of the store for one page: enough for some million events, and no more than a caller waits for.
const MOST_STRETCHES: usize = 500;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(read("/api/v1/events", list))
        .service(read("/api/v1/export", export))
        .service(read("/api/v1/events/{id}", show))
        .service(act("/api/v1/events/{id}/retry", retry))
        .service(act("/api/v1/events/{id}/result", resolve));
}

/// An event as the API shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    id: EventId,
    token: String,
    event_url: String,
    integration: String,
    marketplace: String,
    #[serde(rename = "type")]
    kind: Option<EventType>,
    flag: Option<Flag>,
    account: Option<String>,
    state: State,
    received_at: String,
    updated_at: String,
    attempts: u32,
    result: Option<EventResult>,
    last_error: Option<String>,
}

impl From<EventRecord> for Summary {
    fn from(event: EventRecord) -> Self {
        let path = event.event_url.split('?').next().unwrap_or_default();
        let token = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        Self {
            id: event.id,
            token,
            event_url: shown_event_url(&event.event_url).into_owned(),
            integration: event.integration,
            marketplace: event.marketplace,
            kind: event.kind.or(event.announced),
            flag: event.flag,
            account: event.account,
            state: event.state,
            received_at: event.received_at.to_string(),
            updated_at: event.updated_at.to_string(),
            attempts: event.attempts,
            result: event.result,
            last_error: event.last_error,
        }
    }
}

async fn list(_: Operator, office: web::Data<Office>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let names = &["state", "type", "account", "integration", "from", "to", "limit", "cursor"];
    let query = Parameters::read(&request, names)?;
    let filter = Filter {
        state: query.text("state").map(|text| state(&text)).transpose()?,
        kind: query.text("type"),
        account: query.text("account"),
        integration: query.text("integration"),
        from: query.moment("from")?,
        to: query.moment("to")?,
    };
    if filter.from.zip(filter.to).is_some_and(|(from, to)| from > to) {
        return Err(Problem::bad_request("from is later than to, so no event lies between them; swap the two"));
    }
    let wanted = format!("a number from 1 on; no more than {MAX_LIMIT} are given at a time");
    let limit = query.parsed("limit", wanted)?.map_or(DEFAULT_LIMIT, NonZeroUsize::get);
    let cursor = match query.text("cursor") {
        Some(text) => Some(cursor(&office, &text).await?),
        None => None,
    };
    let page = whole_page(office.history.as_ref(), &filter, cursor, limit.min(MAX_LIMIT)).await?;
    let events: Vec<Summary> = page.events.into_iter().map(Summary::from).collect();
    let next = page.next.map(|next| next.to_string());
    let mut shown = json!({ "events": events, "next": next });
    if !page.unreadable.is_empty() {
        let unreadable =
            page.unreadable.into_iter().map(|(number, reason)| json!({"number": number, "reason": reason}));
        shown["unreadable"] = unreadable.collect();
    }
    json(HttpResponse::Ok(), &shown)
}

/// A page of up to `limit` events, unless they lie so far apart that it is time to answer with those that were found.
async fn whole_page(
    history: &dyn History,
    filter: &Filter,
    before: Option<Sequence>,
    limit: usize,
) -> Result<Page, StoreError> {
    let mut page = history.list(filter, before, limit).await?;
    for _ in 1..MOST_STRETCHES {
        let found = page.events.len() + page.unreadable.len();
        let Some(next) = page.next.filter(|_| found < limit) else { break };
        let more = history.list(filter, Some(next), limit - found).await?;
        page.events.extend(more.events);
        page.unreadable.extend(more.unreadable);
        page.next = more.next;
    }
    Ok(page)
}

fn state(text: &str) -> Result<State, Problem> {
    let known = IntoDeserializer::<serde::de::value::Error>::into_deserializer(text);
    State::deserialize(known).map_err(|_| unfit("state", text, &"received, fetched, handled, done, deferred or dead"))
}

/// A place that a list may have named: there is an event there or after it, since the newest event is never removed.
async fn cursor(office: &Office, text: &str) -> Result<Sequence, Problem> {
    let unfit = || unfit("cursor", text, &"the next of any list here; leave it out to begin with the newest event");
    let place = text.parse().ok().filter(|place| *place > 0).ok_or_else(unfit)?;
    let after = office.backup.export(place, 1).await?;
    if after.events.is_empty() && after.unreadable.is_empty() { Err(unfit()) } else { Ok(place) }
}

async fn show(_: Operator, office: web::Data<Office>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = parse_id(&id)?;
    let StoredEvent { record: event, body } = office.history.load(id, true).await?.ok_or_else(unknown_event)?;
    let body = body.map(shown_body);
    let (timeline, forgotten, charset) = (timeline(&event), event.timeline.forgotten(), event.charset.clone());
    let mut shown = json!(Summary::from(event));
    shown["timeline"] = json!(timeline);
    shown["timelineForgotten"] = json!(forgotten);
    shown["charset"] = json!(charset);
    let (body, encoding) = body.unzip();
    (shown["body"], shown["bodyEncoding"]) = (json!(body), json!(encoding));
    json(HttpResponse::Ok(), &shown)
}

/// A body as received: as text where it is UTF-8, and otherwise in Base64; and which of the two.
fn shown_body(bytes: Vec<u8>) -> (String, &'static str) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, "text"),
        Err(error) => (STANDARD.encode(error.as_bytes()), "base64"),
    }
}

/// `GET /api/v1/export?from=`: some events as they are kept, oldest first, and where the next ones begin.
async fn export(_: Operator, office: web::Data<Office>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let from = Parameters::read(&request, &["from"])?.parsed("from", "the next of any export, a number")?;
    json(HttpResponse::Ok(), &office.backup.export(from.unwrap_or(0), MAX_LIMIT).await?)
}

/// One line of an event's timeline.
#[derive(Serialize)]
struct Moment {
    at: String,
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What happened to an event, from its receipt on.
fn timeline(event: &EventRecord) -> Vec<Moment> {
    let announced = event.announced.as_ref().map(|announced| format!("announced as {announced}"));
    let received = Moment { at: event.received_at.to_string(), step: "received".to_owned(), note: announced };
    let steps = event.timeline.steps().iter();
    let steps = steps.map(|step| Moment { at: step.at.to_string(), step: step.step.clone(), note: step.note.clone() });
    std::iter::once(received).chain(steps).collect()
}

async fn retry(_: Operator, office: web::Data<Office>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    amend(&office, &id, OperatorAction::Rerun).await
}

/// The fields of a result, and no others: one that is misspelt would be lost on the way to the marketplace.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct ResultFields {
    success: IgnoredAny,
    error_code: IgnoredAny,
    message: IgnoredAny,
    account_identifier: IgnoredAny,
    user_identifier: IgnoredAny,
}

async fn resolve(
    _: Operator,
    office: web::Data<Office>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let result: EventResult = request::json::<ResultFields, _>(&*office.clock, &request, payload).await?;
    let id = parse_id(&id)?;
    let result = match (result.success, &result.error_code) {
        (false, None) => EventResult { error_code: Some(ErrorCode::UnknownError), ..result },
        _ => result,
    };
    amend(&office, &id.to_string(), OperatorAction::Resolve(result)).await
}

async fn amend(office: &Office, id: &str, action: OperatorAction) -> Result<HttpResponse, Problem> {
    let event = office.inbox.amend(parse_id(id)?, action, office.clock.read()).await?;
    tracing::info!(event.id = %event.id, state = %event.state, "changed by an operator");
    json(HttpResponse::Accepted(), &Summary::from(event))
}

fn parse_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| unknown_event())
}

fn unknown_event() -> Problem {
    Problem::not_found("there is no event with this id")
}
