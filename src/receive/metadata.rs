//! What our token endpoint is, as clients may ask for it (RFC 8414).

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{PublicListener, answer};

#[derive(Serialize)]
struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: String,
    grant_types_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 2],
    scopes_supported: Vec<&'a str>,
    /// Required by §2, and empty: there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
}

/// Where it is asked for: the well-known path goes before the issuer's own (§3), which many clients get wrong.
pub(super) fn paths(prefix: &str) -> Vec<String> {
    const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";
    let mut paths = vec![format!("{WELL_KNOWN}{prefix}"), format!("{prefix}{WELL_KNOWN}")];
    paths.dedup();
    paths
}

/// `GET /.well-known/oauth-authorization-server{prefix}`
pub(super) async fn show(listener: web::Data<PublicListener>, request: HttpRequest) -> HttpResponse {
    let Some(issuer) = listener.authenticator.issuer() else { return answer::no_such_route(&request) };
    HttpResponse::Ok().json(Metadata {
        issuer: issuer.identity(),
        token_endpoint: format!("{}/oauth2/token", issuer.identity()),
        grant_types_supported: ["client_credentials"],
        token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
        scopes_supported: issuer.scopes(),
        response_types_supported: [],
    })
}
