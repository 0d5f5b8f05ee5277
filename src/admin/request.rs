//! What callers of the private listener send: query parameters and JSON bodies.
//!
//! Both are read strictly. A misspelt name is an error that says what to write; it never asks for something else than the
//! caller meant.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::{HttpRequest, web};
use percent_encoding::percent_decode;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::api::Problem;
use crate::clock::{Clock, Timestamp};

/// The largest body that is read: a result has a few lines.
const MAX_BODY_BYTES: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of a query. An empty one counts as absent.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads a query that may hold these `known` names, each at most once.
    pub(super) fn read(request: &HttpRequest, known: &'static [&'static str]) -> Result<Self, Problem> {
        let mut given = BTreeMap::new();
        for pair in request.query_string().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).unwrap_or_else(|| name.to_owned());
            let Some(known) = known.iter().find(|known| **known == name) else {
                let choices = if known.is_empty() {
                    "it takes none".to_owned()
                } else {
                    format!("it takes {}", known.join(", "))
                };
                return Err(Problem::bad_request(format!("{name} is not a parameter of this route; {choices}")));
            };
            let value = decode(value).ok_or_else(|| {
                Problem::bad_request(format!("{name}={value} is not percent-encoded UTF-8; encode it as UTF-8"))
            })?;
            if given.insert(*known, value).is_some() {
                return Err(Problem::bad_request(format!("{name} is given more than once; write it once")));
            }
        }
        given.retain(|_, value| !value.is_empty());
        Ok(Self(given))
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// A parameter of a type; `wanted` names the type for the caller who wrote something else.
    pub(super) fn parsed<T: FromStr>(&self, name: &str, wanted: impl Display) -> Result<Option<T>, Problem> {
        self.0.get(name).map(|text| text.parse().map_err(|_| unfit(name, text, &wanted))).transpose()
    }

    /// A moment in RFC 3339.
    pub(super) fn moment(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let moment = |text: &String| {
            let moment: jiff::Timestamp = with_its_plus(text).parse().map_err(|_| {
                unfit(name, text, &"a moment in RFC 3339, such as 2026-01-31T08:00:00Z or 2026-01-31T09:00:00+01:00")
            })?;
            Ok(Timestamp::from_millis(moment.as_millisecond()))
        };
        self.0.get(name).map(moment).transpose()
    }
}

pub(super) fn unfit(name: &str, text: &str, wanted: &dyn Display) -> Problem {
    Problem::bad_request(format!("{name}={text} is not {wanted}"))
}

/// Decodes a name or a value as forms encode it.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(Cow::into_owned)
}

/// Puts the plus sign back into an offset.
///
/// A plus sign that is not encoded reads as a space. No other space can stand before the hours and minutes at the end of
/// a moment.
fn with_its_plus(text: &str) -> String {
    let is_offset = |text: &str| {
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        matches!((digits, text.len()), (2, 2) | (4, 4)) || digits == 4 && text.len() == 5 && text.as_bytes()[2] == b':'
    };
    match text.rsplit_once(' ') {
        Some((moment, offset)) if moment.contains(':') && is_offset(offset) => format!("{moment}+{offset}"),
        _ => text.to_owned(),
    }
}

/// Reads a body of JSON.
pub(super) async fn json<T: DeserializeOwned>(
    clock: &dyn Clock,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let media_type = header(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim());
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        let given = media_type.map_or("is missing".to_owned(), |media_type| format!("is {media_type:?}"));
        return Err(Problem::unsupported(format!("Content-Type {given}; send Content-Type: application/json")));
    }
    if let Some(coding) = header(CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::unsupported(format!("Content-Encoding is {coding:?}; send the body as it is")));
    }
    if header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) > Some(MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let body = tokio::select! {
        read = payload.to_bytes_limited(MAX_BODY_BYTES) => match read {
            Ok(body) => body.map_err(|error| Problem::bad_request(format!("the body ended early: {error}")))?,
            Err(_) => return Err(too_large()),
        },
        () = clock.sleep(BODY_TIMEOUT) => return Err(Problem::too_slow(BODY_TIMEOUT)),
    };
    let unfit = |error: &dyn Display| Problem::bad_request(format!("the body is not what is taken here: {error}"));
    serde_json::from_slice::<IgnoredAny>(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    // Serde also reads a struct from a list, by position, which nobody means.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(unfit(&"it must be a JSON object, such as {\"success\":true}"));
    }
    let mut document = serde_json::Deserializer::from_slice(&body);
    serde_path_to_error::deserialize(&mut document).map_err(|error| unfit(&error))
}

fn too_large() -> Problem {
    Problem::too_large(format!("the body has more than {MAX_BODY_BYTES} bytes, which is all that is read; send less"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plus_of_an_offset_is_put_back() {
        for (text, expected) in [
            ("2026-01-31T08:00:00 02:00", "2026-01-31T08:00:00+02:00"),
            ("2026-01-31T08:00 0200", "2026-01-31T08:00+0200"),
            ("2026-01-31 08:00:00 02", "2026-01-31 08:00:00+02"),
            ("2026-01-31T08:00:00+02:00", "2026-01-31T08:00:00+02:00"),
            ("2026-01-31 08:00", "2026-01-31 08:00"),
            ("2026-01-31 08:00:00Z", "2026-01-31 08:00:00Z"),
            ("", ""),
        ] {
            assert_eq!(with_its_plus(text), expected, "{text}");
        }
    }
}
