//! The health routes of the public listener.

use actix_web::{HttpResponse, web};

use super::PublicListener;
use crate::http::health;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(super::readable("/health/live", health::live)).service(super::readable("/health/ready", is_ready));
}

/// The same to anybody: why it is not ready is logged no oftener than a log can bear.
async fn is_ready(listener: web::Data<PublicListener>) -> HttpResponse {
    let readiness = health::readiness(&listener.delivery_ended, listener.inbox.ready()).await;
    if let Err(error) = &readiness
        && let Some(times) = listener.log.admit("not_ready")
    {
        tracing::warn!(%error, times, "not ready");
    }
    health::ready(&readiness)
}
