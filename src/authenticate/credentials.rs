//! What a caller shows: read strictly, so that nothing can be understood in two ways.

use std::net::IpAddr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretSlice};

use super::AuthenticationError;

/// The longest token that is looked at, in bytes; ours have about 500.
const MAX_TOKEN_BYTES: usize = 4096;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parts of a notification that may prove who sends it.
#[derive(Debug)]
pub struct RequestCredentials<'a> {
    /// The `Authorization` headers, as they were sent.
    pub authorization: Vec<&'a [u8]>,
    /// The request's method.
    pub method: &'a str,
    /// The request's path as the marketplace knows it, prefix included.
    pub path: &'a str,
    /// The request's query, without its `?`.
    pub query: &'a str,
    /// Whom the request came from.
    pub address: IpAddr,
}

/// What a caller shows, by its scheme.
pub(super) enum Credentials<'a> {
    /// A token (RFC 6750).
    Bearer(&'a str),
    /// A name and a password (RFC 7617).
    Basic(NameAndPassword),
    /// The parameters of an OAuth 1.0 header, still encoded.
    OAuth(&'a str),
    /// OAuth 1.0 parameters in the query and no header.
    OAuthQuery,
}

/// The two halves of HTTP Basic, as they were sent: bytes, since their encoding is not.
pub struct NameAndPassword {
    /// Before the first colon.
    pub name: Vec<u8>,
    /// After it.
    pub password: SecretSlice<u8>,
}

impl<'a> Credentials<'a> {
    /// Reads the one credential there is.
    pub(super) fn read(request: &RequestCredentials<'a>) -> Result<Self, AuthenticationError> {
        let header = match request.authorization[..] {
            [] if has_oauth_parameters(request.query) => return Ok(Self::OAuthQuery),
            [] => return Err(AuthenticationError::Missing),
            [header] => std::str::from_utf8(header).map_err(|_| AuthenticationError::Malformed)?,
            _ => return Err(AuthenticationError::Malformed),
        };
        let (scheme, rest) = header.split_once(' ').ok_or(AuthenticationError::Malformed)?;
        let rest = rest.trim_matches(' ');
        // RFC 9110 §11.1: the scheme is compared without regard to case.
        if scheme.eq_ignore_ascii_case("bearer") {
            return bearer(rest).map(Self::Bearer);
        }
        if scheme.eq_ignore_ascii_case("basic") {
            return NameAndPassword::decode(rest).map(Self::Basic).ok_or(AuthenticationError::Malformed);
        }
        if scheme.eq_ignore_ascii_case("oauth") {
            return Ok(Self::OAuth(rest));
        }
        Err(AuthenticationError::Malformed)
    }
}

/// A token in the characters of RFC 6750 §2.1.
fn bearer(token: &str) -> Result<&str, AuthenticationError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || !token.bytes().all(is_allowed) {
        return Err(AuthenticationError::Malformed);
    }
    if token.len() > MAX_TOKEN_BYTES { Err(AuthenticationError::Invalid) } else { Ok(token) }
}

fn has_oauth_parameters(query: &str) -> bool {
    query.split('&').any(|pair| pair.starts_with("oauth_"))
}

impl NameAndPassword {
    /// Reads the value of an `Authorization` header of the scheme Basic.
    #[must_use]
    pub fn from_header(header: &[u8]) -> Option<Self> {
        let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("basic") { Self::decode(encoded.trim_matches(' ')) } else { None }
    }

    fn decode(encoded: &str) -> Option<Self> {
        let decoded = BASE64.decode(encoded).ok()?;
        // RFC 7617 §2: neither half holds a control character.
        if decoded.iter().any(u8::is_ascii_control) {
            return None;
        }
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        Some(Self { name: decoded[..colon].to_vec(), password: decoded[colon + 1..].to_vec().into() })
    }

    /// Both halves with form-encoding undone, which RFC 6749 §2.3.1 wants of a client and many clients leave out.
    #[must_use]
    pub fn form_decoded(&self) -> Self {
        let decoded = |bytes: &[u8]| {
            let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            percent_encoding::percent_decode(&spaced).collect::<Vec<u8>>()
        };
        Self { name: decoded(&self.name), password: decoded(self.password.expose_secret()).into() }
    }
}
