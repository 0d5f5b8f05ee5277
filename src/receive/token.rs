//! The token endpoint: client credentials (RFC 6749 §4.4), by HTTP Basic or in the form.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, HeaderValue, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::form_urlencoded;

use super::PublicListener;
use super::answer::{self, ErrorResponse};
use crate::authenticate::{NameAndPassword, TokenRefused, TokenRequest};
use crate::http::{self, LimitExceeded, limit_exceeded_by_body};

/// What went wrong, in the words of RFC 6749 §5.2.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenError {
    InvalidRequest(&'static str),
    InvalidClient,
    UnsupportedGrantType,
    InvalidScope(String),
    /// RFC 8707 §2.
    InvalidTarget(String),
    /// RFC 6749 has no word for it; §5.2 lets others be used.
    TooManyFailures(Duration),
    Server,
}

#[derive(Serialize)]
struct TokenAnswer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
}

#[derive(Serialize)]
struct ErrorAnswer<'a> {
    error: &'static str,
    error_description: &'a str,
}

/// The form of a token request.
#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    wanted: TokenRequest,
}

/// `POST {prefix}/oauth2/token`
pub(super) async fn issue(
    listener: web::Data<PublicListener>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ErrorResponse> {
    if listener.authenticator.issuer().is_none() {
        return Ok(answer::no_such_route(&request));
    }
    let body = read_body(&listener, &request, payload).await?;
    let _in_flight =
        listener.limiter.enter().ok_or_else(|| listener.limiter.refuse(LimitExceeded::RequestsInFlight, &request))?;
    let issued = read_form(&request, &body).and_then(|form| {
        let credentials = credentials(&request, &form)?;
        match form.grant_type.as_deref() {
            Some("client_credentials") => {}
            Some(_) => return Err(TokenError::UnsupportedGrantType),
            None => return Err(TokenError::InvalidRequest("grant_type is missing; send client_credentials")),
        }
        let address = listener.limiter.address_of(&request);
        Ok(listener.authenticator.issue(&credentials, &form.wanted, address)?)
    });
    let mut response = match &issued {
        Ok(token) => HttpResponse::Ok().json(TokenAnswer {
            access_token: &token.access_token,
            token_type: "bearer",
            expires_in: token.lifetime.as_secs(),
            scope: &token.scope,
        }),
        Err(error) => {
            // Anybody can bring this about, so it is counted and not logged each time.
            if let Some(times) = listener.log.admit(error.kind()) {
                let address = listener.limiter.address_of(&request);
                tracing::warn!(?error, %address, times, "token refused");
            }
            error.response()
        }
    };
    forbid_caching(&mut response);
    Ok(response)
}

/// The answer to any other method.
pub(super) async fn wrong_method(listener: web::Data<PublicListener>, request: HttpRequest) -> HttpResponse {
    if listener.authenticator.issuer().is_none() {
        return answer::no_such_route(&request);
    }
    let mut response = HttpResponse::MethodNotAllowed()
        .insert_header((ALLOW, http::POST))
        .json(ErrorAnswer { error: "invalid_request", error_description: "tokens are asked for by POST" });
    forbid_caching(&mut response);
    response
}

fn forbid_caching(response: &mut HttpResponse) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
}

/// Reads the body, so much and no more, and no longer than the connection waits for it.
async fn read_body(
    listener: &PublicListener,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<web::Bytes, ErrorResponse> {
    let read = payload.to_bytes_limited(listener.limiter.limits().max_body_bytes).await;
    let exceeded = limit_exceeded_by_body(request).or(read.is_err().then_some(LimitExceeded::Body));
    match (exceeded, read) {
        (Some(exceeded), _) => Err(listener.limiter.refuse(exceeded, request)),
        // An error of the transport reaches nobody: the body is then as good as empty.
        (None, read) => Ok(read.ok().and_then(Result::ok).unwrap_or_default()),
    }
}

impl From<TokenRefused> for TokenError {
    fn from(refused: TokenRefused) -> Self {
        match refused {
            TokenRefused::Client => Self::InvalidClient,
            TokenRefused::TooManyFailures { retry_after } => Self::TooManyFailures(retry_after),
            TokenRefused::Scope(_) => Self::InvalidScope(refused.to_string()),
            TokenRefused::Audience(_) => Self::InvalidTarget(refused.to_string()),
            TokenRefused::Signing => Self::Server,
        }
    }
}

impl TokenError {
    /// The name it is counted under in the log.
    const fn kind(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "token_invalid_request",
            Self::InvalidClient => "token_invalid_client",
            Self::UnsupportedGrantType => "token_unsupported_grant_type",
            Self::InvalidScope(_) => "token_invalid_scope",
            Self::InvalidTarget(_) => "token_invalid_target",
            Self::TooManyFailures(_) => "token_too_many_failures",
            Self::Server => "token_server_error",
        }
    }

    fn response(&self) -> HttpResponse {
        let bad_request = StatusCode::BAD_REQUEST;
        let (status, error, error_description) = match self {
            Self::InvalidRequest(description) => (bad_request, "invalid_request", *description),
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client", "unknown client or wrong secret"),
            Self::UnsupportedGrantType => {
                (bad_request, "unsupported_grant_type", "only grant_type=client_credentials is served here")
            }
            Self::InvalidScope(description) => (bad_request, "invalid_scope", description.as_str()),
            Self::InvalidTarget(description) => (bad_request, "invalid_target", description.as_str()),
            Self::TooManyFailures(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                "too many failures from this address; wait before the next try",
            ),
            Self::Server => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "no token can be signed"),
        };
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Basic realm=\"doorbell\""));
        }
        if let Self::TooManyFailures(wait) = self {
            response.insert_header((RETRY_AFTER, answer::seconds(*wait)));
        }
        response.json(ErrorAnswer { error, error_description })
    }
}

fn read_form(request: &HttpRequest, body: &[u8]) -> Result<Form, TokenError> {
    if request.mime_type().ok().flatten().is_none_or(|mime| mime.essence_str() != "application/x-www-form-urlencoded") {
        return Err(TokenError::InvalidRequest("the body must be application/x-www-form-urlencoded"));
    }
    let mut form = Form::default();
    for (name, value) in form_urlencoded::parse(body) {
        let value = value.into_owned();
        let is_repeated = match &*name {
            "grant_type" => form.grant_type.replace(value).is_some(),
            "client_id" => form.client_id.replace(value).is_some(),
            "client_secret" => form.client_secret.replace(value.into()).is_some(),
            "scope" => form.wanted.scope.replace(value).is_some(),
            // These may be given more than once (RFC 8707 §2).
            "audience" | "resource" => {
                form.wanted.audiences.push(value);
                false
            }
            _ => false,
        };
        if is_repeated {
            return Err(TokenError::InvalidRequest("a parameter is given more than once"));
        }
    }
    Ok(form)
}

/// The client's credentials: from the header, or from the form, and not from both.
fn credentials(request: &HttpRequest, form: &Form) -> Result<NameAndPassword, TokenError> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next();
    if headers.next().is_some() {
        return Err(TokenError::InvalidRequest("there is more than one Authorization header"));
    }
    match (header, &form.client_id, &form.client_secret) {
        (Some(_), _, Some(_)) => {
            Err(TokenError::InvalidRequest("the client authenticates twice; use the header or the form"))
        }
        (Some(header), named, None) => {
            let credentials = NameAndPassword::from_header(header.as_bytes()).ok_or(TokenError::InvalidClient)?;
            match named {
                Some(named) if named.as_bytes() != credentials.name => {
                    Err(TokenError::InvalidRequest("client_id is not the client of the Authorization header"))
                }
                _ => Ok(credentials),
            }
        }
        (None, Some(id), Some(secret)) => Ok(NameAndPassword {
            name: id.clone().into_bytes(),
            password: secret.expose_secret().as_bytes().to_vec().into(),
        }),
        (None, _, _) => Err(TokenError::InvalidClient),
    }
}
