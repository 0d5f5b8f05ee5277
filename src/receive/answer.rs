//! What the public listener says: the one place where a fault becomes a status and an error code.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};

use crate::authenticate::AuthenticationError;
use crate::event::{ErrorCode, EventResult, EventUrlError, QueryError};
use crate::store::StoreError;

/// Seconds after which a caller that was turned away for want of room may come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// A notification was not taken. `Display` is what the caller is told.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The caller did not prove who it is, or may not do this.
    Caller(AuthenticationError),
    /// The event lies in a marketplace of another integration than the caller's.
    OtherIntegration,
    /// The query is no notification's.
    Query(QueryError),
    /// The event URL is not one of this integration's marketplaces'.
    EventUrl(EventUrlError),
    /// The notification could not be made durable. Why is logged, not told.
    NotRecorded(StoreError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller(error) => error.fmt(f),
            Self::OtherIntegration => {
                f.write_str("eventUrl lies in a marketplace of another integration than the token's")
            }
            Self::Query(error) => error.fmt(f),
            Self::EventUrl(error) => error.fmt(f),
            Self::NotRecorded(StoreError::Overloaded) => {
                f.write_str("too many events are waiting to be recorded; try again")
            }
            Self::NotRecorded(_) => f.write_str("the event cannot be recorded at present; try again"),
        }
    }
}

impl Refusal {
    fn error_code(&self) -> ErrorCode {
        match self {
            Self::Caller(AuthenticationError::Scope) | Self::OtherIntegration => ErrorCode::Forbidden,
            Self::Caller(
                AuthenticationError::Missing
                | AuthenticationError::Malformed
                | AuthenticationError::Invalid
                | AuthenticationError::Expired,
            ) => ErrorCode::Unauthorized,
            Self::Query(_) | Self::EventUrl(_) => ErrorCode::InvalidResponse,
            Self::NotRecorded(_) => ErrorCode::TransportError,
        }
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Caller(AuthenticationError::Scope) | Self::OtherIntegration => StatusCode::FORBIDDEN,
            Self::Caller(
                AuthenticationError::Missing
                | AuthenticationError::Malformed
                | AuthenticationError::Invalid
                | AuthenticationError::Expired,
            ) => StatusCode::UNAUTHORIZED,
            Self::Query(_) | Self::EventUrl(_) => StatusCode::BAD_REQUEST,
            Self::NotRecorded(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = result(status, &EventResult::failure(self.error_code(), self.to_string()));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl From<AuthenticationError> for Refusal {
    fn from(error: AuthenticationError) -> Self {
        Self::Caller(error)
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::NotRecorded(error)
    }
}

/// An answer with a result body.
pub(super) fn result(status: StatusCode, result: &EventResult) -> HttpResponse {
    match serde_json::to_vec(result) {
        Ok(body) => HttpResponse::build(status).insert_header((CONTENT_TYPE, "application/json")).body(body),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

/// The answer to whatever no route is for.
pub(super) async fn no_such_route() -> HttpResponse {
    let message = "there is no such route here; notifications go to /notifications or /notifications/create and so on, \
                   by GET";
    result(StatusCode::NOT_FOUND, &EventResult::failure(ErrorCode::NotFound, message))
}
