//! The health routes that every listener answers: whether the process lives, and whether it would take work.

use std::fmt::Display;

use actix_web::HttpResponse;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// `GET /health/live`
pub(crate) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "live" })
}

/// Whether a notification would be taken now, and worked: the store is ready and events are still delivered.
pub(crate) async fn readiness<E: Display>(
    delivery_ended: &CancellationToken,
    store: impl Future<Output = Result<(), E>>,
) -> Result<(), String> {
    if delivery_ended.is_cancelled() {
        return Err("no events are delivered any more; restart doorbell".to_owned());
    }
    store.await.map_err(|error| error.to_string())
}

/// `GET /health/ready`. The reason is for the log: anybody may ask.
pub(crate) fn ready(readiness: &Result<(), String>) -> HttpResponse {
    match readiness {
        Ok(()) => HttpResponse::Ok().json(Health { status: "ready" }),
        Err(_) => HttpResponse::ServiceUnavailable().json(Health { status: "not ready" }),
    }
}
