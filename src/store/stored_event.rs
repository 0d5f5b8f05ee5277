//! An event with all that is kept of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::{Body, EventRecord};

/// Place of an event in the order of receipt.
pub type Sequence = u64;

/// An event with all that is kept of it. As JSON it is a line of an export (see [`export`](super::export)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Its record.
    #[serde(rename = "event")]
    pub record: EventRecord,
    /// Its body as received, once one came: the one that was understood, or the last that was not.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_body",
        deserialize_with = "read_body"
    )]
    pub body: Option<Vec<u8>>,
}

impl StoredEvent {
    /// The body with the character set that its answer named.
    #[must_use]
    pub fn into_body(self) -> Option<Body> {
        let charset = self.record.charset;
        self.body.map(|bytes| Body { bytes, charset })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BodyText {
    Text(String),
    Bytes { base64: String },
}

#[expect(clippy::ref_option, reason = "what serde calls")]
fn write_body<S: Serializer>(body: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    body.as_ref()
        .map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => BodyText::Text(text.to_owned()),
            Err(_) => BodyText::Bytes { base64: STANDARD.encode(bytes) },
        })
        .serialize(serializer)
}

fn read_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    Option::<BodyText>::deserialize(deserializer)?
        .map(|body| match body {
            BodyText::Text(text) => Ok(text.into_bytes()),
            BodyText::Bytes { base64 } => STANDARD.decode(base64).map_err(serde::de::Error::custom),
        })
        .transpose()
}
