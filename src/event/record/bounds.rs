//! How long a record may be, and what of it gives way.

use super::EventRecord;
use super::change::check_identifiers;
use crate::event::extracted::{MAX_KIND_BYTES, MAX_WORD_BYTES, check_names};
use crate::event::outcome::{check_length, cut_word, json_length, without_controls};
use crate::event::{AccountStatus, ErrorCode, EventId, EventType, Flag, MAX_IDENTIFIER_BYTES, State, Understood};

/// The longest record, in bytes as JSON.
///
/// sled writes a page of up to twenty records at once, and puts a page of more than 128 KiB into a file of its own, which it
/// never syncs: an acknowledged event could be lost by it.
pub(crate) const MAX_RECORD_BYTES: usize = 6400;
/// What a record takes without its texts, at most.
const FRAME_BYTES: usize = 1000;
/// Bytes that a text for people keeps where a record is too long otherwise.
const MAX_SHORT_TEXT_BYTES: usize = 200;

impl EventRecord {
    /// Keeps the record within [`MAX_RECORD_BYTES`]: the timeline gives way first, then words.
    pub(super) fn shorten(&mut self) {
        let rest = FRAME_BYTES + self.texts().into_iter().flatten().map(json_length).sum::<usize>();
        if rest + self.timeline.bytes(json_length) <= MAX_RECORD_BYTES {
            return;
        }
        self.timeline.shrink_to(MAX_RECORD_BYTES.saturating_sub(rest), json_length);
        if rest > MAX_RECORD_BYTES {
            let short = |text: &mut String| text.truncate(text.floor_char_boundary(MAX_SHORT_TEXT_BYTES));
            short(&mut self.parameters);
            self.last_error.as_mut().map(short);
            self.result.as_mut().and_then(|result| result.message.as_mut()).map(short);
        }
    }

    /// The texts whose length is not known beforehand.
    pub(super) fn texts(&self) -> [Option<&str>; 18] {
        let (result, understood) = (self.result.as_ref(), self.understood.as_ref());
        [
            Some(&self.integration),
            Some(&self.marketplace),
            Some(&self.event_url),
            Some(&self.parameters),
            self.route_type.as_ref().map(EventType::as_str),
            self.kind.as_ref().map(EventType::as_str),
            self.flag.as_ref().map(Flag::as_str),
            understood.map(|body| body.kind.as_str()),
            understood.and_then(|body| body.flag.as_ref()).map(Flag::as_str),
            self.account.as_deref(),
            self.charset.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
            self.last_error.as_deref(),
            self.repeated.as_ref().map(|repeated| repeated.cause.as_str()),
            result.and_then(|result| result.error_code.as_ref()).map(ErrorCode::as_str),
            result.and_then(|result| result.message.as_deref()),
            result.and_then(|result| result.account_identifier.as_deref()),
            result.and_then(|result| result.user_identifier.as_deref()),
        ]
    }

    /// The record as it was stored in this version of the format, with what that says by other fields.
    #[must_use]
    pub(crate) fn upgraded(mut self, version: u8) -> Self {
        if version < 3 {
            // Those formats counted failures only, kept no body that was not understood, and had no limit.
            let succeeded = self.consecutive_failures == 0 && !matches!(self.state, State::Received | State::Dead);
            self.attempts = self.attempts.saturating_add(u32::from(succeeded));
            self.has_body = self.kind.is_some();
            self.bound_names();
        }
        self
    }

    /// Has a record that an earlier version wrote keep within the bounds that there are since.
    ///
    /// What it is called by is cut or stood in for where it is too long. A result that cannot be kept whole is none: the event
    /// is dead by name then, unless it is over.
    pub(super) fn bound_names(&mut self) {
        self.kind = self.kind.take().map(|kind| cut_word(kind.as_str(), MAX_KIND_BYTES));
        self.flag = self.flag.take().map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES));
        let status = self.status_on_success.take();
        self.status_on_success = status.map(|status| cut_word(status.as_str(), MAX_WORD_BYTES));
        self.understood = self.understood.take().map(|Understood { kind, flag }| Understood {
            kind: cut_word(kind.as_str(), MAX_KIND_BYTES),
            flag: flag.map(|flag| cut_word(flag.as_str(), MAX_WORD_BYTES)),
        });
        // An account that new events may name keeps its name, or it would be two.
        let names = [
            self.kind.as_ref().map(EventType::as_str),
            self.flag.as_ref().map(Flag::as_str),
            self.account.as_deref(),
            self.status_on_success.as_ref().map(AccountStatus::as_str),
        ];
        if self.account.as_deref().is_some_and(|account| check_length(account).is_err()) || check_names(names).is_err()
        {
            self.account = self.account.take().map(stand_in);
        }
        self.parameters.truncate(self.parameters.floor_char_boundary(MAX_SHORT_TEXT_BYTES * 10));
        if let Some(result) = self.result.take() {
            let mut result = result.bounded();
            if check_identifiers(&result).is_ok() {
                self.result = Some(result);
            } else if matches!(self.state, State::Handled | State::Dead) {
                self.state = State::Dead;
                let reason =
                    "its result names an identifier that is longer than is kept; resolve it with a shorter one";
                self.last_error = Some(reason.to_owned());
            } else {
                let is_short = |identifier: &String| check_length(identifier).is_ok();
                result.account_identifier =
                    result.account_identifier.map(|it| if is_short(&it) { it } else { stand_in(it) });
                result.user_identifier = result.user_identifier.map(|it| if is_short(&it) { it } else { stand_in(it) });
                if check_identifiers(&result).is_err() {
                    result.user_identifier = result.user_identifier.map(stand_in);
                }
                if check_identifiers(&result).is_err() {
                    result.account_identifier = result.account_identifier.map(stand_in);
                }
                self.result = Some(result);
            }
        }
        // Whatever it died of before its handler ran, or for want of patience, may have passed.
        let gave_up = self.last_error.as_deref().is_some_and(|error| error.starts_with("given up after"));
        self.may_recover |= self.state == State::Dead && (self.kind.is_none() || gave_up);
        self.shorten();
    }

    /// The record as a copy of it has it, which may have been written by an earlier version, beside a body or none.
    #[must_use]
    pub(crate) fn imported(mut self, has_body: bool) -> Self {
        self.has_body = has_body;
        self.bound_names();
        self
    }
}

/// What stands in for an identifier that is too long: its beginning, and what tells it from others that begin so.
#[expect(clippy::needless_pass_by_value, reason = "the shape `map` wants")]
fn stand_in(identifier: String) -> String {
    let beginning =
        without_controls(&identifier[..identifier.floor_char_boundary(MAX_IDENTIFIER_BYTES / 4)]).into_owned();
    format!("{beginning}… {}", EventId::named("identifier", &identifier))
}
