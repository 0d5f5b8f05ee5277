//! The key routes: the keys that tokens are signed with, by name.

use actix_web::{HttpRequest, HttpResponse, web};
use async_trait::async_trait;
use thiserror::Error;

use super::api::{Key, KeyList, Problem};
use super::request::Parameters;
use super::{AdminState, Operator, act, read, sorted_json};

/// What signs tokens, as far as an operator has a say in it.
///
/// A trait of this listener, so that it does not depend on how callers authenticate.
#[async_trait]
pub(crate) trait SigningKeys: Send + Sync + 'static {
    /// The keys, the oldest first; none if no integration takes tokens of ours.
    fn list(&self) -> Vec<Key>;

    /// Signs with a new key from now on, and takes tokens of the others until they end, or no more if these are to be
    /// revoked. Returns the keys as they then are; nothing if no integration takes tokens of ours.
    async fn rotate(&self, revoke: bool) -> Result<Option<Vec<Key>>, RotationError>;
}

/// Why keys were not rotated. Nothing has changed then.
#[derive(Debug, Error)]
pub(crate) enum RotationError {
    /// Somebody else rotated them at the same time.
    #[error("{0}")]
    Conflict(String),
    /// The store does not work at present.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

pub(super) fn routes(app: &mut web::ServiceConfig) {
    app.service(read("/api/v1/keys", list)).service(act("/api/v1/keys/rotate", rotate));
}

async fn list(_: Operator, state: web::Data<AdminState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::read(&request, &[])?;
    sorted_json(HttpResponse::Ok(), &KeyList { keys: state.signing_keys.list() })
}

async fn rotate(_: Operator, state: web::Data<AdminState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::read(&request, &["revoke"])?;
    let revoke = parameters.parsed("revoke", "true or false")?.unwrap_or(false);
    let keys = state.signing_keys.rotate(revoke).await?;
    let keys = keys.ok_or_else(|| {
        Problem::not_found("no integration takes tokens of ours (outbound.kind oauth2), so there are no signing keys")
    })?;
    tracing::info!(revoke, keys = keys.len(), "signing key rotated");
    sorted_json(HttpResponse::Ok(), &KeyList { keys })
}
