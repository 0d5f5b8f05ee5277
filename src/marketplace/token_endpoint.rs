//! One request to a marketplace's token endpoint, and what may have come of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use thiserror::Error;
use url::form_urlencoded::{self, byte_serialize};

use super::call_error::{CallError, retry_after};
use super::token_answer::TokenAnswer;
use crate::clock::Clock;
use crate::config::Marketplace;
use crate::egress::{Egress, EgressError};
use crate::event;

/// The longest token that is taken: servers refuse longer headers.
const LONGEST_TOKEN: usize = 16 * 1024;
/// The error code for credentials that are not taken (RFC 6749 §5.2).
const INVALID_CLIENT: &str = "invalid_client";
/// The longest error code and media type that are repeated.
const LONGEST_WORD: usize = 64;

type Client = oauth2::Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// A marketplace's token endpoint, and our credentials there.
pub(super) struct TokenEndpoint {
    client: Client,
    /// What no error may repeat.
    secret: SecretString,
    scope: Option<Scope>,
    egress: Egress,
    clock: Arc<dyn Clock>,
    /// `Authorization` with the credentials as they are, where that differs from how RFC 6749 §2.3.1 encodes them.
    raw: Option<SecretString>,
    /// Which of the two is tried first: the one that worked last, or else the one that was not refused last.
    is_raw_first: AtomicBool,
    /// Whether our credentials were ever taken: then a refusal that does not name them is about something else.
    have_worked: AtomicBool,
}

/// A token as it was issued.
pub(super) struct Issued {
    pub(super) secret: SecretString,
    /// How long it is good, if the answer says so.
    pub(super) lifetime: Option<Duration>,
}

/// How `client_id` and `client_secret` stand in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialForm {
    /// Form-encoded, as RFC 6749 §2.3.1 asks for. Without reserved characters that is what they are anyway.
    Encoded,
    /// As they are: how many servers compare them.
    Raw,
}

/// Why a request brought no token.
#[derive(Debug, Error)]
enum TokenRefusal {
    /// Our credentials are not taken, in this form.
    #[error("{0}")]
    Credentials(CallError),
    /// Something is not taken, which may be our credentials.
    #[error("{0}")]
    Anything(CallError),
    /// Anything else.
    #[error("{0}")]
    Other(CallError),
}

impl TokenEndpoint {
    pub(super) fn new(marketplace: &Marketplace, egress: Egress, clock: Arc<dyn Clock>) -> Result<Self, CallError> {
        let token_url = TokenUrl::new(marketplace.token_url())
            .map_err(|error| CallError::token(format!("token_url is no URL: {error}"), None))?;
        let inbound = &marketplace.inbound;
        let (id, secret) = (&inbound.client_id, inbound.client_secret.expose());
        let client = oauth2::Client::new(ClientId::new(id.clone()))
            .set_client_secret(ClientSecret::new(secret.to_owned()))
            .set_auth_type(AuthType::BasicAuth)
            .set_token_uri(token_url);
        let scope = inbound.scope.trim();
        Ok(Self {
            client,
            secret: SecretString::from(secret),
            scope: (!scope.is_empty()).then(|| Scope::new(scope.to_owned())),
            egress,
            clock,
            raw: raw_credentials(id, secret),
            is_raw_first: AtomicBool::new(false),
            have_worked: AtomicBool::new(false),
        })
    }

    /// The form in which the credentials were taken last.
    pub(super) fn form(&self) -> CredentialForm {
        if self.is_raw_first.load(Ordering::Relaxed) { CredentialForm::Raw } else { CredentialForm::Encoded }
    }

    /// Asks for a token: once, or once in each form if the credentials are refused in the first, or may be.
    pub(super) async fn ask(&self) -> Result<Issued, CallError> {
        let may_be_form = self.raw.is_some();
        let has_worked = self.have_worked.load(Ordering::Relaxed);
        let first = match self.ask_with(self.form()).await {
            Ok(issued) => return Ok(issued),
            Err(TokenRefusal::Credentials(_)) if may_be_form => None,
            Err(TokenRefusal::Anything(error)) if may_be_form && !has_worked => Some(error),
            Err(TokenRefusal::Credentials(error) | TokenRefusal::Anything(error) | TokenRefusal::Other(error)) => {
                return Err(error);
            }
        };
        let other = match self.form() {
            CredentialForm::Encoded => CredentialForm::Raw,
            CredentialForm::Raw => CredentialForm::Encoded,
        };
        // Whatever comes of it, the first form is not the one to go on with: a slow endpoint gets to the second, too.
        self.is_raw_first.store(other == CredentialForm::Raw, Ordering::Relaxed);
        self.ask_with(other).await.map_err(|refusal| {
            let (error, got_further) = match refusal {
                TokenRefusal::Credentials(error) => (error, false),
                TokenRefusal::Anything(error) => (error, first.is_none()),
                TokenRefusal::Other(error) => return error,
            };
            if got_further {
                return error;
            }
            self.is_raw_first.store(false, Ordering::Relaxed);
            // What may have been anything was not the form.
            first.unwrap_or(error)
        })
    }

    async fn ask_with(&self, form: CredentialForm) -> Result<Issued, TokenRefusal> {
        let exchange = self.client.exchange_client_credentials();
        let exchange = self.scope.iter().fold(exchange, |exchange, scope| exchange.add_scope(scope.clone()));
        let way = Way { endpoint: self, form };
        let answer = exchange.request_async(&way).await.map_err(|error| match error {
            RequestTokenError::Request(refusal) => refusal,
            // None of them is repeated: the answer may hold a token.
            RequestTokenError::ServerResponse(_) | RequestTokenError::Parse(_, _) | RequestTokenError::Other(_) => {
                TokenRefusal::Other(CallError::token("the token endpoint's answer cannot be read".to_owned(), None))
            }
        })?;
        let issued =
            issued(&answer).map_err(|reason| TokenRefusal::Other(CallError::token(reason.to_owned(), None)))?;
        self.have_worked.store(true, Ordering::Relaxed);
        Ok(issued)
    }

    /// An error code, unless it is none: a server may well repeat there what it was sent.
    fn shown<'t>(&self, code: &'t str) -> &'t str {
        let is_word = (1..=LONGEST_WORD).contains(&code.len())
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let has_secret = code.contains(self.secret.expose_secret());
        if is_word && !has_secret { code } else { "an error without a known code" }
    }
}

/// `Authorization` with the credentials as they are, if there is such a thing and it is not the encoded one.
fn raw_credentials(id: &str, secret: &str) -> Option<SecretString> {
    let is_clean = |text: &str| byte_serialize(text.as_bytes()).collect::<String>() == text;
    // A colon in the id would be taken for its end.
    let is_possible = !id.contains(':');
    let is_different = !is_clean(id) || !is_clean(secret);
    (is_possible && is_different).then(|| format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}"))).into())
}

fn issued(answer: &TokenAnswer) -> Result<Issued, &'static str> {
    let secret = answer.access_token().secret();
    if secret.is_empty() {
        return Err("the token endpoint's answer has no access_token, or not as text");
    }
    if secret.len() > LONGEST_TOKEN {
        return Err("the token endpoint's access_token is too long to be sent in a header");
    }
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token endpoint's access_token has characters that cannot be sent in a header");
    }
    Ok(Issued { secret: SecretString::from(secret.clone()), lifetime: answer.expires_in() })
}

/// The token endpoint as oauth2 calls it: through the same way out as everything else.
struct Way<'e> {
    endpoint: &'e TokenEndpoint,
    form: CredentialForm,
}

impl Way<'_> {
    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, TokenRefusal> {
        if let (CredentialForm::Raw, Some(raw)) = (self.form, &self.endpoint.raw) {
            let raw = HeaderValue::from_str(raw.expose_secret())
                .map_err(|error| TokenRefusal::Other(EgressError::Unsendable(error.to_string()).into()))?;
            request.headers_mut().insert(AUTHORIZATION, raw);
        }
        if let Some(credentials) = request.headers_mut().get_mut(AUTHORIZATION) {
            credentials.set_sensitive(true);
        }
        let answer = self.endpoint.egress.call(request).await.map_err(|error| {
            TokenRefusal::Other(CallError::token(format!("the token endpoint gave no answer: {error}"), None))
        })?;
        self.read(&answer)
    }

    /// The answer as RFC 6749 has it, if that is what it means.
    fn read(&self, answer: &HttpResponse) -> Result<HttpResponse, TokenRefusal> {
        let status = answer.status();
        let fields = fields_of(answer);
        let error = fields.as_ref().and_then(|fields| fields.get("error")).and_then(Value::as_str);
        let token = fields.as_ref().and_then(|fields| fields.get("access_token")).and_then(Value::as_str);
        let has_token = token.is_some_and(|token| !token.trim().is_empty());
        let names_client = match &fields {
            Some(fields) => fields.values().any(names_invalid_client),
            None => String::from_utf8_lossy(answer.body()).contains(INVALID_CLIENT),
        };
        let is_refusal = !has_token && (error.is_some() || names_client);
        if let Some(fields) = fields.as_ref().filter(|_| status.is_success() && !is_refusal) {
            let body = serde_json::to_vec(fields).map_err(|error| {
                TokenRefusal::Other(CallError::token(
                    format!("the token endpoint's answer cannot be read: {error}"),
                    None,
                ))
            })?;
            return Ok(as_json(body));
        }
        let code = if names_client { Some(INVALID_CLIENT) } else { error };
        // Only these carry an OAuth 2.0 error (RFC 6749 §5.2), those who answer 200 to everything, and whatever names it.
        let may_be_code = matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) || status.is_success();
        let reason = match code.filter(|_| may_be_code || names_client) {
            Some(code) => format!("the token endpoint refused our client: {}", self.endpoint.shown(code)),
            None if status.is_success() => return Err(TokenRefusal::Other(CallError::token(no_token(answer), None))),
            None => format!("the token endpoint answered {status}"),
        };
        let error = CallError::token(reason, retry_after(answer.headers(), self.endpoint.clock.now()));
        let is_about_credentials = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || names_client;
        Err(if is_about_credentials {
            TokenRefusal::Credentials(error)
        } else if may_be_code {
            TokenRefusal::Anything(error)
        } else {
            TokenRefusal::Other(error)
        })
    }
}

/// The fields of an answer: of a JSON object, read as leniently as an event, or of a form, as some endpoints answer.
fn fields_of(answer: &HttpResponse) -> Option<Map<String, Value>> {
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    event::object(answer.body(), content_type).or_else(|| {
        let pairs: Vec<_> = form_urlencoded::parse(answer.body().trim_ascii()).collect();
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let is_form = pairs.iter().all(|(name, _)| is_name(name))
            && pairs.iter().any(|(name, _)| matches!(&**name, "access_token" | "error"));
        is_form.then(|| pairs.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
    })
}

/// Whether the error code for credentials that are not taken stands anywhere in `value`: endpoints differ in where.
fn names_invalid_client(value: &Value) -> bool {
    match value {
        Value::String(text) => text.trim().eq_ignore_ascii_case(INVALID_CLIENT),
        Value::Array(items) => items.iter().any(names_invalid_client),
        Value::Object(fields) => fields.values().any(names_invalid_client),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What a success is that brings no token.
fn no_token(answer: &HttpResponse) -> String {
    let status = answer.status();
    if answer.body().trim_ascii().is_empty() {
        format!("the token endpoint answered {status} without a body; see whether token_url is right")
    } else {
        let what = media_type(answer);
        format!("the token endpoint answered {status} with {what}, which is no token; see whether token_url is right")
    }
}

/// An answer as oauth2 takes it, whatever its status and media type were.
fn as_json(body: Vec<u8>) -> HttpResponse {
    let mut answer = HttpResponse::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// What the answer says that it is, without parameters.
fn media_type(answer: &HttpResponse) -> String {
    let named = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let named = named.map(|text| text.split(';').next().unwrap_or_default().trim());
    match named.filter(|text| (1..=LONGEST_WORD).contains(&text.len())) {
        Some(named) => named.to_owned(),
        None => "something without a Content-Type".to_owned(),
    }
}

impl<'c> AsyncHttpClient<'c> for Way<'_> {
    type Error = TokenRefusal;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, TokenRefusal>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}
