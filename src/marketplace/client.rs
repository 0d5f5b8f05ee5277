//! The calls that an event needs of its marketplace.

use std::fmt;
use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use super::call_error::{CallError, retry_after};
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
