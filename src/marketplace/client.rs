use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::token_endpoint::{CredentialForm, TokenEndpoint};
use super::tokens::Tokens;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Marketplace};
use crate::egress::{Egress, EgressError, StatusOnly};
use crate::event::{BaseUrl, EventResult, EventUrl, MAX_BODY_BYTES};

/// One marketplace, called with one integration's inbound client.
pub struct MarketplaceClient {
    base_url: BaseUrl,
    egress: Egress,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
}

/// What came of reading an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Its body, as received.
    Body {
        /// The bytes, after any content coding is undone.
        bytes: Vec<u8>,
        /// What the answer says that they are.
        content_type: Option<String>,
    },
    /// A success without a body: nothing to read.
    Empty(StatusCode),
    /// There is no such event (any more): 404 or 410. An ingress without a backend says so too, so it is believed only
    /// when it lasts.
    Missing(StatusCode),
}

/// What came of reporting a result.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    /// The marketplace took it.
    Taken,
    /// The marketplace has settled the event already: 409 or 410.
    SettledBefore(StatusCode),
    /// The marketplace knows nothing to settle: 404. An ingress without a backend says so too, so it is believed only
    /// when it lasts.
    Unknown(StatusCode),
}

/// Why a call came to nothing. Every one of these may pass.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// No token to call with.
    #[error("no token: {reason}")]
    Token {
        /// What the token endpoint did.
        reason: String,
        /// How long it asks us to wait, or how long it is left alone.
        retry_after: Option<Duration>,
    },
    /// No answer.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// An answer that neither does nor settles it.
    #[error("the marketplace answered {status}")]
    Status {
        /// The answer's status.
        status: StatusCode,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
}

impl CallError {
    /// Whether an answer came that is larger than is read.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        matches!(self, Self::Egress(EgressError::TooLarge { .. }))
    }

    /// The answer that came and was of no use as it is, if one did.
    #[must_use]
    pub fn into_received(self) -> Option<Vec<u8>> {
        match self {
            Self::Egress(EgressError::TooLarge { received, .. } | EgressError::Encoding { received, .. }) => {
                Some(received.0)
            }
            Self::Token { .. } | Self::Egress(_) | Self::Status { .. } => None,
        }
    }

    pub(super) const fn token(reason: String, retry_after: Option<Duration>) -> Self {
        Self::Token { reason, retry_after }
    }

    /// How long to wait before the next try at least, if there is a reason to.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Token { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Egress(_) => None,
        }
    }
}

impl MarketplaceClient {
    /// A client of `marketplace`.
    ///
    /// # Errors
    /// If its token URL cannot be used, or TLS cannot be set up.
    pub fn new(marketplace: &Marketplace, settings: &config::Egress, clock: Arc<dyn Clock>) -> Result<Self, CallError> {
        let token_origin = BaseUrl::parse(&marketplace.token_url())
            .map_err(|error| CallError::token(format!("token_url {error}"), None))?;
        let base_url = marketplace.base_url.clone();
        let egress = Egress::new(settings, vec![base_url.clone(), token_origin], MAX_BODY_BYTES)?;
        let endpoint = TokenEndpoint::new(marketplace, egress.clone(), Arc::clone(&clock))?;
        let tokens = Tokens::new(endpoint, base_url.to_string(), Arc::clone(&clock), settings.total_timeout);
        Ok(Self { base_url, egress, tokens, clock })
    }

    /// Where this marketplace lives.
    #[must_use]
    pub const fn base_url(&self) -> &BaseUrl {
        &self.base_url
    }

    /// Reads the event at `url`.
    ///
    /// # Errors
    /// If there was no answer to go by.
    pub async fn fetch(&self, url: &EventUrl) -> Result<Fetched, CallError> {
        let answer = self.call(&Method::GET, url.as_str(), &[]).await?;
        match answer.status() {
            status if status.is_success() && answer.body().is_empty() => Ok(Fetched::Empty(status)),
            status if status.is_success() => {
                let content_type = answer.headers().get(CONTENT_TYPE);
                let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                Ok(Fetched::Body { bytes: answer.into_body(), content_type })
            }
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => Ok(Fetched::Missing(status)),
            _ => Err(unhelpful(&answer, self.clock.now())),
        }
    }

    /// Reports what the event at `url` came to.
    ///
    /// # Errors
    /// If the marketplace has not confirmed it, and must be told again.
    pub async fn report(&self, url: &EventUrl, result: &EventResult) -> Result<Reported, CallError> {
        let body = serde_json::to_vec(result).map_err(|error| EgressError::Unsendable(error.to_string()))?;
        let answer = self.call(&Method::POST, &url.result_url(), &body).await?;
        match answer.status() {
            status if status.is_success() => Ok(Reported::Taken),
            status @ (StatusCode::CONFLICT | StatusCode::GONE) => Ok(Reported::SettledBefore(status)),
            status @ StatusCode::NOT_FOUND => Ok(Reported::Unknown(status)),
            _ => Err(unhelpful(&answer, self.clock.now())),
        }
    }

    /// Asks for a token, to see whether our credentials are good, and in which form they are taken.
    ///
    /// # Errors
    /// If they are not, or the token endpoint is out of reach.
    pub async fn check(&self) -> Result<CredentialForm, CallError> {
        self.tokens.get().await?;
        Ok(self.tokens.form())
    }

    /// Calls with a token; once more with a fresh one if the first is refused.
    async fn call(&self, method: &Method, url: &str, body: &[u8]) -> Result<Response<Vec<u8>>, CallError> {
        let token = self.tokens.get().await?;
        let answer = self.egress.call(request(method, url, &token, body)?).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.tokens.forget(&token);
        let token = self.tokens.get().await?;
        Ok(self.egress.call(request(method, url, &token, body)?).await?)
    }
}

impl fmt::Debug for MarketplaceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarketplaceClient").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

fn request(method: &Method, url: &str, token: &SecretString, body: &[u8]) -> Result<Request<Vec<u8>>, CallError> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        .map_err(|_| CallError::token("it cannot be sent in a header".to_owned(), None))?;
    bearer.set_sensitive(true);
    let mut request = Request::builder()
        .method(method)
        .uri(url)
        .header(AUTHORIZATION, bearer)
        // Without it the marketplace answers XML.
        .header(ACCEPT, HeaderValue::from_static("application/json"));
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).extension(StatusOnly);
    }
    Ok(request.body(body.to_vec()).map_err(|error| EgressError::Unsendable(error.to_string()))?)
}

fn unhelpful(answer: &Response<Vec<u8>>, now: Timestamp) -> CallError {
    CallError::Status { status: answer.status(), retry_after: retry_after(answer.headers(), now) }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 §10.2.3).
///
/// As it was asked for: how much of it is honoured is for whoever waits to decide.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a wait that outlasts everything.
        return Some(Duration::from_secs(text.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let moment = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(moment.as_millis()).ok()?).since(now))
}
