//! What a body says that is needed without reading the body again.

use serde::{Deserialize, Serialize};

use super::account_status::status_on_success;
use super::outcome::{check_length, cut_word, json_length};
use super::{AccountStatus, Event, EventType, Flag, IdentifierError, MAX_IDENTIFIER_BYTES};

/// What the body and the result may each bring into a record beside words, in bytes as JSON.
pub(super) const MAX_NAMES_BYTES: usize = 3 * MAX_IDENTIFIER_BYTES + 32;
/// Of these, what a type takes, and a flag or a status.
pub(super) const MAX_KIND_BYTES: usize = MAX_IDENTIFIER_BYTES;
pub(super) const MAX_WORD_BYTES: usize = MAX_IDENTIFIER_BYTES / 2;

/// What a body says that is needed without reading the body again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractedFields {
    /// What the event is.
    pub kind: EventType,
    /// Its flag.
    pub flag: Option<Flag>,
    /// The account it is about, by which events are kept in order (G5).
    pub account: Option<String>,
    /// The status that account has once the event has succeeded.
    pub status_on_success: Option<AccountStatus>,
}

/// What a body says it is, whatever else can be kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Understood {
    #[serde(rename = "type")]
    pub(super) kind: EventType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flag: Option<Flag>,
}

impl Understood {
    /// What `event` says it is, cut where that is longer than any that is known.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            kind: cut_word(event.kind.as_str(), MAX_KIND_BYTES),
            flag: event.flag.as_ref().map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES)),
        }
    }
}

impl ExtractedFields {
    /// What `event` says. Its type, flag and status are cut where they are longer than any that is known.
    ///
    /// # Errors
    /// If it names its account by an identifier that cannot be kept whole: cut, it could be another account's. A ping does
    /// nothing to an account, so such a one is left out of it.
    pub fn of(event: &Event) -> Result<Self, IdentifierError> {
        let Understood { kind, flag } = Understood::of(event);
        let status = status_on_success(event).map(|status| cut_word(status.as_str(), MAX_WORD_BYTES));
        let account = event.account_identifier().map(str::to_owned);
        let mut fields = Self { kind, flag, account, status_on_success: status };
        let kept = fields.account.as_deref().map_or(Ok(()), check_length).and_then(|()| check_names(fields.names()));
        match kept {
            Ok(()) => {}
            Err(_) if event.is_ping() => fields.account = None,
            Err(error) => return Err(error),
        }
        Ok(fields)
    }

    fn names(&self) -> [Option<&str>; 4] {
        [
            Some(self.kind.as_str()),
            self.flag.as_ref().map(Flag::as_str),
            self.account.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
        ]
    }
}

/// Whether these texts take no more room in a record than is kept for them.
pub(super) fn check_names<'a>(names: impl IntoIterator<Item = Option<&'a str>>) -> Result<(), IdentifierError> {
    let bytes = names.into_iter().flatten().map(json_length).sum();
    if bytes > MAX_NAMES_BYTES { Err(IdentifierError::TooLong(bytes)) } else { Ok(()) }
}
