//! Records as bytes.
//!
//! A version byte, then JSON: readable in a hex dump on a bad day, and open to new fields. A file for every
//! version ever written lies in `tests/golden/` and must stay readable for ever.

use super::StoreError;
use crate::event::{EventRecord, MAX_RECORD_BYTES};

/// Version written now: `EventRecord` as JSON. Version 1 was the same without a timeline; version 2 counted failures where
/// attempts are counted now, and had no limit to its length.
const VERSION: u8 = 3;
/// The oldest version that is read.
const OLDEST: u8 = 1;

/// A record as it is stored.
///
/// # Errors
/// If it is longer than a record may be, which its own bounds rule out: what is longer could be lost by sled.
pub(super) fn encode(record: &EventRecord) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(512);
    bytes.push(VERSION);
    serde_json::to_writer(&mut bytes, record).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    if bytes.len() > MAX_RECORD_BYTES { Err(StoreError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The record that was stored as `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<EventRecord, StoreError> {
    match bytes.split_first() {
        Some((version @ OLDEST..=VERSION, json)) => serde_json::from_slice(json)
            .map(|record: EventRecord| record.upgraded(*version))
            .map_err(|error| StoreError::Unreadable(error.to_string())),
        Some((version, _)) => Err(StoreError::Unreadable(format!(
            "it has format version {version}, and this doorbell reads up to {VERSION}; run the newer doorbell that wrote it"
        ))),
        None => Err(StoreError::Unreadable("it is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{
        AccountStatus, BaseUrl, Change, ErrorCode, EventResult, EventType, EventUrl, ExtractedFields, Failure, Flag,
        Notification, State, Timeline,
    };

    /// What the golden files of this version hold.
    fn golden_records(version: u8) -> Vec<(&'static str, EventRecord)> {
        let base = BaseUrl::parse("https://market.example").expect("a base URL");
        let url =
            EventUrl::parse("https://market.example/api/integration/v1/events/7f59", [&base]).expect("an event URL");
        let notification =
            Notification::new("default".into(), url, Some(EventType::SubscriptionOrder), "lang=en".into());
        let at = Timestamp::from_millis;
        let received = EventRecord::new(&notification, at(1_700_000_000_000));
        let fields = ExtractedFields {
            kind: EventType::Other("SUBSCRIPTION_MOVED".into()),
            flag: Some(Flag::Development),
            account: Some("acct-1".into()),
            status_on_success: Some(AccountStatus::Suspended),
        };
        let mut retried = received.clone();
        let failure = Failure {
            reason: "answered 503".into(),
            took: Duration::from_millis(70),
            cause: (version >= 3).then(|| "unknown".to_owned()),
            understood: None,
        };
        let retry = Change::Retry { wait: Duration::from_secs(3), failure, unreadable: None };
        let charset = (version >= 3).then(|| "iso-8859-1".to_owned());
        retried.apply(Change::Fetched(fields, charset), at(1_700_000_001_000)).expect("legal");
        retried.apply(retry, at(1_700_000_002_000)).expect("legal");
        let mut done = retried.clone();
        let mut result = EventResult::failure(ErrorCode::AccountNotFound, "no such account");
        result.account_identifier = Some("acct-1".into());
        result.user_identifier = Some("user-1".into());
        done.apply(Change::Handled(result), at(1_700_000_003_000)).expect("legal");
        done.apply(Change::Done(Some("settled before".into())), at(1_700_000_004_000)).expect("legal");
        vec![("received", received), ("retried", retried), ("done", done)]
    }

    #[test]
    fn every_version_ever_written_is_still_read() {
        for version in OLDEST..=VERSION {
            for (name, mut record) in golden_records(version) {
                if version == 1 {
                    record.timeline = Timeline::default();
                    record.status_on_success = None;
                }
                let path = format!("{}/tests/golden/record-v{version}-{name}", env!("CARGO_MANIFEST_DIR"));
                let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                assert_eq!(decode(&stored).expect("readable"), record, "version {version}, {name}");
            }
        }
    }

    #[test]
    fn what_is_written_now_is_the_newest_golden_file() {
        for (name, record) in golden_records(VERSION) {
            let path = format!("{}/tests/golden/record-v{VERSION}-{name}", env!("CARGO_MANIFEST_DIR"));
            let stored = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let written = String::from_utf8(encode(&record).expect("encodes")).expect("text");
            assert_eq!(written, stored, "the stored format changed: raise VERSION and keep the old reader");
        }
    }

    /// A record of format 2 with these fields changed.
    fn former(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let (_, record) = golden_records(2).pop().expect("one");
        let mut json = serde_json::to_value(record).expect("serializes");
        change(&mut json);
        [&[2], json.to_string().as_bytes()].concat()
    }

    #[test]
    fn a_record_that_an_earlier_version_wrote_too_long_is_read_and_written_within_the_bounds() {
        let long = || "\u{1}\"L".repeat(5000);
        for state in ["received", "fetched", "handled", "done", "dead", "deferred"] {
            for field in ["type", "flag", "account", "statusOnSuccess", "parameters", "lastError"] {
                let record = decode(&former(|json| {
                    json["state"] = state.into();
                    json[field] = long().into();
                }));
                assert!(encode(&record.expect("readable")).is_ok(), "{state} {field}");
            }
            for field in ["accountIdentifier", "userIdentifier", "errorCode", "message"] {
                let record = decode(&former(|json| {
                    json["state"] = state.into();
                    json["result"][field] = long().into();
                }));
                let record = record.expect("readable");
                assert!(encode(&record).is_ok(), "{state} {field}");
                // A result that cannot be told as it was is not told at all.
                let is_told = record.state == State::Handled && record.result.is_some();
                assert!(!is_told || field == "errorCode" || field == "message", "{state} {field}");
            }
        }
        let accounts = [long(), format!("{}x", long())].map(|account| {
            let record = decode(&former(|json| json["account"] = account.into()));
            record.expect("readable").account.expect("an account")
        });
        assert_ne!(accounts[0], accounts[1], "two accounts stay two");
    }

    #[test]
    fn what_died_in_an_earlier_version_of_something_that_may_have_passed_may_recover() {
        for (error, kind, recovers) in [
            ("given up after 1day: the marketplace answered 503", Some("SUBSCRIPTION_ORDER"), true),
            ("the marketplace has no such event: it answered 404", None, true),
            ("the handler made no valid result", Some("SUBSCRIPTION_ORDER"), false),
        ] {
            let record = decode(&former(|json| {
                json["state"] = "dead".into();
                json["lastError"] = error.into();
                json["type"] = kind.into();
            }));
            assert_eq!(record.expect("readable").may_recover, recovers, "{error}");
        }
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_with_the_remedy() {
        let error = decode(&[VERSION + 1, b'{', b'}']).expect_err("unreadable");
        assert!(error.to_string().contains("run the newer doorbell"), "{error}");
    }
}
