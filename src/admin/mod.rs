//! The private listener: events for the operator, results from the product, health.

mod events;
mod keys;
mod problem;
mod request;

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, ContentType, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::{DefaultHeaders, NormalizePath};
use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, HttpResponseBuilder, Resource, Responder, guard, web,
};
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::authenticate::Authenticator;
use crate::clock::Clock;
use crate::config::Secret;
use crate::printable;
use crate::shutdown::Held;
use crate::store::{Backup, History, Inbox};
use problem::Problem;

/// What the private listener works with.
pub struct Office {
    inbox: Arc<dyn Inbox>,
    history: Arc<dyn History>,
    backup: Arc<dyn Backup>,
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    token: Option<Secret>,
    /// Cancelled when nothing is delivered any more.
    delivery_ended: CancellationToken,
    /// Dropped last, when the store has been let go of.
    _held: Held,
}

impl Office {
    /// The private listener of a store.
    #[must_use]
    pub(crate) fn new(
        (inbox, history, backup): (Arc<dyn Inbox>, Arc<dyn History>, Arc<dyn Backup>),
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
        token: Option<Secret>,
        delivery_ended: CancellationToken,
        held: Held,
    ) -> Self {
        Self { inbox, history, backup, authenticator, clock, token, delivery_ended, _held: held }
    }

    /// Adds the private routes to a server.
    pub fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        // Answers hold events and persons: no cache on the way keeps them, no browser takes them for a page.
        let headers = DefaultHeaders::new().add((CACHE_CONTROL, "no-store")).add((X_CONTENT_TYPE_OPTIONS, "nosniff"));
        let everything = web::scope("")
            .app_data(web::Data::from(Arc::clone(self)))
            .app_data(web::PathConfig::default().error_handler(|_, _| no_such_route().into()))
            .wrap(headers)
            // One trailing slash, and doubled ones, change nothing.
            .wrap(NormalizePath::trim())
            .configure(events::routes)
            .configure(keys::routes)
            .service(read("/health/live", crate::receive::live))
            .service(read("/health/ready", is_ready))
            .default_service(web::to(|| ready(Err::<HttpResponse, _>(no_such_route()))));
        app.service(everything);
    }
}

/// A route that is read, and asked for its head alone.
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = guard::Any(guard::Get()).or(guard::Head());
    only("GET, HEAD", web::resource(path).route(web::route().guard(reads).to(handler)))
}

/// A route that does something.
fn act<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    only("POST", web::resource(path).route(web::post().to(handler)))
}

fn only(allowed: &'static str, resource: Resource) -> Resource {
    let refuse = move |method| ready(Err::<HttpResponse, _>(Problem::method_not_allowed(&method, allowed)));
    resource.default_service(web::to(refuse))
}

/// A value as JSON that may be printed as it comes.
fn json(mut response: HttpResponseBuilder, value: &impl Serialize) -> Result<HttpResponse, Problem> {
    let document = serde_json::to_string(value).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(response.content_type(ContentType::json()).body(printable::json(&document).into_owned()))
}

async fn is_ready(office: web::Data<Office>) -> HttpResponse {
    crate::receive::ready(&office.inbox, &office.delivery_ended).await
}

fn no_such_route() -> Problem {
    Problem::not_found("there is no such route here")
}

/// Proof that the caller may use the private listener: a handler that takes one cannot be reached without.
struct Operator;

impl FromRequest for Operator {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(office) = request.app_data::<web::Data<Office>>() else {
            return ready(Err(Problem::unauthorized()));
        };
        let given = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let given = given.and_then(bearer_token);
        ready(match (&office.token, given) {
            (None, _) if is_from_here(request) => Ok(Self),
            (None, _) => Err(Problem::forbidden()),
            (Some(expected), Some(given)) if given.as_bytes().ct_eq(expected.expose().as_bytes()).into() => Ok(Self),
            (Some(_), _) => Err(Problem::unauthorized()),
        })
    }
}

/// The token of an `Authorization` header, whose scheme may be written in any case (RFC 9110 §11.1).
fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start())
}

/// Whether a request without a token was meant for this listener. A page in the operator's browser can have requests
/// sent to loopback, under a name of its own choice; what it cannot do is hide whose page it is.
fn is_from_here(request: &HttpRequest) -> bool {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_own_page = text(ORIGIN).is_none_or(|origin| origin.split_once("://").is_some_and(|(_, of)| of == host));
    (is_address || name.eq_ignore_ascii_case("localhost")) && is_own_page
}
