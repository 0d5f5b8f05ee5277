//! The private listener: events for the operator, results from the product, health.

mod events;
mod keys;
mod problem;

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HOST, ORIGIN};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::future::{Ready, ready};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

use crate::authenticate::Authenticator;
use crate::clock::Clock;
use crate::config::Secret;
use crate::shutdown::Held;
use crate::store::EventStore;
use problem::Problem;

/// What the private listener works with.
pub struct Office {
    store: Arc<dyn EventStore>,
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    token: Option<Secret>,
    /// Dropped last, when the store has been let go of.
    _held: Held,
}

impl Office {
    /// The private listener of a store.
    #[must_use]
    pub(crate) fn new(
        store: Arc<dyn EventStore>,
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
        token: Option<Secret>,
        held: Held,
    ) -> Self {
        Self { store, authenticator, clock, token, _held: held }
    }

    /// Adds the private routes to a server.
    pub fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::from(Arc::clone(self)))
            .app_data(web::JsonConfig::default().error_handler(|error, _| Problem::bad_request(&error).into()))
            .app_data(web::QueryConfig::default().error_handler(|error, _| Problem::bad_request(&error).into()))
            .configure(events::routes)
            .configure(keys::routes)
            .service(web::resource("/health/live").route(web::get().to(crate::receive::live)))
            .service(web::resource("/health/ready").route(web::get().to(is_ready)))
            .default_service(web::to(no_such_route));
    }
}

async fn is_ready(office: web::Data<Office>) -> HttpResponse {
    crate::receive::ready(&office.store).await
}

async fn no_such_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("there is no such route here"))
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
        let given = given.and_then(|header| header.strip_prefix("Bearer "));
        ready(match (&office.token, given) {
            (None, _) if is_from_here(request) => Ok(Self),
            (None, _) => Err(Problem::forbidden()),
            (Some(expected), Some(given)) if given.as_bytes().ct_eq(expected.expose().as_bytes()).into() => Ok(Self),
            (Some(_), _) => Err(Problem::unauthorized()),
        })
    }
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
