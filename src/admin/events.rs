//! The event routes: list, show, export, retry, resolve.

use std::num::NonZeroUsize;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::api::{
    BodyEncoding, EventDetail, EventPage, EventQuery, EventSummary, ExportPage, Problem, ResolveRequest, TimelineEntry,
    UnreadableEvent,
};
use super::request::{self, Parameters, unfit};
use super::{AdminState, Operator, act, json, read, sorted_json};
use crate::event::{EventId, EventRecord, State};
use crate::store::{Filter, History, OperatorAction, Page, Sequence, StoreError, StoredEvent};

/// How many events a page has if the caller does not say.
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

async fn list(_: Operator, state: web::Data<AdminState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Parameters::read(&request, EventQuery::NAMES)?;
    let filter = Filter {
        state: query.text("state").map(|text| state_named(&text)).transpose()?,
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
        Some(text) => Some(cursor(&state, &text).await?),
        None => None,
    };
    let page = whole_page(state.history.as_ref(), &filter, cursor, limit.min(MAX_LIMIT)).await?;
    let unreadable = page.unreadable.into_iter().map(|(number, reason)| UnreadableEvent { number, reason });
    let page = EventPage {
        events: page.events.into_iter().map(EventSummary::from).collect(),
        next: page.next.map(|next| next.to_string()),
        unreadable: unreadable.collect(),
    };
    sorted_json(HttpResponse::Ok(), &page)
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

fn state_named(text: &str) -> Result<State, Problem> {
    let known = IntoDeserializer::<serde::de::value::Error>::into_deserializer(text);
    State::deserialize(known).map_err(|_| unfit("state", text, &"received, fetched, handled, done, deferred or dead"))
}

/// Reads a cursor. One that a list has given has an event at its place or after it, since the newest event is never
/// removed.
async fn cursor(state: &AdminState, text: &str) -> Result<Sequence, Problem> {
    let unfit = || unfit("cursor", text, &"the next of any list here; leave it out to begin with the newest event");
    let place = text.parse().ok().filter(|place| *place > 0).ok_or_else(unfit)?;
    let after = state.backup.export(place, 1).await?;
    if after.events.is_empty() && after.unreadable.is_empty() { Err(unfit()) } else { Ok(place) }
}

async fn show(
    _: Operator,
    state: web::Data<AdminState>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::read(&request, &[])?;
    let id = parse_id(&id)?;
    let StoredEvent { record: event, body } = state.history.load(id, true).await?.ok_or_else(unknown_event)?;
    let (body, body_encoding) = body.map(shown_body).unzip();
    let detail = EventDetail {
        timeline: timeline(&event),
        timeline_forgotten: event.timeline.forgotten(),
        charset: event.charset.clone(),
        body,
        body_encoding,
        summary: EventSummary::from(event),
    };
    sorted_json(HttpResponse::Ok(), &detail)
}

fn shown_body(bytes: Vec<u8>) -> (String, BodyEncoding) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, BodyEncoding::Text),
        Err(error) => (STANDARD.encode(error.as_bytes()), BodyEncoding::Base64),
    }
}

async fn export(_: Operator, state: web::Data<AdminState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let from = Parameters::read(&request, &["from"])?.parsed("from", "the next of any export, a number")?;
    let page = ExportPage::from(state.backup.export(from.unwrap_or(0), MAX_LIMIT).await?);
    json(HttpResponse::Ok(), &page)
}

fn timeline(event: &EventRecord) -> Vec<TimelineEntry> {
    let note = event.route_type.as_ref().map(|route_type| format!("announced as {route_type}"));
    let received = TimelineEntry { at: event.received_at.to_string(), step: "received".to_owned(), note };
    let steps = event.timeline.steps().iter().map(|step| TimelineEntry {
        at: step.at.to_string(),
        step: step.step.clone(),
        note: step.note.clone(),
    });
    std::iter::once(received).chain(steps).collect()
}

async fn retry(
    _: Operator,
    state: web::Data<AdminState>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::read(&request, &[])?;
    amend(&state, &id, OperatorAction::Rerun).await
}

async fn resolve(
    _: Operator,
    state: web::Data<AdminState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Parameters::read(&request, &[])?;
    let result: ResolveRequest = request::json(&*state.clock, &request, payload).await?;
    amend(&state, &id, OperatorAction::Resolve(result.into())).await
}

async fn amend(state: &AdminState, id: &str, action: OperatorAction) -> Result<HttpResponse, Problem> {
    let event = state.inbox.amend(parse_id(id)?, action, state.clock.read()).await?;
    tracing::info!(event.id = %event.id, state = %event.state, "changed by an operator");
    json(HttpResponse::Accepted(), &EventSummary::from(event))
}

fn parse_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| unknown_event())
}

fn unknown_event() -> Problem {
    Problem::not_found("there is no event with this id")
}
