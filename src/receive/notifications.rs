use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::future::{Ready, ready};
use std::time::Duration;

use super::answer::{Fault, Format, Refusal};
use super::{Door, Integration};
use crate::authenticate::{AuthenticationError, Caller};
use crate::event::{EventId, EventResult, EventType, EventUrl, EventUrlError, Notification, NotificationQuery, State};
use crate::store::{Recorded, Watch};

/// How long the URL for all types waits for the body to tell what was notified. A marketplace waits five seconds.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);

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
            async move { receive(&caller, &door, &request, announced, false).await }
        };
        app.service(web::resource(format!("/notifications/{name}")).route(web::get().to(receive)));
    }
}

async fn receive_any(
    Authenticated(caller): Authenticated,
    door: web::Data<Door>,
    request: HttpRequest,
) -> Result<HttpResponse, Refusal> {
    receive(&caller, &door, &request, None, true).await
}

/// Takes one notification and answers in the caller's format.
async fn receive(
    caller: &Caller,
    door: &Door,
    request: &HttpRequest,
    announced: Option<EventType>,
    by_shared_url: bool,
) -> Result<HttpResponse, Refusal> {
    let format = Format::asked_by(request);
    match take(caller, door, request.query_string(), announced, by_shared_url).await {
        Ok((status, answer)) => Ok(format.result(status, &answer)),
        Err(fault) => Err(Refusal { fault, format }),
    }
}

/// Checks where the event of a notification lies, makes it durable, and says what to answer.
async fn take(
    caller: &Caller,
    door: &Door,
    query: &str,
    announced: Option<EventType>,
    by_shared_url: bool,
) -> Result<(StatusCode, EventResult), Fault> {
    let NotificationQuery { event_url, parameters } = NotificationQuery::parse(query)?;
    let integration = &door.integrations[caller.integration()];
    let url = EventUrl::parse(&event_url, &integration.marketplaces)
        .map_err(|error| foreign_or_other(door, &event_url, error))?;
    let is_notice = announced == Some(EventType::SubscriptionNotice);
    let notification = Notification::new(integration.name.clone(), url, announced, parameters);
    let id = notification.id();
    // Only the URL for all types does not know yet what is notified.
    let watch = by_shared_url.then(|| door.store.watch(id));
    let recorded = door.store.record(&notification, door.clock.now()).await.inspect_err(|error| {
        tracing::error!(event.id = %id, %error, "notification not recorded");
    })?;
    Ok(match recorded {
        Recorded::New => {
            tracing::debug!(event.id = %id, integration = integration.name, event_url = %notification.url(), "recorded");
            let asks_for_no_result = match watch {
                Some(watch) => until_known_to_ask_for_no_result(door, id, watch).await,
                None => is_notice,
            };
            let status = if asks_for_no_result { StatusCode::OK } else { StatusCode::ACCEPTED };
            (status, EventResult::success("event recorded"))
        }
        Recorded::Duplicate(progress) => {
            tracing::debug!(event.id = %id, state = %progress.state, "duplicate");
            match (progress.state, progress.result) {
                (State::Done, Some(stored)) => (StatusCode::OK, stored),
                // A ping or a notice: done, and nothing to tell.
                (State::Done, None) => (StatusCode::OK, EventResult::success("event done")),
                _ if is_notice => (StatusCode::OK, EventResult::success("event recorded before")),
                _ => (StatusCode::ACCEPTED, EventResult::success("event recorded before, and not finished yet")),
            }
        }
    })
}

/// Waits, so long and no longer, until the event's body is read, and says whether it is a ping or a notice.
///
/// The notification is durable already: whatever goes wrong here, the answer is still one of success.
async fn until_known_to_ask_for_no_result(door: &Door, id: EventId, mut watch: Watch) -> bool {
    let known = async {
        loop {
            let event = door.store.event(id).await.ok().flatten()?;
            if event.state != State::Received {
                return Some(event.asks_for_no_result());
            }
            watch.moved().await;
        }
    };
    let limit = door.clock.now().plus(FETCH_PATIENCE);
    tokio::select! {
        known = known => known.unwrap_or(false),
        () = door.clock.sleep_until(limit) => false,
    }
}

/// Tells an event of another integration from one of nobody's.
fn foreign_or_other(door: &Door, event_url: &str, error: EventUrlError) -> Fault {
    let everybodys = door.integrations.iter().flat_map(|Integration { marketplaces, .. }| marketplaces);
    let is_foreign = matches!(error, EventUrlError::Foreign(_));
    if is_foreign && EventUrl::parse(event_url, everybodys).is_ok() {
        return Fault::OtherIntegration;
    }
    Fault::EventUrl(error)
}

/// A route whose handler takes this cannot be reached without credentials.
struct Authenticated(Caller);

impl FromRequest for Authenticated {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match authenticate(request) {
            Ok(caller) => Ok(Self(caller)),
            Err(error) => Err(Refusal { fault: error.into(), format: Format::asked_by(request) }),
        })
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
