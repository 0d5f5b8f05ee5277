//! fetched → handled: the vendor's product logic, with its time and its panics bounded.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use super::StageError;
use super::fetch::Read;
use crate::event::{AccountStatus, EventRecord};
use crate::handler::{Dispatched, EventHandler, dispatch};

/// Runs the handler on an event that is not a ping; `status` is that of the account
/// a status event asks about.
pub(super) async fn handle(
    handler: Arc<dyn EventHandler>,
    (record, read, status): (EventRecord, Read, Option<AccountStatus>),
    limit: Duration,
) -> Result<Dispatched, StageError> {
    let span = tracing::Span::current();
    // A task of its own, so that a panic ends the run and not the worker.
    let run = tokio::spawn(
        async move { dispatch(handler.as_ref(), &record, read.event, read.body.bytes, status).await }.instrument(span),
    );
    let abort = run.abort_handle();
    match tokio::time::timeout(limit, run).await {
        Ok(Ok(Ok(dispatched))) => Ok(dispatched),
        Ok(Ok(Err(error))) if error.may_pass() => {
            Err(StageError::transient(format!("the handler asks to be run again: {error}")))
        }
        Ok(Ok(Err(error))) => Err(StageError::permanent(format!("the handler made no valid result: {error}"))),
        Ok(Err(panic)) => Err(StageError::transient(format!("the handler panicked: {}", message_of(panic)))),
        Err(_) => {
            abort.abort();
            Err(StageError::transient(format!("the handler did not finish within {} s", limit.as_secs_f32())))
        }
    }
}

fn message_of(failure: tokio::task::JoinError) -> String {
    let Ok(payload) = failure.try_into_panic() else { return "it was stopped".to_owned() };
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => {
            payload.downcast::<&str>().map_or_else(|_| "without words".to_owned(), |text| (*text).to_owned())
        }
    }
}
