//! fetched → handled: the vendor's product logic, with its time and its panics bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tracing::Instrument;

use super::StageError;
use super::fetch::Read;
use super::handler_threads::{HandlerThreads, NotBegun};
use crate::clock::Clock;
use crate::event::{AccountStatus, EventRecord};
use crate::handler::{Context, Handler, HandlerError, Verdict};

/// How long a run that was stopped may take to end: what waits for something ends at once.
const GRACE: Duration = Duration::from_secs(1);

/// The runs of the vendor's handler: one at a time for an event, each on a thread of its own.
pub(super) struct HandlerRuns {
    handler: Arc<dyn Handler>,
    clock: Arc<dyn Clock>,
    /// How long one may take.
    limit: Duration,
    threads: HandlerThreads,
}

impl HandlerRuns {
    /// Runs of `handler`, so many at once, each of which may take so long.
    pub(super) fn new(
        handler: Arc<dyn Handler>,
        clock: Arc<dyn Clock>,
        limit: Duration,
        at_once: usize,
    ) -> io::Result<Self> {
        let threads = HandlerThreads::for_runs(at_once, handler.may_block())?;
        Ok(Self { handler, clock, limit, threads })
    }

    /// Runs the handler on an event that is not a ping; `status` is that of the account a status event asks about.
    ///
    /// A run that takes too long is stopped. One that cannot be stopped, since it blocks its thread, is remembered until it
    /// ends, and the event is not run again before that. Dropping the future stops the run.
    pub(super) async fn run(
        &self,
        record: &EventRecord,
        read: Read,
        status: Option<AccountStatus>,
    ) -> Result<Verdict, StageError> {
        let handler = Arc::clone(&self.handler);
        let (event, span) = (record.id, tracing::Span::current());
        let account = record.account.clone().map(|account| (record.integration.clone(), account));
        let context = Context::of(record, &read.event, read.body.bytes, status);
        let work = async move { handler.run(&context, &read.event).await };
        let mut run = self.threads.begin(event, account, work.instrument(span)).map_err(|reason| match reason {
            NotBegun::RunBefore => StageError::transient(
                "the handler is not run, because a run before, of this event or of its account, has not ended: it took too \
                 long, was stopped, and does not react, so it blocks its thread",
            ),
            NotBegun::TooManyOverran(overran) => StageError::transient(format!(
                "the handler is not run, because {overran} runs that took too long have not ended: they block their threads"
            )),
            NotBegun::Stopping => StageError::transient("the handler is not run, because the process ends"),
        })?;
        tokio::select! {
            biased;
            ended = &mut run.ended => return self.outcome(ended),
            () = self.clock.sleep(self.limit) => run.stop(),
        }
        let limit = humantime::format_duration(self.limit);
        tokio::select! {
            biased;
            // One that ended just now has its outcome, which counts: it need not be run again.
            ended = &mut run.ended => self.outcome(ended),
            () = self.clock.sleep(GRACE) => {
                tracing::warn!("a run of the handler took too long and cannot be stopped, because it blocks its thread");
                Err(StageError::transient(format!(
                    "the handler did not finish within {limit}, and cannot be stopped, because it blocks its thread"
                )))
            }
        }
    }

    fn outcome(&self, ended: Result<Option<Result<Verdict, HandlerError>>, JoinError>) -> Result<Verdict, StageError> {
        match ended {
            Ok(Some(Err(error))) if error.is_transient() => Err(StageError::transient_after(
                format!("the handler asks to be run again: {error}"),
                error.retry_after(),
            )),
            Ok(Some(Err(error))) => Err(StageError::permanent(format!("the handler made no valid result: {error}"))),
            Ok(Some(Ok(verdict))) => Ok(verdict),
            Ok(None) => {
                let limit = humantime::format_duration(self.limit);
                Err(StageError::transient(format!("the handler did not finish within {limit}")))
            }
            Err(failure) => match failure.try_into_panic() {
                Ok(payload) => Err(StageError::transient(format!("the handler panicked: {}", words_of(payload)))),
                Err(_) => Err(StageError::transient("the handler was not run: there was no thread for it in time")),
            },
        }
    }
}

/// What a panic said.
fn words_of(payload: Box<dyn std::any::Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => {
            payload.downcast::<&str>().map_or_else(|_| "without words".to_owned(), |text| (*text).to_owned())
        }
    }
}
