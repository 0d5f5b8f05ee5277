use std::fmt;
use std::time::Duration;

use actix_web::http::header::{ALLOW, WWW_AUTHENTICATE};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::authenticate::KeyringError;
use crate::printable;
use crate::store::StoreError;

/// What the private listener says when it does not do what it was asked: RFC 9457.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// What the route answers, where it was asked for something else.
    allowed: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), allowed: None }
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

    pub(super) fn too_slow(patience: Duration) -> Self {
        let detail = format!("the body was not there within {} s; send it at once", patience.as_secs());
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

impl From<KeyringError> for Problem {
    fn from(error: KeyringError) -> Self {
        let status = match &error {
            KeyringError::Changed => StatusCode::CONFLICT,
            KeyringError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            KeyringError::Damaged | KeyringError::Randomness(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Overloaded | StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::NotFound => StatusCode::NOT_FOUND,
            StoreError::Illegal(_) | StoreError::Held | StoreError::ClaimLost => StatusCode::CONFLICT,
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
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((ALLOW, allowed));
        }
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        response.content_type("application/problem+json").body(printable::json(&body.to_string()).into_owned())
    }
}
