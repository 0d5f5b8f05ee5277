use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::fetch::{Body, fetch, understand};
use super::handle::handle;
use super::hands::InHand;
use super::report::report;
use super::{RetrySchedule, StageError, TryAgain};
use crate::clock::{Clock, Timestamp};
use crate::config::Answers;
use crate::event::{AccountStatus, EventRecord, EventType, EventUrl, Facts, State};
use crate::handler::{Dispatched, EventHandler};
use crate::marketplace::MarketplaceClient;
use crate::store::{Advanced, Claim, EventStore, Settlement, Step, StoreError};

/// What a lease allows beyond the handler's own limit: the calls before and after it.
const CALLS: Duration = Duration::from_mins(2);
/// How long events that were received later wait for one that is being read (G5): more than a marketplace usually takes,
/// and little enough that one event which is hard to read does not hold up all the others.
const READ_IN_ORDER: Duration = Duration::from_secs(2);
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
    handler: Arc<dyn EventHandler>,
    integrations: Vec<Integration>,
    schedule: RetrySchedule,
    give_up_after: Duration,
    handler_timeout: Duration,
    permits: Arc<Semaphore>,
    in_hand: Arc<InHand>,
}

/// How a stage ended.
enum Stage {
    /// The claim is settled, or has moved on to somebody else.
    Over,
    /// On with the next stage.
    Next(Claim, Option<Body>),
}

impl Worker {
    /// A worker for the events of `integrations`.
    pub fn new(
        store: Arc<dyn EventStore>,
        clock: Arc<dyn Clock>,
        handler: Arc<dyn EventHandler>,
        integrations: Vec<Integration>,
        delivery: &crate::config::Delivery,
        handler_timeout: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            handler,
            integrations,
            schedule: RetrySchedule::new(delivery.retry.clone()),
            give_up_after: delivery.give_up_after,
            handler_timeout,
            permits: Arc::new(Semaphore::new(delivery.concurrency)),
            in_hand: Arc::new(InHand::at_most(delivery.concurrency_per_marketplace)),
        }
    }

    /// Works until `stop`, then returns once the work in hand is finished.
    ///
    /// Dropping the future stops at once; what was in hand is worked again after its lease or a restart.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let in_hand = TaskTracker::new();
        while !stop.is_cancelled() {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { break };
            let busy = self.in_hand.busy();
            match self.store.claim(self.lease(), self.clock.now(), &busy).await {
                Ok(Some(claim)) => {
                    let hand = self.in_hand.take(&claim.event().marketplace);
                    let worker = Arc::clone(&self);
                    in_hand.spawn(async move {
                        Box::pin(worker.work(claim)).await;
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
        in_hand.close();
        in_hand.wait().await;
    }

    async fn wait_for_work(&self, stop: &CancellationToken, busy: &[String]) {
        let next_due = self.store.next_due(busy).await.ok().flatten();
        let due = async {
            match next_due {
                Some(moment) => self.clock.sleep(moment.since(self.clock.now())).await,
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

    fn lease(&self) -> Duration {
        self.handler_timeout + CALLS
    }

    async fn work(&self, claim: Claim) {
        let event = claim.event();
        let span = tracing::info_span!(
            "event",
            event.id = %event.id,
            integration = event.integration,
            marketplace = event.marketplace,
            attempt = event.attempts + 1,
            event.type = tracing::field::Empty,
            event.flag = tracing::field::Empty,
        );
        if let Err(error) = self.pass_stages(claim).instrument(span.clone()).await {
            // Nothing is lost: the event is as the store last had it, and is claimed again.
            span.in_scope(|| tracing::error!(%error, "the event could not be brought forward in the store"));
        }
    }

    async fn pass_stages(&self, mut claim: Claim) -> Result<(), StoreError> {
        let mut body = None;
        loop {
            let record = claim.event();
            let (marketplace, url) = match self.reach(record) {
                Ok(reached) => reached,
                Err(error) => return self.fail(claim, error).await,
            };
            let stage = match record.state {
                State::Received => self.fetch_stage(claim, marketplace, &url).await?,
                State::Fetched => self.handle_stage(claim, body.take()).await?,
                State::Handled => self.report_stage(claim, marketplace, &url).await?,
                State::Done | State::Deferred | State::Dead => {
                    return Err(StoreError::Unreadable(format!("a {} event was up for work", record.state)));
                }
            };
            match stage {
                Stage::Over => return Ok(()),
                Stage::Next(next, read) => (claim, body) = (next, read),
            }
        }
    }

    /// The marketplace an event lies in, if it still is a configured one.
    ///
    /// The URL was checked when it was recorded; it is checked again by what is configured now (G6).
    fn reach(&self, record: &EventRecord) -> Result<(&MarketplaceClient, EventUrl), StageError> {
        let unknown = || {
            StageError::passing(format!(
                "marketplace {} of integration {} is not configured any more",
                record.marketplace, record.integration
            ))
        };
        let integration = self.integrations.iter().find(|integration| integration.name == record.integration);
        let marketplaces = &integration.ok_or_else(unknown)?.marketplaces;
        let url = EventUrl::parse(&record.event_url, marketplaces.iter().map(MarketplaceClient::base_url))
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
        let body = match self.fetch_in_order(&claim, marketplace, url).await {
            Ok(body) => body,
            Err(error) => return self.fail(claim, error).await.map(|()| Stage::Over),
        };
        if let Some(announced) = &claim.event().announced
            && *announced != body.event.kind
        {
            tracing::warn!(announced = %announced, "the event is a {} by its body, which counts", body.event.kind);
        }
        let step = Step::Fetched { facts: Facts::of(&body.event), body: body.bytes.clone() };
        Ok(match self.store.advance(claim, step, self.lease(), self.clock.now()).await? {
            Advanced::Proceed(claim) => Stage::Next(claim, Some(body)),
            Advanced::Waiting => Stage::Over,
        })
    }

    /// Reads an event, and lets later ones go first if that takes long.
    async fn fetch_in_order(
        &self,
        claim: &Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Body, StageError> {
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

    async fn handle_stage(&self, claim: Claim, body: Option<Body>) -> Result<Stage, StoreError> {
        let read = match body {
            Some(body) => Ok(body),
            None => match self.store.body(claim.event().id).await? {
                Some(bytes) => understand(bytes),
                None => Err(StageError::for_good("the body that was stored is gone")),
            },
        };
        let body = match read {
            Ok(body) => body,
            Err(error) => return self.fail(claim, error).await.map(|()| Stage::Over),
        };
        let span = tracing::Span::current();
        span.record("event.type", body.event.kind.as_str());
        if let Some(flag) = &body.event.flag {
            span.record("event.flag", flag.as_str());
        }
        if body.event.is_ping() {
            tracing::info!("ping answered; no handler runs for it");
            return self.settle(claim, Settlement::Done(None)).await.map(|()| Stage::Over);
        }
        let status = self.asked_status(claim.event()).await?;
        let run = (claim.event().clone(), body, status);
        let handled = Box::pin(handle(Arc::clone(&self.handler), run, self.handler_timeout)).await;
        match handled {
            Ok(Dispatched::Result(result)) => {
                let advanced = self.store.advance(claim, Step::Handled(result), self.lease(), self.clock.now()).await?;
                Ok(match advanced {
                    Advanced::Proceed(claim) => Stage::Next(claim, None),
                    Advanced::Waiting => Stage::Over,
                })
            }
            Ok(Dispatched::NoResult) => self.settle(claim, Settlement::Done(None)).await.map(|()| Stage::Over),
            Ok(Dispatched::Deferred) => self.settle(claim, Settlement::Deferred).await.map(|()| Stage::Over),
            Err(error) => self.fail(claim, error).await.map(|()| Stage::Over),
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
        event.answer_by.filter(|moment| waits && self.clock.now() < *moment)
    }

    async fn report_stage(
        &self,
        claim: Claim,
        marketplace: &MarketplaceClient,
        url: &EventUrl,
    ) -> Result<Stage, StoreError> {
        if let Some(until) = self.left_to_answer(claim.event()) {
            return self.settle(claim, Settlement::LeftToAnswer { until }).await.map(|()| Stage::Over);
        }
        let Some(result) = claim.event().result.clone() else {
            let error = StageError::for_good("the result that was stored is gone");
            return self.fail(claim, error).await.map(|()| Stage::Over);
        };
        match report(marketplace, url, &result).await {
            Ok(note) => {
                tracing::info!(success = result.success, note, "event done");
                self.settle(claim, Settlement::Done(note)).await.map(|()| Stage::Over)
            }
            Err(error) => self.fail(claim, error).await.map(|()| Stage::Over),
        }
    }

    async fn settle(&self, claim: Claim, settlement: Settlement) -> Result<(), StoreError> {
        self.store.settle(claim, settlement, self.clock.now()).await
    }

    /// Puts an event back for another try, or gives it up.
    async fn fail(&self, claim: Claim, error: StageError) -> Result<(), StoreError> {
        let now = self.clock.now();
        let event = claim.event();
        let settlement = match error.retry {
            TryAgain::Never => Settlement::Dead(error.reason),
            TryAgain::After(_) if now.since(event.worked_since) >= self.give_up_after => Settlement::Dead(format!(
                "given up after {}: {}",
                humantime::format_duration(self.give_up_after),
                error.reason
            )),
            TryAgain::After(asked) => {
                let wait = self.schedule.wait(event.failures, asked, random());
                Settlement::Retry { due: now.plus(wait), error: error.reason }
            }
        };
        match &settlement {
            Settlement::Dead(reason) => tracing::error!(reason, "event is dead and waits for an operator"),
            Settlement::Retry { due, error } => tracing::warn!(error, next_try = %due, "attempt failed"),
            Settlement::Done(_) | Settlement::LeftToAnswer { .. } | Settlement::Deferred => {}
        }
        self.settle(claim, settlement).await
    }
}

/// A draw for the jitter; where the system has no randomness any number serves.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
