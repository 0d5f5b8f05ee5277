use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde_json::json;

use tokio_util::sync::CancellationToken;

use super::Door;
use crate::store::Inbox;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(super::readable("/health/live", live)).service(super::readable("/health/ready", is_ready));
}

/// Whether the process answers at all.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "live" }))
}

/// The same to anybody: why it is not ready is logged no oftener than a log can bear.
async fn is_ready(door: web::Data<Door>) -> HttpResponse {
    let readiness = readiness(&door.inbox, &door.delivery_ended).await;
    if let Err(error) = &readiness
        && let Some(times) = door.log.admit("not_ready")
    {
        tracing::warn!(%error, times, "not ready");
    }
    readiness_answer(&readiness)
}

/// Whether a notification would be taken now, and worked. Why not is logged, not told.
pub(crate) async fn ready(inbox: &Arc<dyn Inbox>, delivery_ended: &CancellationToken) -> HttpResponse {
    let readiness = readiness(inbox, delivery_ended).await;
    if let Err(error) = &readiness {
        tracing::warn!(%error, "not ready");
    }
    readiness_answer(&readiness)
}

async fn readiness(inbox: &Arc<dyn Inbox>, delivery_ended: &CancellationToken) -> Result<(), String> {
    if delivery_ended.is_cancelled() {
        return Err("no events are delivered any more; restart doorbell".to_owned());
    }
    inbox.ready().await.map_err(|error| error.to_string())
}

fn readiness_answer(readiness: &Result<(), String>) -> HttpResponse {
    match readiness {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Err(_) => HttpResponse::ServiceUnavailable().json(json!({ "status": "not ready" })),
    }
}
