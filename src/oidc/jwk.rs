//! Public keys as a provider publishes them (RFC 7517), and what each is good for.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// A key and what it is good for.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) jwk: Jwk,
    decoding: DecodingKey,
}

impl Key {
    /// A key that signatures may be verified with; nothing for any other.
    pub(super) fn of(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let is_for_signing = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        // A secret key has no place among public ones, and could be what a public key is mistaken for.
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let may_verify =
            jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if is_secret || !is_for_signing || !may_verify {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { jwk, decoding })
    }

    fn verifies(&self, algorithm: Algorithm) -> bool {
        let fits = match (&self.jwk.algorithm, algorithm) {
            (
                AlgorithmParameters::RSA(_),
                Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512,
            ) => true,
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES256) => curve.curve == EllipticCurve::P256,
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES384) => curve.curve == EllipticCurve::P384,
            (AlgorithmParameters::OctetKeyPair(pair), Algorithm::EdDSA) => pair.curve == EllipticCurve::Ed25519,
            _ => false,
        };
        fits && self.jwk.common.key_algorithm.is_none_or(|own| same_algorithm(own, algorithm))
    }
}

fn same_algorithm(own: KeyAlgorithm, algorithm: Algorithm) -> bool {
    own.to_string() == format!("{algorithm:?}")
}

/// The key that `kid` names for `algorithm`; without a name, the only one there is for it.
pub(super) fn find(keys: &[Key], kid: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
    let mut fitting = keys
        .iter()
        .filter(|key| key.verifies(algorithm) && kid.is_none_or(|kid| key.jwk.common.key_id.as_deref() == Some(kid)));
    let key = fitting.next()?;
    // Without a name, or with one that two keys have, there is no telling which key is meant.
    fitting.next().is_none().then(|| key.decoding.clone())
}
