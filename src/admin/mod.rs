//! The private listener: events for the operator, results from the product, health.

pub(crate) mod api;
mod events;
mod keys;
mod operator;
mod problem;
mod request;

use std::future::ready;
use std::sync::Arc;

use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, ContentType, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::{DefaultHeaders, NormalizePath};
use actix_web::{FromRequest, Handler, HttpResponse, HttpResponseBuilder, Resource, Responder, web};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Secret;
use crate::http::{self, health};
use crate::printable;
use crate::shutdown::DropSignal;
use crate::store::{Backup, History, Inbox};
use api::Problem;
use operator::Operator;

pub(crate) use keys::{RotationError, SigningKeys};

/// What the handlers of the private listener work with.
pub(crate) struct AdminState {
    inbox: Arc<dyn Inbox>,
    history: Arc<dyn History>,
    backup: Arc<dyn Backup>,
    signing_keys: Arc<dyn SigningKeys>,
    clock: Arc<dyn Clock>,
    token: Option<Secret>,
    /// Cancelled when nothing is delivered any more.
    delivery_ended: CancellationToken,
    /// Dropped after the store, which tells the app that this listener has released it.
    _drop_signal: DropSignal,
}

impl AdminState {
    pub(crate) fn new(
        (inbox, history, backup): (Arc<dyn Inbox>, Arc<dyn History>, Arc<dyn Backup>),
        signing_keys: Arc<dyn SigningKeys>,
        clock: Arc<dyn Clock>,
        token: Option<Secret>,
        delivery_ended: CancellationToken,
        drop_signal: DropSignal,
    ) -> Self {
        Self { inbox, history, backup, signing_keys, clock, token, delivery_ended, _drop_signal: drop_signal }
    }

    /// Adds the private routes to a server.
    pub(crate) fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        // Answers hold events and person data: no cache may keep them, and no browser may take them for a page.
        let headers = DefaultHeaders::new().add((CACHE_CONTROL, "no-store")).add((X_CONTENT_TYPE_OPTIONS, "nosniff"));
        let everything = web::scope("")
            .app_data(web::Data::from(Arc::clone(self)))
            .app_data(web::PathConfig::default().error_handler(|_, _| no_such_route().into()))
            .wrap(headers)
            // A trailing slash and doubled ones change nothing.
            .wrap(NormalizePath::trim())
            .configure(events::routes)
            .configure(keys::routes)
            .service(read("/health/live", health::live))
            .service(read("/health/ready", is_ready))
            .default_service(web::to(|| ready(Err::<HttpResponse, _>(no_such_route()))));
        app.service(everything);
    }
}

/// A resource that is read.
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    http::readable(path, handler, refuse(http::READ))
}

/// A resource that does something when it is posted to.
fn act<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    http::postable(path, handler, refuse(http::POST))
}

/// Answers the methods that a resource does not have.
fn refuse(allowed: &'static str) -> impl Handler<(Method,), Output = Result<HttpResponse, Problem>> {
    move |method| ready(Err(Problem::method_not_allowed(&method, allowed)))
}

/// An answer with a document whose fields stand as its type declares them.
fn json(response: HttpResponseBuilder, document: &impl Serialize) -> Result<HttpResponse, Problem> {
    written(response, serde_json::to_string(document))
}

/// An answer with a document whose fields stand in alphabetical order.
fn sorted_json(response: HttpResponseBuilder, document: &impl Serialize) -> Result<HttpResponse, Problem> {
    written(response, api::sorted(document).map(|document| document.to_string()))
}

fn written(mut response: HttpResponseBuilder, document: serde_json::Result<String>) -> Result<HttpResponse, Problem> {
    let document = document.map_err(|error| Problem::internal(error.to_string()))?;
    // Operators print it as it comes, on terminals that obey control characters.
    Ok(response.content_type(ContentType::json()).body(printable::json(&document).into_owned()))
}

async fn is_ready(state: web::Data<AdminState>) -> HttpResponse {
    let readiness = health::readiness(&state.delivery_ended, state.inbox.ready()).await;
    if let Err(error) = &readiness {
        tracing::warn!(%error, "not ready");
    }
    health::ready(&readiness)
}

fn no_such_route() -> Problem {
    Problem::not_found("there is no such route here")
}
