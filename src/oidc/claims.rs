//! What a token of an identity provider says, whether it is signed or asked about.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::config::ClientIdClaim;

/// How far an identity provider's clock may be ahead of ours.
const CLOCK_SKEW_SECONDS: f64 = 30.0;

/// Why a token's claims do not let its bearer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ClaimsError {
    /// It is not the configured client's, or not for us.
    #[error("the token is not the configured client's")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// It has not every scope that is required.
    #[error("the token has not the required scope")]
    Scope,
}

/// The claims of a token that are looked at.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Claims {
    iss: Option<Value>,
    aud: Option<Value>,
    /// RFC 7519 §2: seconds since the epoch, possibly with a fraction.
    exp: Option<f64>,
    nbf: Option<f64>,
    sub: Option<Value>,
    azp: Option<Value>,
    client_id: Option<Value>,
    scope: Option<Value>,
    scp: Option<Value>,
    token_type: Option<Value>,
    cnf: Option<Value>,
}

/// The texts of a claim that is one or a list. What else stands there says nothing.
fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let many = claim.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    claim.into_iter().chain(many).filter_map(Value::as_str)
}

/// What the claims must be.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) client_id: String,
    pub(crate) client_id_claim: ClientIdClaim,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) scope: Vec<String>,
}

impl Claims {
    /// When the token ends, if it says so.
    pub(crate) fn end(&self) -> Option<Timestamp> {
        // A float beyond the end of time becomes the end of time.
        #[expect(clippy::cast_possible_truncation, reason = "the conversion saturates, which is meant")]
        self.exp.map(|seconds| Timestamp::from_millis((seconds * 1000.0) as i64))
    }

    /// Whether the token is one of the configured client's, for us, and good at `now`.
    pub(crate) fn check(&self, rules: &Rules, now: Timestamp) -> Result<(), ClaimsError> {
        let is = |claim: &Option<Value>, expected: &str| claim.as_ref().and_then(Value::as_str) == Some(expected);
        let issuer_fits = rules.issuer.as_ref().is_none_or(|issuer| is(&self.iss, issuer));
        let audience_fits =
            rules.audience.as_ref().is_none_or(|audience| texts(self.aud.as_ref()).any(|own| own == audience));
        let client = match rules.client_id_claim {
            ClientIdClaim::Azp => &self.azp,
            ClientIdClaim::ClientId => &self.client_id,
            ClientIdClaim::Sub => &self.sub,
        };
        // A token that is bound to a key or a certificate is worth nothing without that, and we do not ask for it.
        let is_bearer = self.cnf.is_none()
            && self.token_type.as_ref().is_none_or(|kind| {
                kind.as_str().is_some_and(|kind| matches!(kind.trim().to_ascii_lowercase().as_str(), "" | "bearer"))
            });
        if !issuer_fits || !audience_fits || !is(client, &rules.client_id) || !is_bearer {
            return Err(ClaimsError::Invalid);
        }
        if self.end().is_some_and(|end| end <= now) {
            return Err(ClaimsError::Expired);
        }
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
        if self.nbf.is_some_and(|start| start - CLOCK_SKEW_SECONDS > now.as_millis() as f64 / 1000.0) {
            return Err(ClaimsError::NotYet);
        }
        let carried: Vec<&str> = [&self.scope, &self.scp]
            .into_iter()
            .flat_map(|claim| texts(claim.as_ref()))
            .flat_map(str::split_ascii_whitespace)
            .collect();
        if rules.scope.iter().all(|scope| carried.contains(&scope.as_str())) { Ok(()) } else { Err(ClaimsError::Scope) }
    }
}
