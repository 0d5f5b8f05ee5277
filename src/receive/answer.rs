//! What the public listener says: the one place where a fault becomes a status and an error code.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, ResponseError};

use super::notify_on_sent::NotifyOnSent;
use crate::authenticate::AuthenticationError;
use crate::event::{ErrorCode, EventResult, EventUrlError, QueryError};
use crate::http::{self, LimitExceeded};
use crate::store::StoreError;

/// Seconds after which a caller that was turned away for want of room may come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a notification was not taken. `Display` is what the caller is told.
#[derive(Debug)]
pub(super) enum ReceiveError {
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
    /// The request has too much of something.
    LimitExceeded(LimitExceeded),
}

impl fmt::Display for ReceiveError {
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
            Self::LimitExceeded(exceeded) => exceeded.fmt(f),
        }
    }
}

impl ReceiveError {
    fn error_code(&self) -> ErrorCode {
        match self {
            Self::Caller(error) => match error {
                AuthenticationError::Scope => ErrorCode::Forbidden,
                AuthenticationError::Unavailable => ErrorCode::TransportError,
                AuthenticationError::Missing
                | AuthenticationError::Malformed
                | AuthenticationError::Invalid
                | AuthenticationError::Expired
                | AuthenticationError::NotYet
                | AuthenticationError::WrongSecret
                | AuthenticationError::Signature
                | AuthenticationError::Replayed
                | AuthenticationError::TooManyFailures { .. } => ErrorCode::Unauthorized,
            },
            Self::OtherIntegration => ErrorCode::Forbidden,
            Self::Query(_)
            | Self::EventUrl(_)
            | Self::LimitExceeded(LimitExceeded::Url | LimitExceeded::Headers | LimitExceeded::Body) => {
                ErrorCode::InvalidResponse
            }
            Self::NotRecorded(_)
            | Self::LimitExceeded(
                LimitExceeded::Slow
                | LimitExceeded::ConnectionsOfAddress
                | LimitExceeded::Connections
                | LimitExceeded::RequestsInFlight,
            ) => ErrorCode::TransportError,
        }
    }

    fn status_code(&self) -> StatusCode {
        match self {
            Self::Caller(error) => match error {
                AuthenticationError::Scope => StatusCode::FORBIDDEN,
                AuthenticationError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                AuthenticationError::TooManyFailures { .. } => StatusCode::TOO_MANY_REQUESTS,
                AuthenticationError::Missing
                | AuthenticationError::Malformed
                | AuthenticationError::Invalid
                | AuthenticationError::Expired
                | AuthenticationError::NotYet
                | AuthenticationError::WrongSecret
                | AuthenticationError::Signature
                | AuthenticationError::Replayed => StatusCode::UNAUTHORIZED,
            },
            Self::OtherIntegration => StatusCode::FORBIDDEN,
            Self::Query(_) | Self::EventUrl(_) => StatusCode::BAD_REQUEST,
            Self::NotRecorded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::LimitExceeded(exceeded) => exceeded.status_code(),
        }
    }

    /// When the caller may come back, where that is known.
    fn retry_after(&self) -> Option<HeaderValue> {
        match (self, self.status_code()) {
            (Self::Caller(AuthenticationError::TooManyFailures { retry_after }), _) => Some(seconds(*retry_after)),
            (_, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => Some(RETRY_AFTER_SECONDS),
            _ => None,
        }
    }
}

/// A wait in whole seconds, and not too short a one.
pub(super) fn seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// A fault, in the format that the caller can read.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    error: ReceiveError,
    format: Format,
    /// How to authenticate, for those who have not.
    challenge: Option<HeaderValue>,
}

impl ErrorResponse {
    pub(super) fn new(error: impl Into<ReceiveError>, format: Format) -> Self {
        Self { error: error.into(), format, challenge: None }
    }

    /// The refusal of a caller that may authenticate as `challenge` says.
    pub(super) fn of_caller(error: AuthenticationError, format: Format, challenge: &str) -> Self {
        Self { challenge: HeaderValue::from_str(challenge).ok(), ..Self::new(error, format) }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for ErrorResponse {
    fn status_code(&self) -> StatusCode {
        self.error.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = self.format.result(status, &EventResult::failure(self.error.error_code(), self.to_string()));
        if status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = &self.challenge
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge.clone());
        }
        if let Some(wait) = self.error.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        response
    }
}

impl From<AuthenticationError> for ReceiveError {
    fn from(error: AuthenticationError) -> Self {
        Self::Caller(error)
    }
}

impl From<LimitExceeded> for ReceiveError {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::LimitExceeded(exceeded)
    }
}

impl From<QueryError> for ReceiveError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<StoreError> for ReceiveError {
    fn from(error: StoreError) -> Self {
        Self::NotRecorded(error)
    }
}

/// How a result is written to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Xml,
}

impl Format {
    /// The format that the request's `Accept` prefers.
    pub(super) fn asked_by(request: &HttpRequest) -> Self {
        if http::prefers_xml(request) { Self::Xml } else { Self::Json }
    }

    /// An answer with a result body.
    pub(super) fn result(self, status: StatusCode, result: &EventResult) -> HttpResponse {
        let (content_type, body) = self.write(result);
        HttpResponse::build(status).insert_header((CONTENT_TYPE, content_type)).body(body)
    }

    /// The answer that gives a result, and what to do once it is given.
    pub(super) fn giving(self, result: &EventResult, given: impl FnOnce() + Unpin + 'static) -> HttpResponse {
        let (content_type, body) = self.write(result);
        HttpResponse::Ok().insert_header((CONTENT_TYPE, content_type)).body(NotifyOnSent::new(body, given))
    }

    fn write(self, result: &EventResult) -> (&'static str, Vec<u8>) {
        match self {
            Self::Json => ("application/json", serde_json::to_vec(result).unwrap_or_default()),
            Self::Xml => ("application/xml", result.to_xml().into_bytes()),
        }
    }
}

/// The answer to whatever no route is for.
pub(super) fn no_such_route(request: &HttpRequest) -> HttpResponse {
    let message = "there is no such route here; notifications go to /notifications or /notifications/create and so on, \
                   by GET";
    Format::asked_by(request).result(StatusCode::NOT_FOUND, &EventResult::failure(ErrorCode::NotFound, message))
}

/// The answer to a method that is not served at a resource that is read.
pub(super) async fn wrong_method(request: HttpRequest) -> HttpResponse {
    let message = "only GET and HEAD are served here";
    let mut answer = Format::asked_by(&request)
        .result(StatusCode::METHOD_NOT_ALLOWED, &EventResult::failure(ErrorCode::InvalidOperation, message));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(http::READ));
    answer
}
