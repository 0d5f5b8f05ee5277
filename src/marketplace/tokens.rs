//! Inbound tokens: fetched with our credentials, cached, renewed before they end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use oauth2::basic::BasicClient;
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RequestTokenError, Scope, TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::client::CallError;
use crate::clock::{Clock, Timestamp};
use crate::config::Marketplace;
use crate::egress::{Egress, EgressError};

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
    egress: Egress,
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
        Ok(Self { client, scope: Scope::new(inbound.scope.clone()), egress, clock, current: Mutex::new(None) })
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
        let answer = exchange.request_async(&self.egress).await;
        let answer = answer.map_err(|error| match error {
            RequestTokenError::Request(error) => CallError::Egress(error),
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

/// oauth2 speaks through the same way out as everything else.
impl<'c> AsyncHttpClient<'c> for Egress {
    type Error = EgressError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, EgressError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.call(request))
    }
}
