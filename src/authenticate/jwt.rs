//! Signed tokens of an identity provider (RFC 7519, RFC 9068).

use std::net::IpAddr;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

use super::admission::{Admission, KEY_PATIENCE, KEY_WAITERS};
use super::token_cache::TokenCache;
use super::{AuthenticationError, Caller};
use crate::clock::{Clock, Timestamp};
use crate::config::{Jwt, SigningAlgorithm};
use crate::oidc::{Claims, KeyLookupError, KeySource, Rules};

/// The keys of one provider, and who waits for them.
pub(super) struct ProviderKeys {
    source: Arc<KeySource>,
    waiting: Arc<Admission>,
    clock: Arc<dyn Clock>,
}

impl ProviderKeys {
    pub(super) fn new(source: KeySource, clock: Arc<dyn Clock>) -> Self {
        Self { source: Arc::new(source), waiting: Admission::new(KEY_WAITERS, Arc::clone(&clock)), clock }
    }

    pub(super) const fn source(&self) -> &Arc<KeySource> {
        &self.source
    }

    /// The key that `kid` names for `algorithm`, looked for at the provider if it is not known.
    async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        address: IpAddr,
    ) -> Result<DecodingKey, KeyLookupError> {
        let fetches = self.source.fetches();
        if let Some(key) = self.source.known_key(kid, algorithm) {
            return Ok(key);
        }
        let _waiting = self.waiting.enter(address, false).ok_or(KeyLookupError::Unavailable)?;
        tokio::select! {
            found = self.source.look_for(kid, algorithm, fetches) => found,
            () = self.clock.sleep(KEY_PATIENCE) => Err(KeyLookupError::Unavailable),
        }
    }
}

/// One integration's client at one identity provider.
pub(super) struct JwtVerifier {
    integration: Arc<str>,
    issuer: String,
    algorithms: Vec<Algorithm>,
    rules: Rules,
    keys: Arc<ProviderKeys>,
    /// With the version of the keys they were verified by.
    verified: TokenCache<(Caller, u64)>,
}

impl JwtVerifier {
    pub(super) fn new(integration: Arc<str>, jwt: &Jwt, keys: Arc<ProviderKeys>) -> Self {
        let rules = Rules {
            client_id: jwt.client_id.clone(),
            client_id_claim: jwt.client_id_claim,
            issuer: Some(jwt.issuer.clone()),
            audience: Some(jwt.audience.clone()),
            scope: jwt.scope.clone(),
        };
        Self {
            integration,
            issuer: jwt.issuer.clone(),
            algorithms: jwt.algorithms.iter().map(|algorithm| algorithm_of(*algorithm)).collect(),
            rules,
            keys,
            verified: TokenCache::new(),
        }
    }

    pub(super) fn integration(&self) -> &str {
        &self.integration
    }

    /// Who issues the tokens that are verified here.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn keys(&self) -> &Arc<ProviderKeys> {
        &self.keys
    }

    /// The caller that was found to show `token` before.
    pub(super) fn recall(&self, token: &str, now: Timestamp) -> Option<Caller> {
        let (caller, version) = self.verified.recall(token, now)?;
        (version == self.keys.source.version()).then_some(caller)
    }

    /// The caller that shows `token`.
    ///
    /// The header says which key and algorithm a token claims, and nothing more: keys it brings along or points to
    /// (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.
    pub(super) async fn verify(
        &self,
        token: &str,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        let invalid = AuthenticationError::Invalid;
        let header = decode_header(token).map_err(|_| invalid)?;
        // RFC 7515 §4.1.11: what must be understood, and is not, makes the token invalid.
        if header.crit.is_some() || !self.algorithms.contains(&header.alg) || !is_access_token(header.typ.as_deref()) {
            return Err(invalid);
        }
        let version = self.keys.source.version();
        let key = self.keys.key(header.kid.as_deref(), header.alg, address).await.map_err(|error| match error {
            KeyLookupError::Unknown => invalid,
            KeyLookupError::Unavailable => AuthenticationError::Unavailable,
        })?;
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        // Everything that is claimed is looked at by `Claims::check`, with the clock we are given.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &key, &validation).map_err(|_| invalid)?.claims;
        let end = claims.end().ok_or(invalid)?;
        claims.check(&self.rules, now)?;
        self.keys.waiting.proved(address);
        let caller = Caller { integration: Arc::clone(&self.integration) };
        self.verified.keep(token, (caller.clone(), version), end);
        Ok(caller)
    }
}

/// Whether a token's type lets it be an access token: one made for another purpose must not pass for it (RFC 8725
/// §3.11).
fn is_access_token(kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| {
        let kind = kind.to_ascii_lowercase();
        matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
    })
}

const fn algorithm_of(algorithm: SigningAlgorithm) -> Algorithm {
    match algorithm {
        SigningAlgorithm::RS256 => Algorithm::RS256,
        SigningAlgorithm::RS384 => Algorithm::RS384,
        SigningAlgorithm::RS512 => Algorithm::RS512,
        SigningAlgorithm::PS256 => Algorithm::PS256,
        SigningAlgorithm::PS384 => Algorithm::PS384,
        SigningAlgorithm::PS512 => Algorithm::PS512,
        SigningAlgorithm::ES256 => Algorithm::ES256,
        SigningAlgorithm::ES384 => Algorithm::ES384,
        SigningAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}
