//! The documents of the event routes.

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::event::{
    ErrorCode, EventId, EventRecord, EventResult, EventType, Flag, State, boolean_or_its_text, shown_event_url,
};
use crate::store::Sequence;

/// `GET /api/v1/events?…`: which events are listed.
#[derive(Debug, Default)]
pub(crate) struct EventQuery {
    pub(crate) state: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) integration: Option<String>,
    /// Received at this moment (RFC 3339) or later.
    pub(crate) from: Option<String>,
    /// Received before this moment.
    pub(crate) to: Option<String>,
    pub(crate) limit: Option<usize>,
    /// The [`EventPage::next`] of the page before.
    pub(crate) cursor: Option<String>,
}

impl EventQuery {
    /// The names of its parameters.
    pub(crate) const NAMES: &[&str] = &["state", "type", "account", "integration", "from", "to", "limit", "cursor"];

    /// The query of a URL, without its `?`.
    pub(crate) fn encoded(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let values =
            [&self.state, &self.kind, &self.account, &self.integration, &self.from, &self.to, &limit, &self.cursor];
        let given = Self::NAMES.iter().zip(values).filter_map(|(name, value)| Some((name, value.as_ref()?)));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
    }
}

/// A page of a list, newest event first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EventPage {
    pub(crate) events: Vec<EventSummary>,
    /// The `cursor` of the page after this one, if there are more.
    pub(crate) next: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<UnreadableEvent>,
}

/// An event that is damaged in the store, and is shown as such rather than left out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnreadableEvent {
    pub(crate) number: Sequence,
    pub(crate) reason: String,
}

/// An event in a list, and the answer to whatever changes one. Moments are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventSummary {
    pub(crate) id: EventId,
    /// The last segment of the event URL's path, by which marketplaces name an event.
    pub(crate) token: String,
    pub(crate) event_url: String,
    pub(crate) integration: String,
    pub(crate) marketplace: String,
    /// What the body says, or the notification's route as long as the body is not read.
    #[serde(rename = "type")]
    pub(crate) kind: Option<EventType>,
    pub(crate) flag: Option<Flag>,
    pub(crate) account: Option<String>,
    pub(crate) state: State,
    pub(crate) received_at: String,
    pub(crate) updated_at: String,
    pub(crate) attempts: u32,
    pub(crate) result: Option<EventResult>,
    pub(crate) last_error: Option<String>,
}

impl From<EventRecord> for EventSummary {
    fn from(event: EventRecord) -> Self {
        let event_url = shown_event_url(&event.event_url).into_owned();
        let path = event_url.split('?').next().unwrap_or_default();
        let (kind, flag) = (event.presumed_kind().cloned(), event.presumed_flag().cloned());
        let token = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        Self {
            id: event.id,
            token,
            event_url,
            integration: event.integration,
            marketplace: event.marketplace,
            kind,
            flag,
            account: event.account,
            state: event.state,
            received_at: event.received_at.to_string(),
            updated_at: event.updated_at.to_string(),
            attempts: event.attempts,
            result: event.result,
            last_error: event.last_error,
        }
    }
}

/// An event with its body as received and everything it went through.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventDetail {
    #[serde(flatten)]
    pub(crate) summary: EventSummary,
    pub(crate) timeline: Vec<TimelineEntry>,
    /// How many entries in the middle are not kept.
    pub(crate) timeline_forgotten: u32,
    /// The character set that the marketplace named for the body.
    pub(crate) charset: Option<String>,
    pub(crate) body: Option<String>,
    pub(crate) body_encoding: Option<BodyEncoding>,
}

/// How [`EventDetail::body`] is written: as it is where it is UTF-8, and otherwise in Base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BodyEncoding {
    Text,
    Base64,
}

impl BodyEncoding {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Base64 => "base64",
        }
    }
}

/// One step of an event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TimelineEntry {
    pub(crate) at: String,
    pub(crate) step: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// `POST /api/v1/events/{id}/result`: the result of a deferred or dead event.
///
/// Unknown fields are refused: one that is misspelt would be lost on the way to the marketplace.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ResolveRequest {
    #[serde(deserialize_with = "boolean_or_its_text")]
    pub(crate) success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account_identifier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_identifier: Option<String>,
}

impl From<ResolveRequest> for EventResult {
    fn from(request: ResolveRequest) -> Self {
        let ResolveRequest { success, error_code, message, account_identifier, user_identifier } = request;
        // A failure without a code is one that the marketplace has a code for.
        let error_code = error_code.or_else(|| (!success).then_some(ErrorCode::UnknownError));
        Self { success, error_code, message, account_identifier, user_identifier }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sorted;
    use super::*;

    const SUMMARY: &str = r#"{"id":"6f0d81e4-52a9-5c0b-9c35-0f6b7a1ed00b","token":"1","eventUrl":"https://m.example/1","integration":"default","marketplace":"https://m.example","type":"NEW_TYPE","flag":null,"account":null,"state":"dead","receivedAt":"2026-01-31T08:00:00.000Z","updatedAt":"2026-01-31T08:00:01.000Z","attempts":3,"result":{"success":false,"errorCode":"UNKNOWN_ERROR"},"lastError":"why"}"#;

    #[test]
    fn a_document_is_read_back_and_written_as_it_was() {
        let summary: EventSummary = serde_json::from_str(SUMMARY).expect("a summary");
        assert_eq!(serde_json::to_string(&summary).expect("JSON"), SUMMARY);

        let detail = format!(
            r#"{},"timeline":[{{"at":"2026-01-31T08:00:00.000Z","step":"received"}}],"timelineForgotten":2,"charset":null,"body":"/w==","bodyEncoding":"base64"}}"#,
            &SUMMARY[..SUMMARY.len() - 1]
        );
        let read: EventDetail = serde_json::from_str(&detail).expect("a detail");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), detail);

        let page = format!(r#"{{"events":[{SUMMARY}],"next":"7","unreadable":[{{"number":5,"reason":"torn"}}]}}"#);
        let read: EventPage = serde_json::from_str(&page).expect("a page");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), page);
    }

    #[test]
    fn a_sorted_document_has_its_fields_in_alphabetical_order() {
        let entry = TimelineEntry { at: "a".into(), step: "s".into(), note: Some("n".into()) };
        assert_eq!(sorted(&entry).expect("JSON").to_string(), r#"{"at":"a","note":"n","step":"s"}"#);
    }

    #[test]
    fn a_query_has_the_parameters_that_are_given() {
        let query = EventQuery { kind: Some("A&B".into()), limit: Some(20), ..EventQuery::default() };
        assert_eq!(query.encoded(), "type=A%26B&limit=20");
        let given = |text: &str| Some(text.to_owned());
        let query = EventQuery {
            state: given("s"),
            kind: given("k"),
            account: given("a"),
            integration: given("i"),
            from: given("f"),
            to: given("t"),
            limit: Some(1),
            cursor: given("c"),
        };
        assert_eq!(query.encoded(), "state=s&type=k&account=a&integration=i&from=f&to=t&limit=1&cursor=c");
    }

    #[test]
    fn a_failure_without_a_code_has_the_one_for_all_else() {
        for (request, code) in [
            (r#"{"success":"false"}"#, Some(ErrorCode::UnknownError)),
            (r#"{"success":false,"errorCode":"USER_NOT_FOUND"}"#, Some(ErrorCode::UserNotFound)),
            (r#"{"success":true,"errorCode":null}"#, None),
        ] {
            let request: ResolveRequest = serde_json::from_str(request).expect("a request");
            assert_eq!(EventResult::from(request).error_code, code);
        }
    }
}
