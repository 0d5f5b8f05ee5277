//! received → fetched: the event's body, as the marketplace gives it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{Ending, StageError};
use crate::event::{Body, Event, EventUrl, charset_of};
use crate::marketplace::{Fetched, MarketplaceClient};

/// How long a marketplace says that there is no such event before it is believed: an ingress that is without a backend
/// for a moment says so too.
const MISSING_FOR: Duration = Duration::from_mins(1);
/// How long the same unreadable bytes come before nothing else is expected.
const UNREADABLE_FOR: Duration = Duration::from_secs(10);
/// The same of a page for people, as a proxy shows it for the time of a deployment.
const PAGE_FOR: Duration = Duration::from_mins(1);

/// A body as received, and what was understood of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) body: Body,
    pub(super) event: Event,
}

/// Reads the event from its marketplace.
pub(super) async fn fetch(marketplace: &MarketplaceClient, url: &EventUrl) -> Result<Read, StageError> {
    let fetched = marketplace.fetch(url).await.map_err(|error| {
        let (reason, retry_after) = (format!("the event could not be read: {error}"), error.retry_after());
        let is_too_large = error.is_too_large();
        // An answer that is packed wrongly, or too large, is a body that nobody can read like any other.
        match error.into_received() {
            // Whatever stands in it, so that a page that differs each time is believed as well.
            Some(bytes) if is_too_large => {
                let cause = "unreadable: too large".to_owned();
                unreadable_by(reason, cause, Body { bytes, charset: None }, UNREADABLE_FOR)
            }
            Some(bytes) => unreadable(reason, Body { bytes, charset: None }, UNREADABLE_FOR),
            None => StageError::transient_after(reason, retry_after),
        }
    })?;
    match fetched {
        Fetched::Body { bytes, content_type } => {
            let patience = if is_page(&bytes, content_type.as_deref()) { PAGE_FOR } else { UNREADABLE_FOR };
            let body = Body { bytes, charset: content_type.as_deref().and_then(charset_of) };
            understand_within(body, patience)
        }
        Fetched::Empty(status) => {
            let reason = format!("the event could not be read: the marketplace answered {status} without a body");
            Err(unreadable(reason, Body { bytes: Vec::new(), charset: None }, UNREADABLE_FOR))
        }
        Fetched::Missing(status) => Err(StageError::until_it_lasts(
            format!("the marketplace has no such event: it answered {status}"),
            "missing".to_owned(),
            MISSING_FOR,
            Ending::Dead,
        )),
    }
}

/// What a body says. One that says nothing may be a proxy's error page, so it is read again, unless it stays the same.
pub(super) fn understand(body: Body) -> Result<Read, StageError> {
    understand_within(body, UNREADABLE_FOR)
}

fn understand_within(body: Body, patience: Duration) -> Result<Read, StageError> {
    match Event::read(&body.bytes, body.charset.as_deref()) {
        Ok(event) => Ok(Read { body, event }),
        Err(error) => Err(unreadable(error.to_string(), body, patience)),
    }
}

/// Whether this is a page for people: by what it is said to be, or by how it begins.
fn is_page(bytes: &[u8], content_type: Option<&str>) -> bool {
    let says = content_type.and_then(|content_type| content_type.split(';').next()).unwrap_or_default().trim();
    let start = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes).trim_ascii_start();
    let begins_with =
        |tag: &str| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    ["text/html", "application/xhtml+xml"].iter().any(|page| says.eq_ignore_ascii_case(page))
        || begins_with("<!doctype html")
        || begins_with("<html")
}

/// The failure to read a body, which is believed when the same bytes come again and again.
fn unreadable(reason: String, body: Body, patience: Duration) -> StageError {
    let mut hasher = DefaultHasher::new();
    body.bytes.hash(&mut hasher);
    unreadable_by(reason, format!("unreadable {:016x}", hasher.finish()), body, patience)
}

fn unreadable_by(reason: String, cause: String, body: Body, patience: Duration) -> StageError {
    StageError::until_it_lasts(reason, cause, patience, Ending::Dead).with_body(body)
}
