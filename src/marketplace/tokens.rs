//! Inbound tokens: fetched with our credentials, cached, renewed before they end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use oauth2::basic::BasicClient;
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RequestTokenError, Scope, TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::client::{CallError, retry_after};
use crate::clock::{Clock, Timestamp};
use crate::config::Marketplace;
use crate::egress::Egress;

/// What a token is good for when the marketplace does not say.
const ASSUMED_LIFETIME: Duration = Duration::from_mins(5);
/// How long before its end a token is renewed, unless it lives too short for that.
const RENEWAL_MARGIN: Duration = Duration::from_mins(1);

type Client = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// The tokens of one inbound client in one marketplace.
///
/// A token leaves here only for the marketplace it was issued by: each client owns its own `Tokens` (G6).
pub(super) struct Tokens {
    client: Client,
    scope: Scope,
    endpoint: TokenEndpoint,
    clock: Arc<dyn Clock>,
    /// Held across the request, so that any number of callers in need of a token make one request.
    current: Mutex<Option<Token>>,
}

struct Token {
    secret: SecretString,
    renew_at: Timestamp,
}

impl Tokens {
    pub(super) fn new(marketplace: &Marketplace, egress: Egress, clock: Arc<dyn Clock>) -> Result<Self, CallError> {
        let token_url = TokenUrl::new(marketplace.token_url()).map_err(|error| CallError::Token(error.to_string()))?;
        let inbound = &marketplace.inbound;
        let client = BasicClient::new(ClientId::new(inbound.client_id.clone()))
            .set_client_secret(ClientSecret::new(inbound.client_secret.expose().to_owned()))
            .set_auth_type(AuthType::BasicAuth)
            .set_token_uri(token_url);
        let endpoint = TokenEndpoint { egress, clock: Arc::clone(&clock) };
        Ok(Self { client, scope: Scope::new(inbound.scope.clone()), endpoint, clock, current: Mutex::new(None) })
    }

    /// A token that is good for a while yet.
    pub(super) async fn get(&self) -> Result<SecretString, CallError> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| token.renew_at > self.clock.now()) {
            return Ok(token.secret.clone());
        }
        let token = self.request().await?;
        let secret = token.secret.clone();
        *current = Some(token);
        Ok(secret)
    }

    /// Forgets `refused`, unless it has been renewed since.
    pub(super) async fn forget(&self, refused: &SecretString) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| token.secret.expose_secret() == refused.expose_secret()) {
            *current = None;
        }
    }

    async fn request(&self) -> Result<Token, CallError> {
        let asked_at = self.clock.now();
        let exchange = self.client.exchange_client_credentials().add_scope(self.scope.clone());
        let answer = exchange.request_async(&self.endpoint).await;
        let answer = answer.map_err(|error| match error {
            RequestTokenError::Request(error) => error,
            // The server's own description is left out: it may echo what it was sent.
            RequestTokenError::ServerResponse(refusal) => {
                CallError::Token(format!("the token endpoint refused our client: {}", refusal.error()))
            }
            RequestTokenError::Parse(_, _) => CallError::Token("the token endpoint's answer is not a token".to_owned()),
            RequestTokenError::Other(reason) => CallError::Token(reason),
        })?;
        let lifetime = answer.expires_in().unwrap_or(ASSUMED_LIFETIME);
        let margin = RENEWAL_MARGIN.min(lifetime / 2);
        Ok(Token {
            secret: SecretString::from(answer.access_token().secret().clone()),
            renew_at: asked_at.plus(lifetime.saturating_sub(margin)),
        })
    }
}

/// The token endpoint as oauth2 calls it: through the same way out as everything else.
struct TokenEndpoint {
    egress: Egress,
    clock: Arc<dyn Clock>,
}

impl TokenEndpoint {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let answer = self.egress.call(request).await?;
        // Only these two carry an OAuth 2.0 error (RFC 6749 §5.2).
        let may_be_a_refusal = matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED);
        if answer.status().is_success() || (may_be_a_refusal && !answer.body().is_empty()) {
            return Ok(answer);
        }
        let retry_after = retry_after(answer.headers(), self.clock.now());
        Err(CallError::TokenEndpoint { status: answer.status(), retry_after })
    }
}

impl<'c> AsyncHttpClient<'c> for TokenEndpoint {
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, CallError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.ask(request))
    }
}
