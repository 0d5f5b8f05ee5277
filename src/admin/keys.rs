use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::{Office, Operator};

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/api/v1/keys").route(web::get().to(list)))
        .service(web::resource("/api/v1/keys/rotate").route(web::post().to(rotate)));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    revoke: bool,
}

/// `GET /api/v1/keys`: the signing keys by name, never themselves.
async fn list(_: Operator, office: web::Data<Office>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "keys": office.authenticator.keys() }))
}

/// `POST /api/v1/keys/rotate?revoke=`
async fn rotate(_: Operator, office: web::Data<Office>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let keys = office.authenticator.rotate_keys(query.revoke).await?;
    let keys = keys.ok_or_else(|| {
        Problem::not_found("no integration takes tokens of ours (outbound.kind oauth2), so there are no signing keys")
    })?;
    tracing::info!(revoke = query.revoke, keys = keys.len(), "signing key rotated");
    Ok(HttpResponse::Ok().json(json!({ "keys": keys })))
}
