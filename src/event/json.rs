//! JSON bodies as a tree.

use json_event_parser::{JsonEvent, SliceJsonParser};

use super::node::{Builder, Node};
use super::read::BodyError;

/// Reads one JSON document.
///
/// An event parser rather than serde's `Value`, because numbers must keep every digit they came with: a
/// quantity of `1.10` is not `1.1`, and `18446744073709551616` is not a float.
pub(super) fn read(text: &str) -> Result<Node, BodyError> {
    let mut parser = SliceJsonParser::new(text.as_bytes());
    let mut tree = Builder::default();
    loop {
        match parser.parse_next().map_err(|error| BodyError::Malformed(error.to_string()))? {
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
