//! The stages of an event: fetch, handle, report, and what follows when one of them fails.

use std::sync::Arc;
use std::time::Duration;

use super::fetch::{Read, fetch, understand};
use super::handle::HandlerRuns;
use super::report::report;
use super::{Ending, Lasting, Retry, RetrySchedule, StageError, random};
use crate::clock::{Clock, Moment, Now, Timestamp};
use crate::config::Answers;
use crate::event::{
    AccountStatus, Body, EventRecord, EventType, EventUrl, ExtractedFields, Failure, State, Understood,
};
use crate::handler::Verdict;
use crate::marketplace::MarketplaceClient;
use crate::store::{Accounts, Advanced, Claim, Completion, Progress, Queue, QueueError, StoreError};

/// How long a result is left to the answer of a notification, at most: no caller waits longer.
const AWAIT_RESPONSE: Duration = Duration::from_secs(5);
/// The pause before a write that failed transiently is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// How often that is done: for about as long as a full disk takes to be noticed and made room on. What a handler came to is
/// worth that much; without its outcome it would be run again.
const REPEATS: u32 = 300;

/// An integration as delivery sees it: whose events they are, and how its marketplaces are called.
#[derive(Debug)]
pub struct Integration {
    /// Its name, as records have it.
    pub name: String,
    /// Which types of event are answered with their result.
    pub answers: Answers,
    /// Its marketplaces.
    pub marketplaces: Vec<MarketplaceClient>,
}

/// What brings an event forward.
pub(super) struct Stages {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) accounts: Arc<dyn Accounts>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) runs: HandlerRuns,
    pub(super) integrations: Vec<Integration>,
    pub(super) schedule: RetrySchedule,
    pub(super) give_up_after: Duration,
}

/// How a stage ended.
enum Stage {
    /// The claim is settled, or has moved on to somebody else.
    Over,
    /// On with the next stage.
    Next(Claim, Option<Read>),
    /// It failed.
    Failed(Claim, StageError),
}

/// What follows from a failure.
enum AfterFailure {
    /// It is tried again after this long.
    Wait(Duration),
    /// Its event is done, with this note: nobody will ever confirm it.
    Unconfirmed(String),
    /// Its event is dead, for this reason, and may recover or not.
    Dead(String, bool),
}

impl Stages {
    /// Brings an event as far as it gets.
    ///
    /// # Errors
    /// If the store does not take what came of it. Nothing is lost then: the event is as the store last had it, and is
    /// claimed again.
    pub(super) async fn pass(&self, mut claim: Claim) -> Result<(), StoreError> {
        let started = self.clock.monotonic();
        if claim.was_lost() {
            let error = StageError::transient(
                "the last attempt ended without an outcome: it panicked, was stopped, or its outcome could not be stored",
            );
            return self.fail(claim, error, started).await;
        }
        let record = claim.event();
        let (marketplace, url) = match self.resolve_target(record) {
            Ok(target) => target,
            Err(error) => return self.fail(claim, error, started).await,
        };
        let mut read = None;
        loop {
            let stage = match claim.event().state {
                State::Received => self.fetch_stage(claim, marketplace, &url).await?,
                State::Fetched => self.handle_stage(claim, read.take()).await?,
                State::Handled => self.report_stage(claim, marketplace, &url).await?,
                State::Done | State::Deferred | State::Dead => {
                    return Err(StoreError::Unreadable(format!("a {} event was up for work", claim.event().state)));
                }
            };
            match stage {
                Stage::Over => return Ok(()),
                Stage::Next(next, body) => (claim, read) = (next, body),
                Stage::Failed(claim, error) => return self.fail(claim, error, started).await,
            }
        }
    }

    /// The marketplace an event lies in, if it still is a configured one.
    ///
    /// The URL was checked when it was recorded; it is checked again by what is configured now (G6).
    fn resolve_target(&self, record: &EventRecord) -> Result<(&MarketplaceClient, EventUrl), StageError> {
        let unknown = || {
            StageError::transient(format!(
                "marketplace {} of integration {} is not configured any more",
                record.marketplace, record.integration
            ))
        };
        let integration = self.integrations.iter().find(|integration| integration.name == record.integration);
        let marketplaces = &integration.ok_or_else(unknown)?.marketplaces;
        let everybodys = self.integrations.iter().flat_map(|integration| &integration.marketplaces);
        let base_urls = marketplaces.iter().map(MarketplaceClient::base_url);
        let url = EventUrl::parse_among(&record.event_url, base_urls, everybodys.map(MarketplaceClient::base_url))
            .map_err(|_| unknown())?;
        let marketplace = marketplaces.iter().find(|marketplace| marketplace.base_url() == url.marketplace());
        Ok((marketplace.ok_or_else(unknown)?, url))
    }

    async fn fetch_stage(
        &self,
        claim: Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Stage, StoreError> {
        let Read { body, event } = match fetch(marketplace, url).await {
            Ok(read) => read,
            Err(error) => return Ok(Stage::Failed(claim, error)),
        };
        let fields = match ExtractedFields::of(&event) {
            Ok(fields) => fields,
            Err(error) => {
                let reason = format!("the event's account cannot be kept apart from others: {error}");
                let error = StageError::permanent(reason).understood_as(Understood::of(&event));
                return Ok(Stage::Failed(claim, error.with_body(body)));
            }
        };
        if let Some(route_type) = &claim.event().route_type
            && *route_type != event.kind
        {
            tracing::warn!(route_type = %route_type, "the event is a {} by its body, which counts", fields.kind);
        }
        let progress = Progress::Fetched { fields, body };
        let Some(claim) = self.advance(claim, &progress).await? else { return Ok(Stage::Over) };
        let read = match progress {
            Progress::Fetched { body, .. } => Some(Read { body, event }),
            Progress::Handled(_) => None,
        };
        Ok(Stage::Next(claim, read))
    }

    async fn handle_stage(&self, claim: Claim, read: Option<Read>) -> Result<Stage, StoreError> {
        let read = match read {
            Some(read) => Ok(read),
            None => match self.stored_body(&claim).await? {
                Some(body) => understand(body),
                None => Err(StageError::permanent("the body that was stored is gone")),
            },
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return Ok(Stage::Failed(claim, error)),
        };
        let span = tracing::Span::current();
        span.record("event.type", read.event.kind.as_str());
        if let Some(flag) = &read.event.flag {
            span.record("event.flag", flag.as_str());
        }
        if read.event.is_ping() {
            tracing::info!("ping answered; no handler runs for it");
            return self.settle(claim, Completion::Done(None)).await;
        }
        let status = self.asked_status(claim.event()).await?;
        let handled = Box::pin(self.runs.run(claim.event(), read, status)).await;
        // Whatever a handler makes of an event that asks for no result, nobody is told.
        let asks_for_no_result = claim.event().asks_for_no_result();
        match handled {
            Ok(_) if asks_for_no_result => self.settle(claim, Completion::Done(None)).await,
            Ok(Verdict::Result(result)) => match claim.event().check_result(&result) {
                Ok(()) => {
                    let claim = self.advance(claim, &Progress::Handled(result)).await?;
                    Ok(claim.map_or(Stage::Over, |claim| Stage::Next(claim, None)))
                }
                Err(error) => {
                    let reason = format!("the handler made no valid result: {error}");
                    Ok(Stage::Failed(claim, StageError::permanent(reason)))
                }
            },
            Ok(Verdict::NoResult) => {
                let reason = "the handler made no valid result: the event asks for one, and there is none";
                Ok(Stage::Failed(claim, StageError::permanent(reason)))
            }
            Ok(Verdict::Deferred) => self.settle(claim, Completion::Deferred).await,
            Err(error) => Ok(Stage::Failed(claim, error)),
        }
    }

    /// How the account stands that a status event asks about.
    async fn asked_status(&self, event: &EventRecord) -> Result<Option<AccountStatus>, StoreError> {
        let (Some(EventType::SubscriptionStatus), Some(account)) = (&event.kind, &event.account) else {
            return Ok(None);
        };
        let mut repeats = Repeats(0);
        loop {
            match self.accounts.account_status(&event.integration, account).await {
                Ok(status) => return Ok(status),
                Err(error) => repeats.pause(&*self.clock, error).await?,
            }
        }
    }

    async fn stored_body(&self, claim: &Claim) -> Result<Option<Body>, StoreError> {
        let mut repeats = Repeats(0);
        loop {
            match self.queue.body(claim).await {
                Ok(body) => return Ok(body),
                Err(error) => repeats.pause(&*self.clock, error).await?,
            }
        }
    }

    /// Until when the result of an event is left to its caller's answer.
    fn awaiting_response(&self, event: &EventRecord) -> Option<Timestamp> {
        let integration = self.integrations.iter().find(|integration| integration.name == event.integration)?;
        let waits = event.kind.as_ref().is_some_and(|kind| integration.answers.wait_for(kind));
        let now = self.clock.now();
        let until = event.response_deadline.filter(|moment| waits && !event.handed_over && now < *moment)?;
        Some(until.min(now.plus(AWAIT_RESPONSE)))
    }

    async fn report_stage(
        &self,
        claim: Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Stage, StoreError> {
        if let Some(until) = self.awaiting_response(claim.event()) {
            return self.settle(claim, Completion::AwaitResponse { until }).await;
        }
        let Some(result) = &claim.event().result else {
            return Ok(Stage::Failed(claim, StageError::permanent("the result that was stored is gone")));
        };
        match report(marketplace, url, result).await {
            Ok(note) => {
                tracing::info!(success = result.success, note, "event done");
                // Where an answer carried the result, that the marketplace has it is what was to be expected.
                let note = note.filter(|_| !claim.event().handed_over);
                self.settle(claim, Completion::Done(note)).await
            }
            Err(error) => Ok(Stage::Failed(claim, error)),
        }
    }

    /// Makes progress durable, and returns the claim if its holder may go on.
    async fn advance(&self, mut claim: Claim, progress: &Progress) -> Result<Option<Claim>, StoreError> {
        let now = self.clock.read();
        let mut repeats = Repeats(0);
        loop {
            match self.queue.advance(claim, progress, now).await {
                Ok(Advanced::Proceed(claim)) => return Ok(Some(claim)),
                Ok(Advanced::Blocked) => return Ok(None),
                Err(failed) => claim = repeats.after(&*self.clock, failed).await?,
            }
        }
    }

    async fn settle(&self, claim: Claim, completion: Completion) -> Result<Stage, StoreError> {
        self.settle_at(claim, &completion, self.clock.read()).await.map(|()| Stage::Over)
    }

    async fn settle_at(&self, mut claim: Claim, completion: &Completion, now: Now) -> Result<(), StoreError> {
        let mut repeats = Repeats(0);
        loop {
            match self.queue.settle(claim, completion, now).await {
                Ok(()) => return Ok(()),
                Err(failed) => claim = repeats.after(&*self.clock, failed).await?,
            }
        }
    }

    /// Puts an event back for another try, or gives it up.
    async fn fail(&self, claim: Claim, error: StageError, started: Moment) -> Result<(), StoreError> {
        let now = self.clock.read();
        let took = now.monotonic.since(started);
        let after = self.after_failure(claim.event(), &error, now.wall, took);
        let StageError { reason, retry, unreadable, understood } = error;
        let (unreadable, understood) = (unreadable.map(|body| *body), understood.map(|understood| *understood));
        let cause = match retry {
            Retry::UntilItLasts(lasting) => Some(lasting.cause),
            Retry::Never | Retry::After(_) => None,
        };
        let completion = match after {
            AfterFailure::Wait(wait) => {
                tracing::warn!(error = reason, next_try_in = %humantime::format_duration(wait), "attempt failed");
                Completion::Retry { wait, failure: Failure { reason, took, cause, understood }, unreadable }
            }
            AfterFailure::Unconfirmed(note) => {
                tracing::error!(note, "event done, and its result not confirmed");
                Completion::Done(Some(note))
            }
            AfterFailure::Dead(reason, may_recover) => {
                tracing::error!(reason, "event is dead and waits for an operator");
                Completion::Dead { failure: Failure { reason, took, cause, understood }, unreadable, may_recover }
            }
        };
        self.settle_at(claim, &completion, now).await
    }

    /// What follows from a failure of `event` at `now`, by an attempt that took `took`.
    fn after_failure(&self, event: &EventRecord, error: &StageError, now: Timestamp, took: Duration) -> AfterFailure {
        // A body that nobody could read, and one that could not be had, are worth another look if the marketplace rings again.
        let may_recover = event.state == State::Received;
        let asked = match &error.retry {
            Retry::Never => return AfterFailure::Dead(error.reason.clone(), may_recover),
            Retry::After(asked) => *asked,
            Retry::UntilItLasts(Lasting { cause, over, then }) => {
                let repeated = event.repeated(cause, now, took);
                if repeated.times >= Lasting::TIMES && repeated.lasted() >= (*over).min(self.give_up_after) {
                    let reason = format!("{} ({} times in a row)", error.reason, repeated.times);
                    return match then {
                        Ending::Dead => AfterFailure::Dead(reason, may_recover),
                        Ending::Unconfirmed => AfterFailure::Unconfirmed(format!("not confirmed: {reason}")),
                    };
                }
                None
            }
        };
        if event.consecutive_failures > 0 && event.retried_for(now, took) >= self.give_up_after {
            let patience = humantime::format_duration(self.give_up_after);
            return AfterFailure::Dead(format!("given up after {patience}: {}", error.reason), true);
        }
        AfterFailure::Wait(self.schedule.wait(event.consecutive_failures, asked, random()))
    }
}

/// How often a call of the store was repeated.
struct Repeats(u32);

impl Repeats {
    /// The claim for another try, after a pause, if the step failed transiently.
    async fn after(&mut self, clock: &dyn Clock, failed: QueueError) -> Result<Claim, StoreError> {
        let QueueError { claim, error } = failed;
        self.pause(clock, error).await?;
        Ok(claim)
    }

    /// Waits a little, unless the error is permanent, or has come too often.
    async fn pause(&mut self, clock: &dyn Clock, error: StoreError) -> Result<(), StoreError> {
        if !error.is_transient() || self.0 == REPEATS {
            return Err(error);
        }
        if self.0 == 0 {
            tracing::warn!(%error, "the store does not answer as it should; it is asked again");
        }
        self.0 += 1;
        clock.sleep(REPEAT_AFTER).await;
        Ok(())
    }
}
