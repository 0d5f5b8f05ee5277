//! Stage 1: the public listener. Takes notifications, issues tokens, says whether it is well.
//!
//! A notification passes through here in one order only: authenticate, check the event URL, record, answer.

mod answer;
mod given;
mod health;
mod notifications;
mod token;

use std::sync::Arc;

use actix_web::web;

use crate::authenticate::Issuer;
use crate::clock::Clock;
use crate::config::{Answers, Config};
use crate::event::BaseUrl;
use crate::store::EventStore;

/// The largest request body that is read, in bytes: a token request has about a hundred.
const MAX_FORM_BYTES: usize = 16 << 10;

/// What the public listener works with.
pub struct Door {
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    issuer: Issuer,
    integrations: Vec<Integration>,
    prefix: String,
}

/// An integration as the door sees it.
struct Integration {
    name: String,
    answers: Answers,
    marketplaces: Vec<BaseUrl>,
}

impl Door {
    /// The door of the configured integrations.
    #[must_use]
    pub fn new(config: &Config, store: Arc<dyn EventStore>, issuer: Issuer, clock: Arc<dyn Clock>) -> Self {
        let integrations = config.integrations.iter().map(|integration| Integration {
            name: integration.name.clone(),
            answers: integration.answer.clone(),
            marketplaces: integration.marketplaces.iter().map(|marketplace| marketplace.base_url.clone()).collect(),
        });
        Self {
            store,
            clock,
            issuer,
            integrations: integrations.collect(),
            prefix: config.server.public_url.path().to_owned(),
        }
    }

    /// Adds the public routes to a server.
    pub fn routes(self: &Arc<Self>, app: &mut web::ServiceConfig) {
        let scope = web::scope(&self.prefix)
            .app_data(web::Data::from(Arc::clone(self)))
            .app_data(web::FormConfig::default().limit(MAX_FORM_BYTES))
            .app_data(web::PayloadConfig::new(MAX_FORM_BYTES))
            .configure(notifications::routes)
            .service(web::resource("/oauth2/token").route(web::post().to(token::issue)))
            .configure(health::routes)
            .default_service(web::to(answer::no_such_route));
        app.service(scope).default_service(web::to(answer::no_such_route));
    }
}

pub use health::{live, ready};
