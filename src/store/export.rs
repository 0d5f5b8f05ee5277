//! A copy of a store as text: one JSON object a line, first what it is, then the events, last how many there were.
//!
//! ```text
//! {"format":"doorbell-export","version":1}
//! {"event":{"id":"…","state":"done",…},"body":"{\"type\":…}"}
//! {"end":true,"events":1}
//! ```
//!
//! The last line tells a whole copy from one that was cut off. A body that is no UTF-8 is `{"base64":"…"}`. Signing
//! keys are not in it: marketplaces get new tokens by themselves.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::stored_event::StoredEvent;

/// What the first line says.
const FORMAT: &str = "doorbell-export";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A line of an export.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// What it is.
    Head,
    /// An event.
    Event(Box<StoredEvent>),
    /// How many events there were.
    End(u64),
}

/// Why a line of an export cannot be read.
#[derive(Debug, Error)]
pub enum LineError {
    /// It is of no kind there is.
    #[error("it is no line of a doorbell export: {0}")]
    NotALine(serde_json::Error),
    /// It is the head of something else.
    #[error("it is a {format:?} of version {version}; this doorbell reads {FORMAT:?} of version {VERSION}")]
    Version {
        /// What it calls itself.
        format: String,
        /// Its version.
        version: u32,
    },
    /// The event's id is not that of its integration and URL, so it was changed or damaged.
    #[error("the id of this event is not that of its integration and event URL")]
    OtherId,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Head { format: String, version: u32 },
    End { end: bool, events: u64 },
    Event(Box<StoredEvent>),
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn parse(text: &[u8]) -> Result<Self, LineError> {
        match serde_json::from_slice(text).map_err(LineError::NotALine)? {
            Written::Head { format, version } if format == FORMAT && version == VERSION => Ok(Self::Head),
            Written::Head { format, version } => Err(LineError::Version { format, version }),
            Written::End { events, .. } => Ok(Self::End(events)),
            Written::Event(event) if event.record.has_own_id() => {
                let StoredEvent { record, body } = *event;
                let record = record.imported(body.is_some());
                Ok(Self::Event(Box::new(StoredEvent { record, body })))
            }
            Written::Event(_) => Err(LineError::OtherId),
        }
    }

    /// The line as it is written, without its end.
    ///
    /// # Errors
    /// If the event cannot be written as JSON, which does not happen.
    pub fn into_text(self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&match self {
            Self::Head => Written::Head { format: FORMAT.to_owned(), version: VERSION },
            Self::Event(event) => Written::Event(event),
            Self::End(events) => Written::End { end: true, events },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventRecord;
    use crate::store::conformance::notification;

    #[test]
    fn what_is_written_is_read_again_whatever_the_body_is() {
        let record = EventRecord::new(&notification("1"), Timestamp::from_millis(1));
        let bodies = [None, Some(vec![]), Some(b"{\"type\":\"X\"}\n".to_vec()), Some(vec![0xff, 0, b'\n'])];
        let events = bodies.map(|body| {
            let record = record.clone().imported(body.is_some());
            Line::Event(Box::new(StoredEvent { record, body }))
        });
        for line in events.into_iter().chain([Line::Head, Line::End(7)]) {
            let shown = format!("{line:?}");
            let text = line.into_text().expect("JSON");
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(format!("{:?}", Line::parse(text.as_bytes()).expect("a line")), shown);
        }
    }

    #[test]
    fn what_is_no_line_of_an_export_is_refused_by_name() {
        let record = EventRecord::new(&notification("1"), Timestamp::from_millis(1));
        let text = Line::Event(Box::new(StoredEvent { record, body: None })).into_text().expect("JSON");
        for (line, reason) in [
            (String::new(), "no line of a doorbell export"),
            ("{}".to_owned(), "no line of a doorbell export"),
            (text[..text.len() - 1].to_owned(), "no line of a doorbell export"),
            (r#"{"format":"doorbell-export","version":2}"#.to_owned(), "of version 2; this doorbell reads"),
            (r#"{"format":"other","version":1}"#.to_owned(), "it is a \"other\""),
            (text.replace("\"integration\":\"default\"", "\"integration\":\"other\""), "the id of this event is not"),
        ] {
            let error = Line::parse(line.as_bytes()).expect_err("no line").to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
