//! The documents of the admin API: what its routes take and answer, for the handlers that write them and the command
//! line that reads them.
//!
//! A type here says what the wire has, name for name. It knows nothing of HTTP.

mod events;
mod export;
mod keys;
mod problem;

use std::fmt::Display;

use serde::Serialize;

pub(crate) use events::{
    BodyEncoding, EventDetail, EventPage, EventQuery, EventSummary, ResolveRequest, TimelineEntry, UnreadableEvent,
};
pub(crate) use export::ExportPage;
pub(crate) use keys::{Key, KeyList};
pub(crate) use problem::Problem;

/// A document as JSON with the fields of each object in alphabetical order, indented if it is formatted with `{:#}`.
///
/// So the text of an answer does not change when a type is declared in another order.
pub(crate) fn sorted(document: &impl Serialize) -> serde_json::Result<impl Display> {
    serde_json::to_value(document)
}
