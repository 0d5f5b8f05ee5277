use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::fetch::{Read, fetch, understand};
use super::handle::HandlerRuns;
use super::hands::InHand;
use super::report::report;
use super::{Ending, Lasting, Retry, RetrySchedule, StageError};
use crate::clock::{Clock, Moment, Timestamp};
use crate::config::Answers;
use crate::event::{AccountStatus, EventRecord, EventType, EventUrl, Facts, Failure, State, Understood};
use crate::handler::{Handler, Verdict};
use crate::marketplace::MarketplaceClient;
use crate::store::{Advanced, Claim, EventStore, Settlement, Step, StoreError};

/// How long events that were received later wait for one that is being read (G5): more than a marketplace usually takes,
/// and little enough that one event which is hard to read does not hold up all the others.
const READ_IN_ORDER: Duration = Duration::from_secs(2);
/// How long a result is left to the answer of a notification, at most: no caller waits longer.
const LEFT_TO_ANSWER: Duration = Duration::from_secs(5);
/// How long the worker leaves a failing store alone.
const STORE_PAUSE: Duration = Duration::from_secs(1);

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

/// Works recorded events until they are done, deferred or dead.
pub struct Worker {
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    runs: HandlerRuns,
    integrations: Vec<Integration>,
    schedule: RetrySchedule,
    give_up_after: Duration,
    permits: Arc<Semaphore>,
    in_hand: Arc<InHand>,
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

impl Worker {
    /// A worker for the events of `integrations`.
    ///
    /// # Errors
    /// If there are no threads for the handler.
    pub fn new(
        store: Arc<dyn EventStore>,
        clock: Arc<dyn Clock>,
        handler: Arc<dyn Handler>,
        integrations: Vec<Integration>,
        delivery: &crate::config::Delivery,
        handler_timeout: Duration,
    ) -> io::Result<Self> {
        let runs = HandlerRuns::new(handler, Arc::clone(&clock), handler_timeout, delivery.concurrency)?;
        Ok(Self {
            store,
            clock,
            runs,
            integrations,
            schedule: RetrySchedule::new(delivery.retry.clone()),
            give_up_after: delivery.give_up_after,
            permits: Arc::new(Semaphore::new(delivery.concurrency)),
            in_hand: Arc::new(InHand::at_most(delivery.concurrency_per_marketplace)),
        })
    }

    /// Works until `stop`, then returns once the work in hand is finished.
    ///
    /// Dropping the future stops at once; what was in hand is worked again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // Dropped with this, so that whoever stops at once has let go of every event.
        let mut in_hand = JoinSet::new();
        while !stop.is_cancelled() {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = Arc::clone(&self.permits).acquire_owned() => permit,
            };
            let Ok(permit) = permit else { break };
            while let Some(ended) = in_hand.try_join_next() {
                note_panic(ended);
            }
            let busy = self.in_hand.busy();
            match self.store.claim(self.clock.read(), &busy).await {
                Ok(Some(claim)) => {
                    let hand = self.in_hand.take(&claim.event().marketplace);
                    let worker = Arc::clone(&self);
                    in_hand.spawn(async move {
                        worker.work(claim).await;
                        drop((hand, permit));
                    });
                }
                Ok(None) => {
                    drop(permit);
                    self.wait_for_work(&stop, &busy).await;
                }
                Err(error) => {
                    tracing::error!(%error, "no event could be claimed");
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.clock.sleep(STORE_PAUSE) => {}
                    }
                }
            }
        }
        while let Some(ended) = in_hand.join_next().await {
            note_panic(ended);
        }
    }

    async fn wait_for_work(&self, stop: &CancellationToken, busy: &[String]) {
        let next_due = self.store.next_due(busy).await.ok().flatten();
        let due = async {
            match next_due {
                Some(moment) => self.clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.store.changed() => {}
            () = self.in_hand.freed() => {}
            () = due => {}
        }
    }

    async fn work(&self, claim: Claim) {
        let event = claim.event();
        let span = tracing::info_span!(
            "event",
            event.id = %event.id,
            integration = event.integration,
            marketplace = event.marketplace,
            attempt = event.attempt(),
            event.type = tracing::field::Empty,
            event.flag = tracing::field::Empty,
        );
        if let Err(error) = Box::pin(self.pass_stages(claim)).instrument(span.clone()).await {
            // Nothing is lost: the event is as the store last had it, and is claimed again.
            span.in_scope(|| tracing::error!(%error, "the event could not be brought forward in the store"));
        }
    }

    async fn pass_stages(&self, mut claim: Claim) -> Result<(), StoreError> {
        let started = self.clock.monotonic();
        if claim.was_lost() {
            let error = StageError::transient(
                "the last attempt ended without an outcome: it panicked, was stopped, or its outcome could not be stored",
            );
            return self.fail(claim, error, started).await;
        }
        let record = claim.event();
        let (marketplace, url) = match self.reach(record) {
            Ok(reached) => reached,
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
    fn reach(&self, record: &EventRecord) -> Result<(&MarketplaceClient, EventUrl), StageError> {
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
        let read = match self.fetch_in_order(&claim, marketplace, url).await {
            Ok(read) => read,
            Err(error) => return Ok(Stage::Failed(claim, error)),
        };
        let facts = match Facts::of(&read.event) {
            Ok(facts) => facts,
            Err(error) => {
                let reason = format!("the event's account cannot be kept apart from others: {error}");
                let error = StageError::permanent(reason).understood_as(Understood::of(&read.event));
                return Ok(Stage::Failed(claim, error.with_body(read.body)));
            }
        };
        if let Some(announced) = &claim.event().announced
            && *announced != read.event.kind
        {
            tracing::warn!(announced = %announced, "the event is a {} by its body, which counts", facts.kind);
        }
        let step = Step::Fetched { facts, body: read.body.clone() };
        self.advance(claim, step, Some(read)).await
    }

    async fn advance(&self, claim: Claim, step: Step, read: Option<Read>) -> Result<Stage, StoreError> {
        Ok(match self.store.advance(claim, step, self.clock.read()).await? {
            Advanced::Proceed(claim) => Stage::Next(claim, read),
            Advanced::Waiting => Stage::Over,
        })
    }

    /// Reads an event, and lets later ones go first if that takes long.
    async fn fetch_in_order(
        &self,
        claim: &Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Read, StageError> {
        let reading = fetch(marketplace, url);
        tokio::pin!(reading);
        tokio::select! {
            read = &mut reading => return read,
            () = self.clock.sleep(READ_IN_ORDER) => {}
        }
        if let Err(error) = self.store.give_way(claim).await {
            tracing::warn!(%error, "later events still wait for this one to be read");
        }
        reading.await
    }

    async fn handle_stage(&self, claim: Claim, read: Option<Read>) -> Result<Stage, StoreError> {
        let read = match read {
            Some(read) => Ok(read),
            None => match self.store.body(claim.event().id).await? {
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
            return self.settle(claim, Settlement::Done(None)).await;
        }
        let status = self.asked_status(claim.event()).await?;
        let handled = Box::pin(self.runs.run(claim.event(), read, status)).await;
        // Whatever a handler makes of an event that asks for no result, nobody is told.
        let asks_for_no_result = claim.event().asks_for_no_result();
        match handled {
            Ok(_) if asks_for_no_result => self.settle(claim, Settlement::Done(None)).await,
            Ok(Verdict::Result(result)) => match claim.event().check_result(&result) {
                Ok(()) => self.advance(claim, Step::Handled(result), None).await,
                Err(error) => {
                    let reason = format!("the handler made no valid result: {error}");
                    Ok(Stage::Failed(claim, StageError::permanent(reason)))
                }
            },
            Ok(Verdict::NoResult) => {
                let reason = "the handler made no valid result: the event asks for one, and there is none";
                Ok(Stage::Failed(claim, StageError::permanent(reason)))
            }
            Ok(Verdict::Deferred) => self.settle(claim, Settlement::Deferred).await,
            Err(error) => Ok(Stage::Failed(claim, error)),
        }
    }

    /// How the account stands that a status event asks about.
    async fn asked_status(&self, event: &EventRecord) -> Result<Option<AccountStatus>, StoreError> {
        match (&event.kind, &event.account) {
            (Some(EventType::SubscriptionStatus), Some(account)) => {
                self.store.account_status(&event.integration, account).await
            }
            _ => Ok(None),
        }
    }

    /// Until when the result of an event is left to its caller's answer.
    fn left_to_answer(&self, event: &EventRecord) -> Option<Timestamp> {
        let integration = self.integrations.iter().find(|integration| integration.name == event.integration)?;
        let waits = event.kind.as_ref().is_some_and(|kind| integration.answers.wait_for(kind));
        let now = self.clock.now();
        let until = event.answer_by.filter(|moment| waits && !event.handed_over && now < *moment)?;
        Some(until.min(now.plus(LEFT_TO_ANSWER)))
    }

    async fn report_stage(
        &self,
        claim: Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Stage, StoreError> {
        if let Some(until) = self.left_to_answer(claim.event()) {
            return self.settle(claim, Settlement::LeftToAnswer { until }).await;
        }
        let Some(result) = claim.event().result.clone() else {
            return Ok(Stage::Failed(claim, StageError::permanent("the result that was stored is gone")));
        };
        match report(marketplace, url, &result).await {
            Ok(note) => {
                tracing::info!(success = result.success, note, "event done");
                // Where an answer carried the result, that the marketplace has it is what was to be expected.
                let note = note.filter(|_| !claim.event().handed_over);
                self.settle(claim, Settlement::Done(note)).await
            }
            Err(error) => Ok(Stage::Failed(claim, error)),
        }
    }

    async fn settle(&self, claim: Claim, settlement: Settlement) -> Result<Stage, StoreError> {
        self.store.settle(claim, settlement, self.clock.read()).await.map(|()| Stage::Over)
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
        let settlement = match after {
            AfterFailure::Wait(wait) => {
                tracing::warn!(error = reason, next_try_in = %humantime::format_duration(wait), "attempt failed");
                Settlement::Retry { wait, failure: Failure { reason, took, cause, understood }, unreadable }
            }
            AfterFailure::Unconfirmed(note) => {
                tracing::error!(note, "event done, and its result not confirmed");
                Settlement::Done(Some(note))
            }
            AfterFailure::Dead(reason, may_recover) => {
                tracing::error!(reason, "event is dead and waits for an operator");
                Settlement::Dead { failure: Failure { reason, took, cause, understood }, unreadable, may_recover }
            }
        };
        self.store.settle(claim, settlement, now).await
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
        if event.failures > 0 && event.retried_for(now, took) >= self.give_up_after {
            let patience = humantime::format_duration(self.give_up_after);
            return AfterFailure::Dead(format!("given up after {patience}: {}", error.reason), true);
        }
        AfterFailure::Wait(self.schedule.wait(event.failures, asked, random()))
    }
}

/// Says that work on an event has panicked. Its claim is lost by that, so whoever has it next records a failed attempt.
fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("the work on an event panicked; it is tried again");
    }
}

/// A draw for the jitter; where the system has no randomness any number serves.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
