//! The notification routes: check the event URL, record, answer.

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{self, ErrorResponse, Format, ReceiveError};
use super::{Integration, PublicListener};
use crate::authenticate::{AuthenticationError, Caller, RequestCredentials};
use crate::clock::Moment;
use crate::config::Answers;
use crate::event::{
    EventId, EventRecord, EventResult, EventType, EventUrl, EventUrlError, Notification, NotificationQuery, State,
};
use crate::store::{OperatorAction, Recorded, StoreError, Subscription};

/// How long a marketplace waits for an answer. A result that is ready later is reported.
const CALLERS_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is held back for the result, at most.
const RESULT_PATIENCE: Duration = Duration::from_secs(4);
/// How long after a result was handed over in an answer it is reported all the same: that an answer was sent does not say
/// that anybody had it (G4). The marketplace has made use of it by then, and says so.
const HANDED_OVER_AT_LEAST: Duration = Duration::from_secs(10);
const HANDED_OVER_SPREAD_MILLIS: u64 = 20_000;
/// How long the store may take, in all, until an event is recorded: a marketplace that waits longer has gone, and one that
/// is told rings again.
const RECORD_PATIENCE: Duration = Duration::from_secs(4);
/// How long a URL for several types waits for the body to tell what was notified.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);
/// How much of a path is logged, in characters.
const MAX_LOGGED_PATH: usize = 200;

/// What a route's notifications are of.
#[derive(Debug, Clone)]
enum RouteType {
    /// One type.
    One(EventType),
    /// Any of the add-on types.
    AnyAddon,
    /// Anything.
    Anything,
}

/// The routes and what they stand for. A contract with every marketplace.
const ROUTES: [(&str, RouteType); 10] = [
    ("/notifications", RouteType::Anything),
    ("/notifications/create", RouteType::One(EventType::SubscriptionOrder)),
    ("/notifications/upgrade", RouteType::One(EventType::SubscriptionChange)),
    ("/notifications/cancel", RouteType::One(EventType::SubscriptionCancel)),
    ("/notifications/notify", RouteType::One(EventType::SubscriptionNotice)),
    ("/notifications/assign", RouteType::One(EventType::UserAssignment)),
    ("/notifications/unassign", RouteType::One(EventType::UserUnassignment)),
    ("/notifications/event-status", RouteType::One(EventType::SubscriptionStatus)),
    ("/notifications/addon", RouteType::AnyAddon),
    ("/notifications/user-updated", RouteType::One(EventType::UserUpdated)),
];

const ADDON_TYPES: [EventType; 5] = [
    EventType::AddonOrder,
    EventType::AddonChange,
    EventType::AddonCancel,
    EventType::AddonBind,
    EventType::AddonUnbind,
];

impl RouteType {
    /// Whether the answer may have to wait for the event to be read, or worked.
    fn may_wait(&self, answers: &Answers) -> bool {
        match self {
            Self::One(kind) => answers.wait_for(kind),
            Self::AnyAddon => ADDON_TYPES.iter().any(|kind| answers.wait_for(kind)),
            Self::Anything => true,
        }
    }

    fn kind(&self) -> Option<&EventType> {
        match self {
            Self::One(kind) => Some(kind),
            Self::AnyAddon | Self::Anything => None,
        }
    }
}

pub(super) fn routes(app: &mut web::ServiceConfig) {
    for (path, route_type) in ROUTES {
        let receive =
            move |Authenticated(caller): Authenticated, listener: web::Data<PublicListener>, request: HttpRequest| {
                let route_type = route_type.clone();
                async move { receive(&caller, &listener.into_inner(), &request, &route_type).await }
            };
        app.service(super::readable(path, receive));
    }
}

/// The answer to whatever no route is for. A marketplace that was set up with a wrong address is told from strangers by
/// its credentials, and named in the log; what either is answered does not differ.
pub(super) async fn no_such_route(listener: web::Data<PublicListener>, request: HttpRequest) -> HttpResponse {
    let (path, query) = (request.path(), request.query_string());
    // What is joined to the path by a slip is told by the parameter's name.
    let is_about_events = path.contains("/notifications")
        || [path, query].into_iter().any(names_event_url)
        || NotificationQuery::parse(query).is_ok();
    let is_notification = request.method().is_safe() && is_about_events;
    if is_notification
        && let Ok(caller) = listener.caller_of(&request).await
        && let Some(times) = listener.log.admit("no_such_route")
    {
        let path: String = without_values(path).chars().take(MAX_LOGGED_PATH).collect();
        let integration = caller.integration();
        tracing::warn!(
            integration,
            path,
            prefix = listener.prefix,
            times,
            "a marketplace notifies an address that is no route, so its event is not recorded; in the marketplace, \
             configure the URLs below server.public_url, as the documentation lists them, and see that a proxy passes \
             the path on whole"
        );
    }
    answer::no_such_route(&request)
}

/// Whether a text has `eventUrl` in it, in whatever spelling.
fn names_event_url(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
    letters.collect::<String>().contains("eventurl")
}

/// A path up to the value of the first parameter that was joined to it by a slip: values may be credentials.
fn without_values(path: &str) -> &str {
    // However often it was encoded.
    let is_sign = |(at, _): &(usize, char)| {
        let rest = &path[*at..];
        let encoded = rest.strip_prefix('%').map(|rest| rest.trim_start_matches("25"));
        let digits = encoded.and_then(|rest| rest.get(..2));
        rest.starts_with(['=', ';']) || digits.is_some_and(|digits| matches!(digits, "3D" | "3d" | "3B" | "3b"))
    };
    let end = path.char_indices().find(is_sign).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

/// What a notification is answered.
#[derive(Debug)]
enum Answer {
    /// The event is durable, and its result will be reported if it has one.
    Accepted(&'static str),
    /// Nothing more will come of it.
    Over(EventResult),
    /// The result itself, which is left to this answer.
    Result(EventId, EventResult),
}

/// Takes one notification and answers in the caller's format.
async fn receive(
    caller: &Caller,
    listener: &Arc<PublicListener>,
    request: &HttpRequest,
    route_type: &RouteType,
) -> Result<HttpResponse, ErrorResponse> {
    let format = Format::asked_by(request);
    // An answer without a body can give no result, so none is waited for. The event is recorded as by GET: a 2xx says
    // that it is (G1).
    let is_head = request.method() == Method::HEAD;
    match listener.take(caller, request.query_string(), route_type, is_head).await {
        Ok(Answer::Accepted(words)) => Ok(format.result(StatusCode::ACCEPTED, &EventResult::success(words))),
        Ok(Answer::Over(result)) => Ok(format.result(StatusCode::OK, &result)),
        Ok(Answer::Result(id, result)) => {
            let listener = Arc::clone(listener);
            let given = move || drop(actix_web::rt::spawn(async move { listener.note_as_handed_over(id).await }));
            Ok(format.giving(&result, given))
        }
        Err(error) => {
            listener.name_in_log(caller, request, &error);
            Err(ErrorResponse::new(error, format))
        }
    }
}

impl PublicListener {
    /// Checks where the event of a notification lies, makes it durable, and says what to answer.
    async fn take(
        &self,
        caller: &Caller,
        query: &str,
        route_type: &RouteType,
        is_head: bool,
    ) -> Result<Answer, ReceiveError> {
        let NotificationQuery { event_url, parameters, oddity } = NotificationQuery::parse(query)?;
        let integration = self.integrations.iter().find(|integration| integration.name == caller.integration());
        let integration = integration.ok_or(AuthenticationError::Invalid)?;
        let everybodys = self.integrations.iter().flat_map(|Integration { marketplaces, .. }| marketplaces);
        let url = EventUrl::parse_among(&event_url, &integration.marketplaces, everybodys)
            .map_err(|error| foreign_or_other(self, &event_url, error))?;
        if let Some(oddity) = oddity
            && let Some(times) = self.log.admit(oddity.name())
        {
            tracing::warn!(integration = integration.name, times, "{oddity}; the event is taken all the same");
        }
        let former = EventId::former(&integration.name, &url);
        let now = self.clock.read();
        let deadline = now.monotonic.plus(RECORD_PATIENCE);
        let may_wait = !is_head && route_type.may_wait(&integration.answers);
        let mut notification = Notification::new(integration.name.clone(), url, route_type.kind().cloned(), parameters)
            .with_response_deadline(may_wait.then(|| now.wall.plus(CALLERS_PATIENCE)));
        // An event that an earlier release recorded under this spelling of its URL keeps its name.
        if let Some(former) = former
            && self
                .before(deadline, self.history.load(former, false))
                .await
                .inspect_err(not_recorded(former))?
                .is_some()
        {
            notification = notification.known_as(former);
        }
        let id = notification.id();
        let subscription = may_wait.then(|| self.history.subscribe(id));
        // What is recorded after the deadline is worked all the same; no 2xx was promised for it.
        let recorded = self.before(deadline, self.inbox.record(&notification, now)).await;
        let recorded = recorded.inspect_err(not_recorded(id))?;
        let words = match recorded {
            Recorded::New => {
                tracing::debug!(event.id = %id, integration = integration.name, event_url = %notification.url(), "recorded");
                "event recorded"
            }
            Recorded::Duplicate(event) => {
                tracing::debug!(event.id = %id, state = %event.state, "duplicate");
                let repeated = self.repeat(&event, deadline).await;
                if let Some(result) = repeated.inspect_err(not_recorded(id))? {
                    return Ok(Answer::Over(result));
                }
                match event.state {
                    State::Dead if !event.may_recover => "event recorded before; it waits for the vendor's operator",
                    _ => "event recorded before, and not finished yet",
                }
            }
        };
        if route_type.kind() == Some(&EventType::SubscriptionNotice) {
            return Ok(Answer::Over(EventResult::success(words)));
        }
        let decided = match subscription {
            Some(subscription) => self.until_decided(id, subscription, integration, route_type, deadline).await,
            None => None,
        };
        Ok(decided.unwrap_or(Answer::Accepted(words)))
    }

    /// What the store says to a question, unless it takes longer than until `deadline`.
    async fn before<T>(
        &self,
        deadline: Moment,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            // No timer is set for what is there at once.
            biased;
            answer = answer => answer,
            () = self.clock.sleep_until(deadline) => {
                Err(StoreError::Unavailable("it does not answer in time".to_owned()))
            }
        }
    }

    /// The result of an event that is notified again, if it has one.
    ///
    /// A marketplace rings again because it misses something. So what waits for its next try is tried at once, whatever
    /// its stage; what died of something that may have passed is taken up again; and so is a result whose report died. A
    /// result of an event that is done is answered, and that is all: also where the marketplace did not confirm it.
    ///
    /// Fails if an event that nobody works on any more cannot be taken up again: an answer of success would be the last
    /// that was heard of it.
    async fn repeat(&self, event: &EventRecord, deadline: Moment) -> Result<Option<EventResult>, StoreError> {
        let now = self.clock.read();
        match event.state {
            // The first caller is about to be answered, or its time runs out and the result is reported.
            State::Handled if event.awaiting_response => {}
            State::Received | State::Fetched | State::Handled => {
                // It is worked when its time has come, if not at once.
                if let Err(error) = self.before(deadline, self.inbox.make_due(event.id, now)).await {
                    tracing::warn!(event.id = %event.id, %error, "an event that was notified again is not brought forward");
                }
            }
            State::Dead if event.may_recover || event.result.is_some() => {
                match self.before(deadline, self.inbox.amend(event.id, OperatorAction::Rerun, now)).await {
                    // Another duplicate was first, and perhaps a worker after it.
                    Ok(_) | Err(StoreError::Illegal(_) | StoreError::Locked) => {}
                    Err(error) => return Err(error),
                }
            }
            State::Done | State::Deferred | State::Dead => {}
        }
        Ok(match event.state {
            State::Done => Some(event.result.clone().unwrap_or_else(|| EventResult::success("event done"))),
            State::Handled | State::Dead => event.result.clone(),
            State::Received | State::Fetched | State::Deferred => None,
        })
    }

    /// Waits, so long and no longer, until the event's body is read and, if its caller waits for the result, until
    /// that is known. Nothing if the time runs out, or the result is reported and not answered.
    ///
    /// The notification is durable already: whatever goes wrong here, the answer is still one of success.
    async fn until_decided(
        &self,
        id: EventId,
        mut subscription: Subscription,
        integration: &Integration,
        route_type: &RouteType,
        deadline: Moment,
    ) -> Option<Answer> {
        let start = self.clock.monotonic();
        let waits_for = |kind: &EventType| integration.answers.wait_for(kind);
        loop {
            let event = self.before(deadline, self.history.load(id, false)).await;
            let event = event.ok().flatten()?.record;
            let kind = event.kind.as_ref();
            let decided = match (event.state, &event.result) {
                (State::Done, None) => return Some(Answer::Over(EventResult::success("event recorded"))),
                (State::Done, Some(result)) if kind.is_some_and(waits_for) => {
                    return Some(Answer::Over(result.clone()));
                }
                (State::Handled, Some(result)) if event.awaiting_response => {
                    return Some(Answer::Result(id, result.clone()));
                }
                _ if event.asks_for_no_result() => {
                    return Some(Answer::Over(EventResult::success("event recorded")));
                }
                (State::Done | State::Deferred | State::Dead, _) => true,
                _ => kind.is_some_and(|kind| !waits_for(kind)),
            };
            if decided {
                return None;
            }
            let patience = if kind.or(route_type.kind()).is_some() { RESULT_PATIENCE } else { FETCH_PATIENCE };
            tokio::select! {
                () = subscription.changed() => {}
                () = self.clock.sleep_until(start.plus(patience).min(deadline)) => return None,
            }
        }
    }

    /// Notes that a result was handed over in an answer: it is reported later, if the marketplace has not got it.
    async fn note_as_handed_over(&self, id: EventId) {
        let spread = getrandom::u64().unwrap_or_default() % HANDED_OVER_SPREAD_MILLIS;
        let wait = HANDED_OVER_AT_LEAST + Duration::from_millis(spread);
        match self.inbox.amend(id, OperatorAction::HandedOver { wait }, self.clock.read()).await {
            // Of callers that wait for one event each is given the result; another one was first.
            Ok(_) | Err(StoreError::Illegal(_) | StoreError::Locked) => {}
            Err(error) => {
                tracing::warn!(event.id = %id, %error, "a result that was given in an answer is reported at once as well");
            }
        }
    }
}

/// Logs that the event `id` is not recorded, or not taken up again.
fn not_recorded(id: EventId) -> impl Fn(&StoreError) {
    move |error| tracing::error!(event.id = %id, %error, "notification not recorded")
}

/// Tells an event of another integration from one of nobody's.
fn foreign_or_other(listener: &PublicListener, event_url: &str, error: EventUrlError) -> ReceiveError {
    let everybodys = listener.integrations.iter().flat_map(|Integration { marketplaces, .. }| marketplaces);
    match error {
        EventUrlError::OtherIntegration(_) => ReceiveError::OtherIntegration,
        EventUrlError::Foreign(_) if EventUrl::parse(event_url, everybodys).is_ok() => ReceiveError::OtherIntegration,
        error => ReceiveError::EventUrl(error),
    }
}

impl PublicListener {
    /// Who sends `request`.
    async fn caller_of(&self, request: &HttpRequest) -> Result<Caller, AuthenticationError> {
        let request = RequestCredentials {
            authorization: request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes).collect(),
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.query_string(),
            address: self.limiter.address_of(request),
        };
        let found = self.authenticator.authenticate(&request).await;
        found.inspect_err(|error| {
            // A marketplace that is set up with a wrong secret looks like a stranger: the operator is to see both.
            if let Some(times) = self.log.admit(error.name()) {
                tracing::warn!(%error, address = %request.address, kind = error.name(), times, "a caller is refused");
            }
        })
    }

    /// Logs, for the operator, what a marketplace with good credentials is set up wrongly in.
    fn name_in_log(&self, caller: &Caller, request: &HttpRequest, error: &ReceiveError) {
        let kind = match error {
            ReceiveError::Query(error) => error.name(),
            ReceiveError::EventUrl(EventUrlError::Foreign(_)) => "event_url_foreign",
            ReceiveError::EventUrl(_) => "event_url_refused",
            ReceiveError::OtherIntegration => "event_url_of_other_integration",
            // These are no fault of a set-up, and logged where they occur.
            ReceiveError::Caller(_) | ReceiveError::NotRecorded(_) | ReceiveError::LimitExceeded(_) => return,
        };
        if let Some(times) = self.log.admit(kind) {
            let integration = caller.integration();
            let path: String = request.path().chars().take(MAX_LOGGED_PATH).collect();
            tracing::warn!(integration, path, error = kind, times, "a notification is not taken: {error}");
        }
    }
}

/// A route whose handler takes this cannot be reached without credentials.
struct Authenticated(Caller);

impl FromRequest for Authenticated {
    type Error = ErrorResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ErrorResponse>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let Some(listener) = request.app_data::<web::Data<PublicListener>>() else {
                return Err(ErrorResponse::new(AuthenticationError::Unavailable, Format::asked_by(&request)));
            };
            let found = listener.caller_of(&request).await.map(Self);
            found.map_err(|error| {
                ErrorResponse::of_caller(error, Format::asked_by(&request), listener.authenticator.challenge())
            })
        })
    }
}
