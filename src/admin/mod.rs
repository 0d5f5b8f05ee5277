//! The private listener: events for the operator, results from the product, health.

mod events;
mod problem;

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use std::future::{Ready, ready};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::config::Secret;
use crate::store::EventStore;
use problem::Problem;

/// What the private listener works with.
pub struct Office {
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    token: Option<Secret>,
}

impl Office {
    /// The private listener of a store.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>, clock: Arc<dyn Clock>, token: Option<Secret>) -> Self {
        Self { store, clock, token }
    }

    /// Adds the private routes to a server.
    pub fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::from(Arc::clone(self)))
            .app_data(web::JsonConfig::default().error_handler(|error, _| Problem::bad_request(&error).into()))
            .app_data(web::QueryConfig::default().error_handler(|error, _| Problem::bad_request(&error).into()))
            .configure(events::routes)
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
        let expected = request.app_data::<web::Data<Office>>().map(|office| office.token.as_ref());
        let given = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let given = given.and_then(|header| header.strip_prefix("Bearer "));
        ready(match (expected, given) {
            (Some(None), _) => Ok(Self),
            (Some(Some(expected)), Some(given)) if given.as_bytes().ct_eq(expected.expose().as_bytes()).into() => {
                Ok(Self)
            }
            _ => Err(Problem::unauthorized()),
        })
    }
}
