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
        // An answer that is packed wrongly, or too large, is a body that nobody can read like any other.
        match error.into_received() {
            Some(bytes) => unreadable(reason, Body { bytes, charset: None }),
            None => StageError::transient_after(reason, retry_after),
        }
    })?;
    match fetched {
        Fetched::Body { bytes, content_type } => {
            understand(Body { bytes, charset: content_type.as_deref().and_then(charset_of) })
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
    match Event::read(&body.bytes, body.charset.as_deref()) {
        Ok(event) => Ok(Read { body, event }),
        Err(error) => Err(unreadable(error.to_string(), body)),
    }
}

/// The failure to read a body, which is believed when the same bytes come again and again.
fn unreadable(reason: String, body: Body) -> StageError {
    let mut hasher = DefaultHasher::new();
    body.bytes.hash(&mut hasher);
    let cause = format!("unreadable {:016x}", hasher.finish());
    StageError::until_it_lasts(reason, cause, UNREADABLE_FOR, Ending::Dead).with_body(body)
}
