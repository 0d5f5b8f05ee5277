//! What a token endpoint answers, read leniently: marketplaces differ in everything but `access_token`.

use std::time::Duration;

use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse, TokenType};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The longest that a token is used, whatever its answer says.
const LONGEST_LIFETIME: Duration = Duration::from_hours(24);

/// A successful answer of a token endpoint.
///
/// oauth2's own type wants a `token_type`, and `expires_in` as a whole number. What is read here is the token and how
/// long it is good; the rest may be anything, since nothing is decided by it.
#[derive(Debug, Serialize)]
pub(super) struct TokenAnswer {
    access_token: AccessToken,
    expires_in: Option<Duration>,
}

/// Every token is sent as a bearer token, whatever its answer calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bearer;

impl TokenType for Bearer {}

impl TokenResponse for TokenAnswer {
    type TokenType = Bearer;

    /// Empty if the answer has none.
    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &Bearer {
        &Bearer
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        None
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl<'de> Deserialize<'de> for TokenAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        // Some end the text with a line break.
        let token = fields.get("access_token").and_then(Value::as_str).unwrap_or_default().trim();
        // And some write it as it is to be sent.
        let token = match token.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
            Some(_) | None => token,
        };
        Ok(Self {
            access_token: AccessToken::new(token.to_owned()),
            expires_in: fields.get("expires_in").and_then(seconds),
        })
    }
}

/// A number of seconds, as a number or as text. One that is not above zero says nothing: some mean "for ever" by it,
/// and a token that has ended is refused soon enough.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    // The comparison is false for what is not a number, too.
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(LONGEST_LIFETIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(answer: &str) -> Option<Duration> {
        serde_json::from_str::<TokenAnswer>(answer).expect("read").expires_in()
    }

    #[test]
    fn a_lifetime_is_read_from_numbers_and_text_and_is_unknown_otherwise() {
        let hour = Some(Duration::from_hours(1));
        for (value, expected) in [
            ("3600", hour),
            ("3600.0", hour),
            ("3.6e3", hour),
            (r#""3600""#, hour),
            (r#"" 3600.0 ""#, hour),
            ("0.5", Some(Duration::from_millis(500))),
            ("1e300", Some(LONGEST_LIFETIME)),
            ("99999999999999999999999", Some(LONGEST_LIFETIME)),
            (r#""inf""#, Some(LONGEST_LIFETIME)),
            ("-1", None),
            ("0", None),
            ("null", None),
            ("true", None),
            ("[3600]", None),
            (r#""soon""#, None),
            (r#""NaN""#, None),
            (r#""""#, None),
        ] {
            assert_eq!(lifetime(&format!(r#"{{"access_token": "t", "expires_in": {value}}}"#)), expected, "{value}");
        }
        assert_eq!(lifetime(r#"{"access_token": "t"}"#), None);
    }
}
