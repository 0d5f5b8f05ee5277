//! handled → done: the marketplace learns what its event came to.

use super::StageError;
use crate::event::{EventResult, EventUrl};
use crate::marketplace::{MarketplaceClient, Reported};

/// Reports a stored result. Returns a note if the marketplace had settled the event already.
pub(super) async fn report(
    marketplace: &MarketplaceClient,
    url: &EventUrl,
    result: &EventResult,
) -> Result<Option<String>, StageError> {
    match marketplace.report(url, result).await {
        Ok(Reported::Taken) => Ok(None),
        Ok(Reported::SettledBefore(status) | Reported::Unknown(status)) => {
            Ok(Some(format!("the marketplace had settled the event already: it answered {status}")))
        }
        Err(error) => {
            Err(StageError::passing_after(format!("the result could not be reported: {error}"), error.retry_after()))
        }
    }
}
