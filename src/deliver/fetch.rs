//! received → fetched: the event's body, as the marketplace gives it.

use super::StageError;
use crate::event::{Event, EventUrl};
use crate::marketplace::{Fetched, MarketplaceClient};

/// A body as received, and what was understood of it.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) event: Event,
}

/// Reads the event from its marketplace.
pub(super) async fn fetch(marketplace: &MarketplaceClient, url: &EventUrl) -> Result<Body, StageError> {
    let fetched = marketplace.fetch(url).await.map_err(|error| {
        StageError::passing_after(format!("the event could not be read: {error}"), error.retry_after())
    })?;
    match fetched {
        Fetched::Body { bytes, content_type: _ } => understand(bytes),
        Fetched::Missing(status) => {
            Err(StageError::for_good(format!("the marketplace has no such event: it answered {status}")))
        }
    }
}

/// What a body says. One that says nothing may be a proxy's error page, so it is read again.
pub(super) fn understand(bytes: Vec<u8>) -> Result<Body, StageError> {
    match Event::read(&bytes, None) {
        Ok(event) => Ok(Body { bytes, event }),
        Err(error) => Err(StageError::passing(error.to_string())),
    }
}
