use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::future::{Ready, ready};
use url::form_urlencoded;

use super::answer::{Refusal, result};
use super::{Door, Integration};
use crate::authenticate::{AuthenticationError, Caller};
use crate::event::{EventResult, EventType, EventUrl, EventUrlError, Notification, State};
use crate::store::Recorded;

/// Bytes of other query parameters that are kept with an event.
pub(super) const MAX_PARAMETER_BYTES: usize = 2048;

/// The routes for one type of event each, and the type they stand for. A contract with every marketplace.
const TYPED_ROUTES: [(&str, Option<EventType>); 9] = [
    ("create", Some(EventType::SubscriptionOrder)),
    ("upgrade", Some(EventType::SubscriptionChange)),
    ("cancel", Some(EventType::SubscriptionCancel)),
    ("notify", Some(EventType::SubscriptionNotice)),
    ("assign", Some(EventType::UserAssignment)),
    ("unassign", Some(EventType::UserUnassignment)),
    ("event-status", Some(EventType::SubscriptionStatus)),
    // Five types by one URL.
    ("addon", None),
    ("user-updated", Some(EventType::UserUpdated)),
];

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/notifications").route(web::get().to(receive_any)));
    for (name, announced) in TYPED_ROUTES {
        let receive = move |Authenticated(caller): Authenticated, door: web::Data<Door>, request: HttpRequest| {
            let announced = announced.clone();
            async move { receive(&caller, &door, &request, announced).await }
        };
        app.service(web::resource(format!("/notifications/{name}")).route(web::get().to(receive)));
    }
}

async fn receive_any(
    Authenticated(caller): Authenticated,
    door: web::Data<Door>,
    request: HttpRequest,
) -> Result<HttpResponse, Refusal> {
    receive(&caller, &door, &request, None).await
}

/// Takes one notification: checks where its event lies, makes it durable, answers.
async fn receive(
    caller: &Caller,
    door: &Door,
    request: &HttpRequest,
    announced: Option<EventType>,
) -> Result<HttpResponse, Refusal> {
    let (event_url, parameters) = read_query(request.query_string())?;
    let integration = &door.integrations[caller.integration()];
    let url = EventUrl::parse(&event_url, &integration.marketplaces)
        .map_err(|error| foreign_or_other(door, &event_url, error))?;
    let is_notice = announced == Some(EventType::SubscriptionNotice);
    let notification = Notification::new(integration.name.clone(), url, announced, parameters);
    let id = notification.id();
    let recorded = door.store.record(&notification, door.clock.now()).await.inspect_err(|error| {
        tracing::error!(event.id = %id, %error, "notification not recorded");
    })?;
    Ok(match recorded {
        Recorded::New => {
            tracing::debug!(event.id = %id, integration = integration.name, event_url = %notification.url(), "recorded");
            let status = if is_notice { StatusCode::OK } else { StatusCode::ACCEPTED };
            result(status, &EventResult::success("event recorded"))
        }
        Recorded::Duplicate(progress) => {
            tracing::debug!(event.id = %id, state = %progress.state, "duplicate");
            match (progress.state, progress.result) {
                (State::Done, Some(stored)) => result(StatusCode::OK, &stored),
                // A ping or a notice: done, and nothing to tell.
                (State::Done, None) => result(StatusCode::OK, &EventResult::success("event done")),
                _ if is_notice => result(StatusCode::OK, &EventResult::success("event recorded before")),
                _ => result(StatusCode::ACCEPTED, &EventResult::success("event recorded before, and not finished yet")),
            }
        }
    })
}

/// Tells an event of another integration from one of nobody's.
fn foreign_or_other(door: &Door, event_url: &str, error: EventUrlError) -> Refusal {
    let everybodys = door.integrations.iter().flat_map(|Integration { marketplaces, .. }| marketplaces);
    let is_foreign = matches!(error, EventUrlError::Foreign(_));
    if is_foreign && EventUrl::parse(event_url, everybodys).is_ok() {
        return Refusal::OtherIntegration;
    }
    Refusal::EventUrl(error)
}

/// The event URL, decoded, and the other parameters as they came.
fn read_query(query: &str) -> Result<(String, String), Refusal> {
    let (mut event_url, mut old_name) = (None, None);
    let mut others = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "eventUrl" => &mut event_url,
            "url" => &mut old_name,
            _ => {
                others.append_pair(&name, &value);
                continue;
            }
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(Refusal::TwoEventUrls);
        }
    }
    if let (Some(_), Some(other)) = (&event_url, &old_name) {
        others.append_pair("url", other);
    }
    let event_url = event_url.or(old_name).filter(|url| !url.is_empty()).ok_or(Refusal::NoEventUrl)?;
    let others = others.finish();
    if others.len() > MAX_PARAMETER_BYTES {
        return Err(Refusal::LongQuery(others.len()));
    }
    Ok((event_url, others))
}

/// A route whose handler takes this cannot be reached without credentials.
struct Authenticated(Caller);

impl FromRequest for Authenticated {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request).map(Self).map_err(Refusal::from))
    }
}

fn authenticate(request: &HttpRequest) -> Result<Caller, AuthenticationError> {
    let door = request.app_data::<web::Data<Door>>().ok_or(AuthenticationError::Invalid)?;
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next().ok_or(AuthenticationError::Missing)?;
    if headers.next().is_some() {
        return Err(AuthenticationError::Malformed);
    }
    let header = header.to_str().map_err(|_| AuthenticationError::Malformed)?;
    let (scheme, token) = header.split_once(' ').ok_or(AuthenticationError::Malformed)?;
    // RFC 9110 §11.1: the scheme is compared without regard to case.
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthenticationError::Malformed);
    }
    door.issuer.verify(token.trim(), door.clock.now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_url_is_read_by_either_name_and_the_rest_is_kept() {
        for (query, url, others) in [
            ("eventUrl=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("url=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("eventUrl=https://m/e/1&lang=en&x=%20", "https://m/e/1", "lang=en&x=+"),
            ("a=b&eventUrl=https://m/e/1&url=https://other", "https://m/e/1", "a=b&url=https%3A%2F%2Fother"),
        ] {
            let read = read_query(query).unwrap_or_else(|refusal| panic!("{query}: {refusal}"));
            assert_eq!((read.0.as_str(), read.1.as_str()), (url, others), "{query}");
        }
    }
}
