use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::authenticate::KeyringError;
use crate::store::StoreError;

/// What the private listener says when it does not do what it was asked: RFC 9457.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail: detail.into() }
    }

    pub(super) fn bad_request(error: &dyn fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: error.to_string() }
    }

    pub(super) fn forbidden() -> Self {
        let detail = "this request comes from a page of another origin, or was sent to a name that is not this \
                      listener's; call it by its address, or set admin.token and send it";
        Self { status: StatusCode::FORBIDDEN, detail: detail.to_owned() }
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "this listener asks for admin.token; send Authorization: Bearer <token>";
        Self { status: StatusCode::UNAUTHORIZED, detail: detail.to_owned() }
    }
}

impl From<KeyringError> for Problem {
    fn from(error: KeyringError) -> Self {
        let status = match &error {
            KeyringError::Changed => StatusCode::CONFLICT,
            KeyringError::Vault(_) => StatusCode::SERVICE_UNAVAILABLE,
            KeyringError::Damaged | KeyringError::Randomness(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, detail: error.to_string() }
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
        Self { status, detail: error.to_string() }
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
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        response.content_type("application/problem+json").body(body.to_string())
    }
}
