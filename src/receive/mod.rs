//! Stage 1: the public listener. Takes notifications, issues tokens, says whether it is well.
//!
//! A notification passes through here in one order only: keep within the limits, authenticate, check the event URL,
//! record, answer.

mod answer;
mod health;
mod limits;
mod metadata;
mod notifications;
mod notify_on_sent;
mod route_path;
mod token;

use std::sync::Arc;

use actix_web::{FromRequest, Handler, Resource, Responder, middleware, web};

use tokio_util::sync::CancellationToken;

use crate::authenticate::Authenticator;
use crate::clock::Clock;
use crate::config::{Answers, Config};
use crate::event::BaseUrl;
use crate::http;
use crate::log_limiter::LogLimiter;
use crate::shutdown::DropSignal;
use crate::store::{History, Inbox};
use limits::RequestLimiter;

pub use crate::http::{LimitCounters, LimitExceeded};

/// What the public listener works with.
pub struct PublicListener {
    inbox: Arc<dyn Inbox>,
    history: Arc<dyn History>,
    clock: Arc<dyn Clock>,
    authenticator: Arc<Authenticator>,
    limiter: Arc<RequestLimiter>,
    integrations: Vec<Integration>,
    prefix: String,
    log: LogLimiter,
    /// Cancelled when nothing is delivered any more.
    delivery_ended: CancellationToken,
    /// Dropped last, when the store has been let go of.
    _drop_signal: Option<DropSignal>,
}

/// An integration as the public listener sees it.
struct Integration {
    name: String,
    answers: Answers,
    marketplaces: Vec<BaseUrl>,
}

impl PublicListener {
    /// The public listener of the configured integrations.
    #[must_use]
    pub fn new(
        config: &Config,
        inbox: Arc<dyn Inbox>,
        history: Arc<dyn History>,
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let integrations = config.integrations.iter().map(|integration| Integration {
            name: integration.name.clone(),
            answers: integration.answer.clone(),
            marketplaces: integration.marketplaces.iter().map(|marketplace| marketplace.base_url.clone()).collect(),
        });
        Self {
            inbox,
            history,
            limiter: RequestLimiter::new(&config.server),
            log: LogLimiter::new(Arc::clone(&clock)),
            clock,
            authenticator,
            integrations: integrations.collect(),
            prefix: config.server.public_url.path().to_owned(),
            delivery_ended: CancellationToken::new(),
            _drop_signal: None,
        }
    }

    /// The same beside the delivery of an app: ready until `delivery_ended` is cancelled, and saying by `held` when it lets
    /// go of the store.
    #[must_use]
    pub(crate) fn beside_delivery(self, delivery_ended: CancellationToken, drop_signal: DropSignal) -> Self {
        Self { delivery_ended, _drop_signal: Some(drop_signal), ..self }
    }

    /// How often which exceeded limit was refused.
    #[must_use]
    pub fn limit_counters(&self) -> Arc<LimitCounters> {
        Arc::clone(self.limiter.limit_counters())
    }

    /// Adds the public routes to a server.
    pub fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        let mut everything = web::scope("")
            .app_data(web::Data::from(Arc::clone(self)))
            .wrap(middleware::from_fn(limits::keep))
            .wrap(middleware::from_fn(route_path::find))
            .default_service(web::to(notifications::no_such_route));
        for path in metadata::paths(&self.prefix) {
            everything = everything.service(readable(&path, metadata::show));
        }
        let prefixed = web::scope(&self.prefix)
            .configure(notifications::routes)
            .service(http::postable("/oauth2/token", token::issue, token::wrong_method))
            .configure(health::routes)
            .default_service(web::to(notifications::no_such_route));
        app.service(everything.service(prefixed));
    }
}

/// A resource that may be read, by GET and HEAD, and nothing else.
fn readable<F, Args>(path: &str, show: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    http::readable(path, show, answer::wrong_method)
}
