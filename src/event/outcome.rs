//! What an event came to, as the marketplace is told.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::kind::open_enum;
use crate::printable::is_hidden;

open_enum! {
    /// Why an event came to nothing, in the marketplace's words.
    ErrorCode {
        /// The user exists already:
        UserAlreadyExists = "USER_ALREADY_EXISTS",
        /// There is no such user:
        UserNotFound = "USER_NOT_FOUND",
        /// There is no such account:
        AccountNotFound = "ACCOUNT_NOT_FOUND",
        /// No seat is left:
        MaxUsersReached = "MAX_USERS_REACHED",
        /// The caller did not say who it is:
        Unauthorized = "UNAUTHORIZED",
        /// Not possible as things stand:
        InvalidOperation = "INVALID_OPERATION",
        /// Somebody stopped it:
        OperationCancelled = "OPERATION_CANCELLED",
        /// This type of event is not supported, or its endpoint not configured:
        ConfigurationError = "CONFIGURATION_ERROR",
        /// The event could not be understood:
        InvalidResponse = "INVALID_RESPONSE",
        /// Not finished yet:
        Pending = "PENDING",
        /// The caller may not do this:
        Forbidden = "FORBIDDEN",
        /// There is no such thing:
        NotFound = "NOT_FOUND",
        /// There is no such binding of an add-on:
        BindingNotFound = "BINDING_NOT_FOUND",
        /// Something on the way is out of order; try again:
        TransportError = "TRANSPORT_ERROR",
        /// None of the others:
        UnknownError = "UNKNOWN_ERROR",
    }
}

/// What an event came to, as the marketplace is told: the body of a result, and of every answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventResult {
    /// Whether what the event asks for was done.
    #[serde(deserialize_with = "boolean_or_its_text")]
    pub success: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<ErrorCode>,
    /// Words for the marketplace's operator or customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The vendor's name of the account: a successful order must carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_identifier: Option<String>,
    /// The vendor's name of the user, for an assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_identifier: Option<String>,
}

/// The longest message that is passed on, in bytes; more is cut, since marketplaces show it in a table.
const MAX_MESSAGE_BYTES: usize = 1000;

impl EventResult {
    /// Success with words to it.
    pub fn success(message: impl Into<String>) -> Self {
        Self {
            success: true,
            error_code: None,
            message: readable(message.into()),
            account_identifier: None,
            user_identifier: None,
        }
    }

    /// The result as an XML document, for callers that ask for one. Empty fields are left out, as in JSON.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut xml = format!("<result><success>{}</success>", self.success);
        for (name, text) in [
            ("message", self.message.as_deref()),
            ("accountIdentifier", self.account_identifier.as_deref()),
            ("userIdentifier", self.user_identifier.as_deref()),
            ("errorCode", self.error_code.as_ref().map(ErrorCode::as_str)),
        ] {
            if let Some(text) = text {
                // XML 1.0 has no way to write most control characters.
                let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n')).collect();
                let text = quick_xml::escape::escape(&text);
                // Writing to a String cannot fail.
                let _ = write!(xml, "<{name}>{text}</{name}>");
            }
        }
        xml.push_str("</result>");
        xml
    }

    /// The same with every open text cut, so that a record of it stays short. Identifiers are not: see
    /// [`AccountIdentifier`].
    pub(super) fn bounded(self) -> Self {
        Self {
            error_code: self.error_code.map(|code| cut_word(code.as_str(), MAX_IDENTIFIER_BYTES)),
            message: self.message.map(cut),
            ..self
        }
    }

    /// Failure with its code and words to it.
    pub fn failure(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { success: false, error_code: Some(code), ..Self::success(message) }
    }
}

/// The message cut to a sane length at a character's edge, or nothing if it is empty.
fn readable(message: String) -> Option<String> {
    (!message.is_empty()).then(|| cut(message))
}

/// A value of an open enum with a text of so many bytes at most, as JSON.
pub(super) fn cut_word<'a, T: From<&'a str>>(text: &'a str, bytes: usize) -> T {
    let mut length = 0;
    let fits = |&(_, c): &(usize, char)| {
        length += json_length(c.encode_utf8(&mut [0; 4]));
        length <= bytes
    };
    let end = text.char_indices().take_while(fits).last().map_or(0, |(start, c)| start + c.len_utf8());
    T::from(&text[..end])
}

/// Bytes of a text within a JSON string.
pub(super) fn json_length(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// A text for people, cut to a sane length at a character's edge.
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    match without_controls(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(cleaned) => cleaned,
    }
}

/// A text without control characters other than white space: nobody reads them, and each takes six bytes in a record.
pub(super) fn without_controls(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_kept(c) { c } else { ' ' }).collect())
}

/// The documentation shows `"success": "true"` too.
pub(crate) fn boolean_or_its_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// The vendor's name of a customer's account, by which every later event refers to it. Never empty, and at most
/// [`MAX_IDENTIFIER_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccountIdentifier(String);

/// The longest identifier that is taken, in bytes.
///
/// Events of one account are kept in order by it, so a longer one is refused and never cut: cutting would make one
/// account of two.
pub const MAX_IDENTIFIER_BYTES: usize = 256;

/// Why a text cannot be an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentifierError {
    /// It is empty, or nothing of it is seen.
    #[error(
        "an account identifier must not be empty, or of characters that nobody sees: the marketplace names the account by it \
         in every later event, and a user by the user's"
    )]
    Empty,
    /// It is longer than [`MAX_IDENTIFIER_BYTES`].
    #[error("an identifier of {0} bytes is too long; at most {MAX_IDENTIFIER_BYTES} are taken")]
    TooLong(usize),
}

impl AccountIdentifier {
    /// An identifier of the vendor's choice.
    ///
    /// # Errors
    /// If nothing of it is seen, so that nobody could refer to the account, or if it is too long.
    pub fn new(identifier: impl Into<String>) -> Result<Self, IdentifierError> {
        let identifier = identifier.into();
        if is_blank(&identifier) {
            return Err(IdentifierError::Empty);
        }
        check_length(&identifier)?;
        Ok(Self(identifier))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is empty, or nothing of it is seen.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_hidden(c))
}

/// Whether an identifier is short enough to be kept.
pub(super) const fn check_length(identifier: &str) -> Result<(), IdentifierError> {
    if identifier.len() > MAX_IDENTIFIER_BYTES { Err(IdentifierError::TooLong(identifier.len())) } else { Ok(()) }
}

impl From<AccountIdentifier> for String {
    fn from(identifier: AccountIdentifier) -> Self {
        identifier.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_left_out_of_a_result() {
        let json = serde_json::to_string(&EventResult::success("")).expect("serializes");
        assert_eq!(json, r#"{"success":true}"#);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_as_xml_is_read_as_it_was(texts in proptest::collection::vec("[^\\p{C}\\s]([^\\p{C}]{0,30}[^\\p{C}\\s])?", 4)) {
            let result = EventResult {
                success: false,
                error_code: Some(ErrorCode::from(texts[0].as_str())),
                message: Some(texts[1].clone()),
                account_identifier: Some(texts[2].clone()),
                user_identifier: Some(texts[3].clone()),
            };
            let tree = crate::event::xml::read(&result.to_xml()).expect("well-formed");
            let read = ["errorCode", "message", "accountIdentifier", "userIdentifier"].map(|name| tree.text_of(name));
            proptest::prop_assert_eq!(read.map(Option::unwrap_or_default).to_vec(), texts);
        }
    }

    #[test]
    fn a_result_in_xml_leaves_out_what_is_empty_and_what_xml_cannot_say() {
        let mut result = EventResult::failure(ErrorCode::AccountNotFound, "no <account> \u{0}\u{8} here & now");
        result.user_identifier = Some("u\u{8}1".to_owned());
        let expected = "<result><success>false</success><message>no &lt;account&gt;    here &amp; now</message>\
                        <userIdentifier>u1</userIdentifier><errorCode>ACCOUNT_NOT_FOUND</errorCode></result>";
        assert_eq!(result.to_xml(), expected);
    }

    #[test]
    fn success_is_read_as_a_boolean_or_as_its_text() {
        for (json, success) in [(r#"{"success":true}"#, true), (r#"{"success":"false"}"#, false)] {
            assert_eq!(serde_json::from_str::<EventResult>(json).expect("a result").success, success);
        }
        assert!(serde_json::from_str::<EventResult>(r#"{"success":"yes"}"#).is_err());
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let result = EventResult::success("ä".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(result.message.expect("a message").len(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn an_account_identifier_is_never_blank() {
        for blank in ["", " ", "\u{200b}", "\u{a0}\u{2060}\t", "\u{feff}\u{3164}"] {
            assert_eq!(AccountIdentifier::new(blank), Err(IdentifierError::Empty), "{}", blank.escape_unicode());
        }
        assert!(AccountIdentifier::new("a\u{200b}").is_ok());
    }

    #[test]
    fn an_account_identifier_that_is_too_long_is_refused_and_never_cut() {
        assert!(AccountIdentifier::new("a".repeat(256)).is_ok());
        assert_eq!(AccountIdentifier::new("a".repeat(257)), Err(IdentifierError::TooLong(257)));
    }
}
