//! Errors of the private listener: the one place where the reason for one becomes a status.

use std::fmt;
use std::time::Duration;

use actix_web::http::header::{ALLOW, WWW_AUTHENTICATE};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, ResponseError};

use super::api::{Problem, sorted};
use super::keys::RotationError;
use crate::printable;
use crate::store::StoreError;

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().map(str::to_owned),
            status: status.as_u16(),
            detail: detail.into(),
            allowed: None,
        }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn method_not_allowed(method: &Method, allowed: &'static str) -> Self {
        let detail = format!("{method} does nothing here; this route answers {allowed}");
        Self { allowed: Some(allowed), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    pub(super) fn too_slow(timeout: Duration) -> Self {
        let detail = format!("the body was not there within {} s; send it at once", timeout.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, detail)
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub(super) fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub(super) fn forbidden() -> Self {
        let detail = "this request comes from a page of another origin, or was sent to a name that is not this \
                      listener's; call it by its address, or set admin.token and send it";
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "this listener asks for admin.token; send Authorization: Bearer <token>";
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }
}

impl From<RotationError> for Problem {
    fn from(error: RotationError) -> Self {
        let status = match &error {
            RotationError::Conflict(_) => StatusCode::CONFLICT,
            RotationError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            RotationError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Overloaded | StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::NotFound => StatusCode::NOT_FOUND,
            StoreError::Illegal(_) | StoreError::Locked | StoreError::ClaimLost => StatusCode::CONFLICT,
            StoreError::Unfit(_) => StatusCode::BAD_REQUEST,
            StoreError::TooLong(_) | StoreError::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((ALLOW, allowed));
        }
        let document = sorted(self).map(|document| document.to_string()).unwrap_or_default();
        response.content_type("application/problem+json").body(printable::json(&document).into_owned())
    }
}
