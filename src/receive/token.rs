//! The token endpoint: client credentials (RFC 6749 §4.4), by HTTP Basic or in the form.

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, PRAGMA, WWW_AUTHENTICATE};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::form_urlencoded;

use super::Door;

/// What went wrong, in the words of RFC 6749 §5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenError {
    InvalidRequest(&'static str),
    InvalidClient,
    UnsupportedGrantType,
}

#[derive(Serialize)]
struct TokenAnswer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'static str,
}

#[derive(Serialize)]
struct ErrorAnswer {
    error: &'static str,
    error_description: &'static str,
}

/// A client's id and secret, as they were sent.
struct ClientCredentials {
    id: String,
    secret: SecretString,
}

/// The form of a token request.
#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
}

/// `POST {prefix}/oauth2/token`
pub(super) async fn issue(door: web::Data<Door>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let issued = read_form(&request, &body).and_then(|form| {
        let credentials = credentials(&request, &form)?;
        match form.grant_type.as_deref() {
            Some("client_credentials") => {}
            Some(_) => return Err(TokenError::UnsupportedGrantType),
            None => return Err(TokenError::InvalidRequest("grant_type is missing; send client_credentials")),
        }
        let now = door.clock.now();
        let (id, secret) = (credentials.id.as_str(), credentials.secret.expose_secret());
        // RFC 6749 §2.3.1 wants each half form-encoded before it is joined; many clients send them as they are.
        let issued = door.issuer.issue(id, secret, now);
        issued
            .or_else(|_| door.issuer.issue(&form_decoded(id), &form_decoded(secret), now))
            .map_err(|_| TokenError::InvalidClient)
    });
    let mut response = match &issued {
        Ok(token) => HttpResponse::Ok().json(TokenAnswer {
            access_token: &token.access_token,
            token_type: "bearer",
            expires_in: token.lifetime.as_secs(),
            scope: token.scope,
        }),
        Err(error) => {
            tracing::warn!(?error, "token refused");
            error.response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, actix_web::http::header::HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, actix_web::http::header::HeaderValue::from_static("no-cache"));
    response
}

impl TokenError {
    fn response(self) -> HttpResponse {
        let (status, error, error_description) = match self {
            Self::InvalidRequest(description) => (StatusCode::BAD_REQUEST, "invalid_request", description),
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client", "unknown client or wrong secret"),
            Self::UnsupportedGrantType => {
                (StatusCode::BAD_REQUEST, "unsupported_grant_type", "only grant_type=client_credentials is served here")
            }
        };
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Basic realm=\"doorbell\""));
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
            // Whatever scope is asked for, the one there is is granted, and the answer says so (RFC 6749 §3.3).
            _ => false,
        };
        if is_repeated {
            return Err(TokenError::InvalidRequest("a parameter is given more than once"));
        }
    }
    Ok(form)
}

/// The client's credentials: from the header, or from the form, and not from both.
fn credentials(request: &HttpRequest, form: &Form) -> Result<ClientCredentials, TokenError> {
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
            let credentials = header.to_str().ok().and_then(basic).ok_or(TokenError::InvalidClient)?;
            match named {
                Some(named) if *named != credentials.id => {
                    Err(TokenError::InvalidRequest("client_id is not the client of the Authorization header"))
                }
                _ => Ok(credentials),
            }
        }
        (None, Some(id), Some(secret)) => Ok(ClientCredentials { id: id.clone(), secret: secret.clone() }),
        (None, _, _) => Err(TokenError::InvalidClient),
    }
}

/// The two halves of HTTP Basic, as they were sent.
fn basic(header: &str) -> Option<ClientCredentials> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some(ClientCredentials { id: id.to_owned(), secret: secret.to_owned().into() })
}

/// Undoes form-encoding.
fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
