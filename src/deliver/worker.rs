//! The loop that claims events, and holds them while they are worked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::handle::HandlerRuns;
use super::permits::MarketplacePermits;
use super::stages::{Integration, Stages};
use super::{RetrySchedule, random};
use crate::clock::{Clock, Moment};
use crate::handler::Handler;
use crate::store::{Accounts, Claim, Claims, LEASE, Lease, Queue, StoreError};

/// How long the worker leaves a failing store alone.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long the worker waits for a wake-up before it asks by itself, at most: what a wake-up that is lost costs.
const POLL_EVERY: Duration = Duration::from_secs(10);
/// How often a lease is renewed: twice may fail before it ends.
const RENEW_EVERY: Duration = Duration::from_secs(LEASE.as_secs() / 3);

/// Works recorded events until they are done, deferred or dead.
pub struct Worker {
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    stages: Stages,
    permits: Arc<Semaphore>,
    marketplaces: Arc<MarketplacePermits>,
}

impl Worker {
    /// A worker for the events of `integrations`.
    ///
    /// # Errors
    /// If there are no threads for the handler.
    pub fn new(
        queue: Arc<dyn Queue>,
        accounts: Arc<dyn Accounts>,
        clock: Arc<dyn Clock>,
        handler: Arc<dyn Handler>,
        integrations: Vec<Integration>,
        delivery: &crate::config::Delivery,
        handler_timeout: Duration,
    ) -> io::Result<Self> {
        let stages = Stages {
            queue: Arc::clone(&queue),
            accounts,
            clock: Arc::clone(&clock),
            runs: HandlerRuns::new(handler, Arc::clone(&clock), handler_timeout, delivery.concurrency)?,
            integrations,
            schedule: RetrySchedule::new(delivery.retry.clone()),
            give_up_after: delivery.give_up_after,
        };
        Ok(Self {
            queue,
            clock,
            stages,
            permits: Arc::new(Semaphore::new(delivery.concurrency)),
            marketplaces: Arc::new(MarketplacePermits::at_most(delivery.concurrency_per_marketplace)),
        })
    }

    /// Works until `stop`, then returns once the work in hand is finished. What is not finished at `cut_off` is given back.
    ///
    /// Dropping the future stops at once; what was in hand is worked again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, cut_off: CancellationToken) {
        // Dropped with this, so that whoever stops at once has let go of every event.
        let mut tasks = JoinSet::new();
        while let Some(mut permits) = self.free_permits(&stop).await {
            while let Some(ended) = tasks.try_join_next() {
                note_panic(ended);
            }
            let (saturated, limit) = (self.marketplaces.saturated(), permits.num_permits());
            match self.queue.claim(limit, &saturated, self.clock.read()).await {
                Ok(Claims { claims, idle_until }) => {
                    let are_all = claims.len() < limit;
                    for claim in claims {
                        let permit = (permits.split(1), self.marketplaces.take(&claim.event().marketplace));
                        let (worker, cut_off) = (Arc::clone(&self), cut_off.clone());
                        tasks.spawn(async move {
                            worker.work(claim, &cut_off).await;
                            drop(permit);
                        });
                    }
                    drop(permits);
                    if are_all {
                        self.wait_for_work(&stop, idle_until).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "no event could be claimed");
                    drop(permits);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.clock.sleep(STORE_PAUSE) => {}
                    }
                }
            }
        }
        while let Some(ended) = tasks.join_next().await {
            note_panic(ended);
        }
    }

    /// Permits for as many events as may be claimed at once, whatever their marketplaces; nothing once it is to stop.
    async fn free_permits(&self, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        let mut permits = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            permit = Arc::clone(&self.permits).acquire_owned() => permit.ok()?,
        };
        let more = self.permits.available_permits().min(self.marketplaces.free_in_each().saturating_sub(1));
        if let Ok(more) = Arc::clone(&self.permits).try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX)) {
            permits.merge(more);
        }
        Some(permits)
    }

    async fn wait_for_work(&self, stop: &CancellationToken, idle_until: Option<Moment>) {
        let poll = self.clock.monotonic().plus(POLL_EVERY.mul_f64(jitter()));
        let asked_again_at = idle_until.map_or(poll, |due| due.min(poll));
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.queue.wakeup() => {}
            () = self.marketplaces.freed() => {}
            () = self.clock.sleep_until(asked_again_at) => {}
        }
    }

    /// Works on an event, and holds it for as long as that takes.
    async fn work(&self, claim: Claim, cut_off: &CancellationToken) {
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
        let lease = claim.lease();
        let working = Box::pin(self.stages.pass(claim)).instrument(span.clone());
        tokio::select! {
            biased;
            ended = working => if let Err(error) = ended {
                span.in_scope(|| tracing::error!(%error, "the event could not be brought forward in the store"));
            },
            () = self.until_lost(&lease) => {
                span.in_scope(|| tracing::error!("the work on the event ends, because somebody else holds it"));
            }
            () = cut_off.cancelled() => {
                if let Err(error) = self.queue.release(lease, self.clock.read()).await {
                    span.in_scope(|| tracing::warn!(%error, "the event is free once its lease has ended"));
                }
            }
        }
    }

    /// Renews a lease, and returns if it is lost.
    async fn until_lost(&self, lease: &Lease) {
        loop {
            self.clock.sleep(RENEW_EVERY).await;
            match self.queue.renew(lease, self.clock.read()).await {
                Ok(()) => {}
                Err(StoreError::ClaimLost) => return,
                Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
            }
        }
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

/// From a half to one, drawn evenly, so that replicas do not ask all at once.
fn jitter() -> f64 {
    f64::from(u32::try_from(random() % 1000).unwrap_or_default()) / 2000.0 + 0.5
}
