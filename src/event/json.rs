//! JSON bodies as a tree.

use std::fmt::Write;

use json_event_parser::{JsonEvent, SliceJsonParser};
use serde_json::{Map, Value};

use super::body_error::BodyError;
use super::node::{Builder, Node};
use super::{MAX_BODY_BYTES, charset, charset_of};

/// How long the escape of a UTF-16 code unit is: `\ud83d`.
const ESCAPE_BYTES: usize = 6;

/// What some serializers write for numbers that JSON has no words for.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The fields of a JSON object that came with this `Content-Type`: for answers that are not events, and come from servers
/// as careless about charsets and characters as those that give events out.
///
/// Numbers and booleans are text, as they came. Of a name that is repeated the last value counts. Nothing if it is no
/// object, or breaks a limit of event bodies.
pub(crate) fn object(bytes: &[u8], content_type: Option<&str>) -> Option<Map<String, Value>> {
    if bytes.len() > MAX_BODY_BYTES {
        return None;
    }
    let text = charset::decode(bytes, content_type.and_then(charset_of).as_deref());
    let tree = match read(&text) {
        Err(BodyError::Malformed(_)) => read(&with_quoted_non_numbers(&text)),
        read => read,
    };
    match tree.ok()?.into() {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

/// The text with every [`NO_NUMBERS`] outside of a string as a string.
fn with_quoted_non_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut rest, mut is_in_string, mut is_escaped) = (text, false, false);
    while let Some(character) = rest.chars().next() {
        if !is_in_string && let Some(word) = NO_NUMBERS.into_iter().find(|word| rest.starts_with(word)) {
            quoted.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        is_in_string ^= character == '"' && !is_escaped;
        is_escaped = is_in_string && character == '\\' && !is_escaped;
        quoted.push(character);
        rest = &rest[character.len_utf8()..];
    }
    quoted
}

/// Reads one JSON document, whatever characters its strings hold.
///
/// A document that is well-formed but for its strings is read with them mended; anything else that is wrong with it is
/// an error.
pub(super) fn read(text: &str) -> Result<Node, BodyError> {
    match parse(text) {
        Err(BodyError::Malformed(reason)) => match mended(text) {
            Some(text) => parse(&text),
            None => Err(BodyError::Malformed(reason)),
        },
        read => read,
    }
}

/// Reads one well-formed JSON document.
///
/// An event parser rather than serde's `Value`, because numbers must keep every digit they came with: a
/// quantity of `1.10` is not `1.1`, and `18446744073709551616` is not a float.
fn parse(text: &str) -> Result<Node, BodyError> {
    let mut parser = SliceJsonParser::new(text.as_bytes());
    let mut tree = Builder::default();
    loop {
        match parser.parse_next().map_err(BodyError::malformed)? {
            JsonEvent::StartObject => tree.open(Node::Map(Vec::new()))?,
            JsonEvent::StartArray => tree.open(Node::List(Vec::new()))?,
            JsonEvent::EndObject | JsonEvent::EndArray => tree.close(),
            JsonEvent::ObjectKey(key) => tree.key(key.into_owned()),
            JsonEvent::String(text) => tree.value(Node::Text(text.into_owned()))?,
            JsonEvent::Number(digits) => tree.value(Node::Text(digits.into_owned()))?,
            JsonEvent::Boolean(value) => tree.value(Node::Text(value.to_string()))?,
            JsonEvent::Null => tree.value(Node::Null)?,
            JsonEvent::Eof => return Ok(tree.finish()),
        }
    }
}

/// The text with the characters in its strings written as JSON wants them: a raw control character escaped, the escape
/// of an unpaired surrogate replaced by that of U+FFFD. Nothing if there is none of either.
///
/// What stands outside of a string or behind a backslash stays, so that no other fault is hidden. At most six times as
/// long as `text`.
fn mended(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let (mut at, mut copied) = (0, 0);
    let mut is_in_string = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                is_in_string = !is_in_string;
                at += 1;
            }
            b'\\' if is_in_string => match Escape::at(&bytes[at..]) {
                Escape::Whole(length) => at += length,
                Escape::Unpaired => {
                    mended.push_str(&text[copied..at]);
                    mended.push_str("\\ufffd");
                    at += ESCAPE_BYTES;
                    copied = at;
                }
            },
            ..0x20 if is_in_string => {
                mended.push_str(&text[copied..at]);
                // Writing to a string cannot fail.
                let _ = write!(mended, "\\u{byte:04x}");
                at += 1;
                copied = at;
            }
            _ => at += 1,
        }
    }
    (copied > 0).then(|| mended + &text[copied..])
}

/// What begins with a backslash.
enum Escape {
    /// An escape, or something that is none, of so many bytes.
    Whole(usize),
    /// The escape of one half of a surrogate pair without the other.
    Unpaired,
}

impl Escape {
    fn at(bytes: &[u8]) -> Self {
        match code_unit(bytes) {
            // The backslash, and the first byte of what is behind it.
            None => Self::Whole(2),
            Some(0xd800..0xdc00) => match bytes.get(ESCAPE_BYTES..).and_then(code_unit) {
                Some(0xdc00..0xe000) => Self::Whole(2 * ESCAPE_BYTES),
                Some(_) | None => Self::Unpaired,
            },
            Some(0xdc00..0xe000) => Self::Unpaired,
            Some(_) => Self::Whole(ESCAPE_BYTES),
        }
    }
}

/// The code unit whose escape `bytes` begin with.
fn code_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}
