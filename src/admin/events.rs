use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::problem::Problem;
use super::{Office, Operator};
use crate::clock::Timestamp;
use crate::event::{ErrorCode, EventId, EventRecord, EventResult, EventType, Flag, State};
use crate::store::{Amendment, Filter, Sequence};

/// Events on a page if the caller does not say, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/api/v1/events").route(web::get().to(list)))
        .service(web::resource("/api/v1/export").route(web::get().to(export)))
        .service(web::resource("/api/v1/events/{id}").route(web::get().to(show)))
        .service(web::resource("/api/v1/events/{id}/retry").route(web::post().to(retry)))
        .service(web::resource("/api/v1/events/{id}/result").route(web::post().to(resolve)));
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
            event_url: event.event_url,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    state: Option<State>,
    #[serde(rename = "type")]
    kind: Option<String>,
    account: Option<String>,
    integration: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<Sequence>,
}

async fn list(_: Operator, office: web::Data<Office>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let query = query.into_inner();
    let filter = Filter {
        state: query.state,
        kind: query.kind,
        account: query.account,
        integration: query.integration,
        from: moment("from", query.from)?,
        to: moment("to", query.to)?,
    };
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let page = office.store.list(&filter, query.cursor, limit).await?;
    let events: Vec<Summary> = page.events.into_iter().map(Summary::from).collect();
    let mut shown = json!({ "events": events, "next": page.next.map(|next| next.to_string()) });
    if !page.unreadable.is_empty() {
        let unreadable =
            page.unreadable.into_iter().map(|(number, reason)| json!({"number": number, "reason": reason}));
        shown["unreadable"] = unreadable.collect();
    }
    Ok(HttpResponse::Ok().json(shown))
}

async fn show(_: Operator, office: web::Data<Office>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = parse_id(&id)?;
    let event = office.store.event(id).await?.ok_or_else(unknown_event)?;
    let body = office.store.body(id).await?.map(|body| String::from_utf8_lossy(&body.bytes).into_owned());
    let (timeline, forgotten) = (timeline(&event), event.timeline.forgotten());
    let mut shown = json!(Summary::from(event));
    shown["timeline"] = json!(timeline);
    shown["timelineForgotten"] = json!(forgotten);
    shown["body"] = json!(body);
    Ok(HttpResponse::Ok().json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    #[serde(default)]
    from: Sequence,
}

/// `GET /api/v1/export?from=`: some events as they are kept, oldest first, and where the next ones begin.
async fn export(
    _: Operator,
    office: web::Data<Office>,
    query: web::Query<ExportQuery>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(office.store.export(query.from, MAX_LIMIT).await?))
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
    amend(&office, &id, Amendment::Rerun).await
}

async fn resolve(
    _: Operator,
    office: web::Data<Office>,
    id: web::Path<String>,
    result: web::Json<EventResult>,
) -> Result<HttpResponse, Problem> {
    let result = result.into_inner();
    let id = parse_id(&id)?;
    let result = match (result.success, &result.error_code) {
        (false, None) => EventResult { error_code: Some(ErrorCode::UnknownError), ..result },
        _ => result,
    };
    amend(&office, &id.to_string(), Amendment::Resolve(result)).await
}

async fn amend(office: &Office, id: &str, amendment: Amendment) -> Result<HttpResponse, Problem> {
    let event = office.store.amend(parse_id(id)?, amendment, office.clock.read()).await?;
    tracing::info!(event.id = %event.id, state = %event.state, "changed by an operator");
    Ok(HttpResponse::Accepted().json(Summary::from(event)))
}

fn parse_id(id: &str) -> Result<EventId, Problem> {
    id.parse().map_err(|_| unknown_event())
}

fn unknown_event() -> Problem {
    Problem::not_found("there is no event with this id")
}

fn moment(name: &str, text: Option<String>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let moment: jiff::Timestamp = text
        .parse()
        .map_err(|error| Problem::bad_request(&format!("{name}={text} is not a moment in RFC 3339 ({error})")))?;
    Ok(Some(Timestamp::from_millis(moment.as_millisecond())))
}
