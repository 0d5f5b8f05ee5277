//! handled → done: the marketplace learns what its event came to.

use std::time::Duration;

use super::{Ending, StageError};
use crate::event::{EventResult, EventUrl};
use crate::marketplace::{MarketplaceClient, Reported};

/// How long a marketplace says that it knows no such event before it is believed.
const UNKNOWN_FOR: Duration = Duration::from_mins(1);

/// Reports a stored result. Returns a note if the marketplace had settled the event already.
pub(super) async fn report(
    marketplace: &MarketplaceClient,
    url: &EventUrl,
    result: &EventResult,
) -> Result<Option<String>, StageError> {
    match marketplace.report(url, result).await {
        Ok(Reported::Taken) => Ok(None),
        Ok(Reported::SettledBefore(status)) => {
            Ok(Some(format!("the marketplace had settled the event already: it answered {status}")))
        }
        Ok(Reported::Unknown(status)) => Err(StageError::until_it_lasts(
            format!("the result could not be reported: the marketplace answered {status}"),
            "unknown".to_owned(),
            UNKNOWN_FOR,
            Ending::Unconfirmed,
        )),
        Err(error) => {
            Err(StageError::transient_after(format!("the result could not be reported: {error}"), error.retry_after()))
        }
    }
}
