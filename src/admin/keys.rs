use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::problem::Problem;
use super::request::Parameters;
use super::{Office, Operator, act, json, read};

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(read("/api/v1/keys", list)).service(act("/api/v1/keys/rotate", rotate));
}

/// `GET /api/v1/keys`: the signing keys by name, never themselves.
async fn list(_: Operator, office: web::Data<Office>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::read(&request, &[])?;
    json(HttpResponse::Ok(), &json!({ "keys": office.authenticator.keys() }))
}

/// `POST /api/v1/keys/rotate?revoke=`
async fn rotate(_: Operator, office: web::Data<Office>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::read(&request, &["revoke"])?;
    let revoke = parameters.parsed("revoke", "true or false")?.unwrap_or(false);
    let keys = office.authenticator.rotate_keys(revoke).await?;
    let keys = keys.ok_or_else(|| {
        Problem::not_found("no integration takes tokens of ours (outbound.kind oauth2), so there are no signing keys")
    })?;
    tracing::info!(revoke, keys = keys.len(), "signing key rotated");
    json(HttpResponse::Ok(), &json!({ "keys": keys }))
}
