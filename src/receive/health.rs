use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Door;
use crate::store::EventStore;

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/health/live").route(web::get().to(live)));
    app.service(web::resource("/health/ready").route(web::get().to(is_ready)));
}

/// Whether the process answers at all.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "live" }))
}

async fn is_ready(door: web::Data<Door>) -> HttpResponse {
    ready(&door.store).await
}

/// Whether a notification would be taken now. Why not is logged, not told.
pub async fn ready(store: &Arc<dyn EventStore>) -> HttpResponse {
    match store.ready().await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            HttpResponse::ServiceUnavailable().json(json!({ "status": "not ready" }))
        }
    }
}
