//! Stage 2: who is calling.
//!
//! Credentials become a [`Caller`] here and nowhere else, in whichever of five ways the integrations allow:
//!
//! | kind | shown | decided by |
//! |---|---|---|
//! | `oauth2` | a token of ours | `issuer`, on the keys of `keyring` |
//! | `jwt` | a signed token of an identity provider | `jwt`, on the keys of `oidc` |
//! | `introspection` | an opaque token of an identity provider | `introspection`, which asks it |
//! | `basic` | name and password | `shared_secret` |
//! | `oauth1` | a signature over the request | `oauth1` |
//!
//! What cannot be decided, because whoever decides it cannot be asked, is [`AuthenticationError::Unavailable`]: the
//! caller is neither let in nor told that it is wrong.

mod admission;
mod credentials;
mod introspection;
mod issuer;
mod jwt;
mod keyring;
mod login_throttle;
mod oauth1;
mod shared_secret;
mod token_cache;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use serde::Deserialize;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Outbound};
use crate::egress::EgressError;
use crate::oidc::{ClaimsError, KeySource, REFRESH_EVERY};
use crate::store::Secrets;
use credentials::Credentials;
use introspection::Introspector;
use jwt::{JwtVerifier, ProviderKeys};
use login_throttle::{LoginThrottle, Refused};
use oauth1::{Carried, SignatureVerifier};
use shared_secret::{Client, proven};

pub use credentials::{NameAndPassword, RequestCredentials};
pub use issuer::{IssuedToken, Issuer, TokenRefused, TokenRequest};
pub use keyring::{KeyInfo, KeyringError};

/// How often our own signing keys are read again: how long a token is still good here that another process revoked.
const RELOAD_OWN_EVERY: Duration = Duration::from_secs(10);

/// A caller that proved who it is, and the integration it may notify.
///
/// Only this module makes one, so nothing behind it can be reached without authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    integration: Arc<str>,
}

impl Caller {
    /// The name of the caller's integration.
    #[must_use]
    pub fn integration(&self) -> &str {
        &self.integration
    }
}

/// Why a caller was not let in. What it says may be shown to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// No credentials at all.
    #[error("no credentials; send the header Authorization: Bearer <token>, or what this integration is set up for")]
    Missing,
    /// Credentials that cannot be read, or of a kind that no integration is set up for.
    #[error(
        "the credentials cannot be used: they must be of a kind that this integration is set up for, well-formed, and given \
         once"
    )]
    Malformed,
    /// A token that is not good here, or was changed on the way.
    #[error("the bearer token is not valid here; ask the token endpoint for a new one")]
    Invalid,
    /// A token whose time is over.
    #[error("the credentials have expired; ask the token endpoint for a new token, or set the clock that signs")]
    Expired,
    /// A token whose time has not come.
    #[error("the bearer token is not valid yet")]
    NotYet,
    /// A wrong name or password.
    #[error("unknown client or wrong secret")]
    WrongSecret,
    /// A signature that does not fit the request.
    #[error("the OAuth 1.0 signature does not fit this request at our public URL")]
    Signature,
    /// A signature that was used before.
    #[error("the OAuth 1.0 nonce was used before; sign each request anew")]
    Replayed,
    /// Good credentials that are not for notifying us.
    #[error("the bearer token has not the scope for notifications")]
    Scope,
    /// Too many failures from the caller's address.
    #[error("too many failures from this address; wait before the next try")]
    TooManyFailures {
        /// How long.
        retry_after: Duration,
    },
    /// Who can tell cannot be asked at present.
    #[error("the credentials cannot be verified at present; try again")]
    Unavailable,
}

impl AuthenticationError {
    /// The name by which callers that were refused for it are counted.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Missing => "caller_without_credentials",
            Self::Malformed => "caller_with_unfit_credentials",
            Self::Invalid => "caller_with_invalid_token",
            Self::Expired => "caller_with_expired_credentials",
            Self::NotYet => "caller_with_token_not_valid_yet",
            Self::WrongSecret => "caller_with_wrong_secret",
            Self::Signature => "caller_with_wrong_signature",
            Self::Replayed => "caller_with_used_nonce",
            Self::Scope => "caller_without_scope",
            Self::TooManyFailures { .. } => "caller_with_too_many_failures",
            Self::Unavailable => "caller_not_verifiable",
        }
    }
}

impl From<ClaimsError> for AuthenticationError {
    fn from(error: ClaimsError) -> Self {
        match error {
            ClaimsError::Invalid => Self::Invalid,
            ClaimsError::Expired => Self::Expired,
            ClaimsError::NotYet => Self::NotYet,
            ClaimsError::Scope => Self::Scope,
        }
    }
}

/// Why authentication cannot be set up.
#[derive(Debug, Error)]
pub enum SetUpError {
    /// The signing keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The way to an identity provider.
    #[error(transparent)]
    Egress(#[from] EgressError),
}

/// A bound on what is remembered.
const fn at_most(most: usize) -> NonZeroUsize {
    match NonZeroUsize::new(most) {
        Some(most) => most,
        None => NonZeroUsize::MIN,
    }
}

/// Everything that decides who is calling.
pub struct Authenticator {
    issuer: Option<Issuer>,
    verifiers: Vec<JwtVerifier>,
    introspectors: Vec<Arc<Introspector>>,
    names: Vec<Client>,
    signatures: Option<SignatureVerifier>,
    throttle: LoginThrottle,
    clock: Arc<dyn Clock>,
    challenge: String,
}

/// What an unverified token says of itself: enough to choose who verifies it, and for nothing else.
#[derive(Deserialize)]
struct Unverified {
    iss: Option<String>,
}

impl Authenticator {
    /// Sets up every kind that an integration is configured with.
    ///
    /// # Errors
    /// If our own signing keys can be neither read nor kept, or there is no way to an identity provider. That one
    /// does not answer is no error here.
    pub async fn set_up(config: &Config, secrets: Arc<dyn Secrets>, clock: Arc<dyn Clock>) -> Result<Self, SetUpError> {
        let issuer = Issuer::open(config, Arc::clone(&secrets), Arc::clone(&clock)).await?;
        let (mut verifiers, mut introspectors, mut names) = (Vec::new(), Vec::new(), Vec::new());
        let mut sources = HashMap::new();
        for integration in &config.integrations {
            let name = || Arc::from(integration.name.as_str());
            for outbound in integration.outbound.iter() {
                match outbound {
                    Outbound::Jwt(jwt) => {
                        // Integrations with one provider share its keys.
                        let location = (jwt.issuer.clone(), jwt.jwks_url.clone());
                        let keys = match sources.entry(location) {
                            Entry::Occupied(known) => Arc::clone(known.get()),
                            Entry::Vacant(new) => {
                                let source = KeySource::new(jwt, &config.egress, Arc::clone(&clock))?;
                                Arc::clone(new.insert(Arc::new(ProviderKeys::new(source, Arc::clone(&clock)))))
                            }
                        };
                        verifiers.push(JwtVerifier::new(name(), jwt, keys));
                    }
                    Outbound::Introspection(introspection) => {
                        let clock = Arc::clone(&clock);
                        introspectors.push(Arc::new(Introspector::new(name(), introspection, &config.egress, clock)?));
                    }
                    Outbound::Basic(client) => names.push(Client::new(name(), client)),
                    // The issuer and the verifier of signatures look for theirs themselves.
                    Outbound::Oauth2(_) | Outbound::Oauth1(_) => {}
                }
            }
        }
        let signatures = SignatureVerifier::new(config, secrets);
        let challenge = challenge(!names.is_empty(), signatures.is_some());
        Ok(Self {
            issuer,
            verifiers,
            introspectors,
            names,
            signatures,
            throttle: LoginThrottle::new(Arc::clone(&clock)),
            clock,
            challenge,
        })
    }

    /// The caller behind what a request shows.
    ///
    /// # Errors
    /// Why it is not let in.
    pub async fn authenticate(&self, request: &RequestCredentials<'_>) -> Result<Caller, AuthenticationError> {
        let now = self.clock.now();
        match Credentials::read(request)? {
            Credentials::Bearer(token) => self.bearer(token, request.address, now).await,
            Credentials::Basic(credentials) => self.basic(&credentials, request.address),
            Credentials::OAuth(header) => self.signed(request, Carried::Header(header), now).await,
            Credentials::OAuthQuery => self.signed(request, Carried::Query, now).await,
        }
    }

    /// Issues a token of ours.
    ///
    /// # Errors
    /// If the client is not known by what it shows, or asks for what is not to be had.
    pub fn issue(
        &self,
        credentials: &NameAndPassword,
        request: &TokenRequest,
        address: IpAddr,
    ) -> Result<IssuedToken, TokenRefused> {
        let issuer = self.issuer.as_ref().ok_or(TokenRefused::Client)?;
        issuer.issue(credentials, request, (&self.throttle, address), self.clock.now())
    }

    /// Our own issuer, if an integration uses it.
    #[must_use]
    pub const fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Signs tokens with a new key from now on. The keys before it verify theirs until they end, or no more if they
    /// are to be `revoked`.
    ///
    /// # Errors
    /// If the keys cannot be kept; then nothing has changed. Nothing comes back if no integration uses them.
    pub async fn rotate_keys(&self, revoke: bool) -> Result<Option<Vec<KeyInfo>>, KeyringError> {
        match &self.issuer {
            Some(issuer) => issuer.rotate(revoke, self.clock.now()).await.map(Some),
            None => Ok(None),
        }
    }

    /// The signing keys, the oldest first; none if no integration uses them.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.issuer.as_ref().map(Issuer::keys).unwrap_or_default()
    }

    /// How a caller may authenticate, as the value of `WWW-Authenticate`.
    #[must_use]
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Whether each identity provider answers: which integration's and of what kind, and what was found.
    pub async fn check(&self) -> Vec<(&str, &'static str, Result<String, String>)> {
        let mut findings = Vec::new();
        for verifier in &self.verifiers {
            findings.push((verifier.integration(), "jwt", verifier.keys().source().check().await));
        }
        for introspector in &self.introspectors {
            findings.push((introspector.integration(), "introspection", introspector.check().await));
        }
        findings
    }

    /// Fetches the keys of identity providers, and our own again, from time to time, until `stop`.
    pub async fn keep_keys_fresh(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.keep_providers_keys_fresh(), self.keep_own_keys_fresh()) } => {}
        }
    }

    async fn keep_providers_keys_fresh(&self) {
        let mut sources: Vec<&Arc<KeySource>> = Vec::new();
        for source in self.verifiers.iter().map(|verifier| verifier.keys().source()) {
            if !sources.iter().any(|known| Arc::ptr_eq(known, source)) {
                sources.push(source);
            }
        }
        while !sources.is_empty() {
            for source in &sources {
                // What went wrong is logged there; callers ask again.
                let _ = source.refresh().await;
            }
            self.clock.sleep(REFRESH_EVERY).await;
        }
    }

    async fn keep_own_keys_fresh(&self) {
        while let Some(issuer) = &self.issuer {
            self.clock.sleep(RELOAD_OWN_EVERY).await;
            issuer.reload().await;
        }
    }

    /// Who verifies a token is decided by the issuer it names; whatever no signature can tell is asked about.
    async fn bearer(&self, token: &str, address: IpAddr, now: Timestamp) -> Result<Caller, AuthenticationError> {
        let recalled = self
            .issuer
            .iter()
            .find_map(|issuer| issuer.recall(token, now))
            .or_else(|| self.verifiers.iter().find_map(|verifier| verifier.recall(token, now).map(Ok)));
        if let Some(verdict) = recalled {
            return verdict;
        }
        let claimed = claimed_issuer(token);
        let mut verdicts = Vec::new();
        if let Some(issuer) = self.issuer.as_ref().filter(|issuer| claimed.as_deref() == Some(issuer.identity())) {
            verdicts.push(issuer.verify(token, address, now).await);
        }
        for verifier in self.verifiers.iter().filter(|verifier| claimed.as_deref() == Some(verifier.issuer())) {
            verdicts.push(verifier.verify(token, address, now).await);
        }
        if verdicts.is_empty() {
            verdicts = self.asked_about(token, address).await;
        }
        most_telling(verdicts)
    }

    /// What the identity providers say of a token. Each is asked at once: one that is slow is not to hold up the answer
    /// of another.
    async fn asked_about(&self, token: &str, address: IpAddr) -> Vec<Result<Caller, AuthenticationError>> {
        if let Some(caller) = self.introspectors.iter().find_map(|introspector| introspector.recall(token, address)) {
            return vec![Ok(caller)];
        }
        if let [introspector] = &self.introspectors[..] {
            return vec![introspector.verify(token, address).await];
        }
        let mut asked = JoinSet::new();
        for introspector in &self.introspectors {
            let (introspector, token) = (Arc::clone(introspector), token.to_owned());
            asked.spawn(async move { introspector.verify(&token, address).await });
        }
        let mut verdicts = Vec::new();
        while let Some(verdict) = asked.join_next().await {
            let verdict = verdict.unwrap_or(Err(AuthenticationError::Unavailable));
            let is_good = verdict.is_ok();
            verdicts.push(verdict);
            if is_good {
                break;
            }
        }
        verdicts
    }

    fn basic(&self, credentials: &NameAndPassword, address: IpAddr) -> Result<Caller, AuthenticationError> {
        if self.names.is_empty() {
            return Err(AuthenticationError::Malformed);
        }
        let name = &credentials.name;
        let client = proven(&self.names, name, credentials.password.expose_secret());
        let proof = client.map(|client| (client.id.as_str(), Caller { integration: Arc::clone(&client.integration) }));
        self.throttle.judge(address, name, proof).map_err(|refused| match refused {
            Refused::Wrong => AuthenticationError::WrongSecret,
            Refused::TooManyFailures { retry_after } => AuthenticationError::TooManyFailures { retry_after },
        })
    }

    async fn signed(
        &self,
        request: &RequestCredentials<'_>,
        carried: Carried<'_>,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        match (&self.signatures, carried) {
            (Some(signatures), carried) => signatures.verify(request, carried, &self.throttle, now).await,
            (None, Carried::Header(_)) => Err(AuthenticationError::Malformed),
            // Without anybody who reads them, parameters of the query are no credentials.
            (None, Carried::Query) => Err(AuthenticationError::Missing),
        }
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

fn challenge(basic: bool, signed: bool) -> String {
    let mut challenge = "Bearer error=\"invalid_token\"".to_owned();
    if basic {
        challenge.push_str(", Basic realm=\"doorbell\", charset=\"UTF-8\"");
    }
    if signed {
        challenge.push_str(", OAuth realm=\"doorbell\"");
    }
    challenge
}

/// The issuer a token claims, if it is a signed token.
fn claimed_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice::<Unverified>(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?.iss
}

/// Whoever vouches for a caller lets it in; if nobody does, the caller is told what can still be mended.
fn most_telling(verdicts: Vec<Result<Caller, AuthenticationError>>) -> Result<Caller, AuthenticationError> {
    let rank = |error: &AuthenticationError| match error {
        AuthenticationError::Unavailable => 4,
        AuthenticationError::Scope => 3,
        AuthenticationError::NotYet => 2,
        AuthenticationError::Expired => 1,
        AuthenticationError::Missing
        | AuthenticationError::Malformed
        | AuthenticationError::Invalid
        | AuthenticationError::WrongSecret
        | AuthenticationError::Signature
        | AuthenticationError::Replayed
        | AuthenticationError::TooManyFailures { .. } => 0,
    };
    let mut telling = AuthenticationError::Invalid;
    for verdict in verdicts {
        match verdict {
            Ok(caller) => return Ok(caller),
            Err(error) if rank(&error) >= rank(&telling) => telling = error,
            Err(_) => {}
        }
    }
    Err(telling)
}
