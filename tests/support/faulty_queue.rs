//! A queue that fails in one way, and does as another one otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorbell::async_trait;
use doorbell::clock::Now;
use doorbell::event::Body;
use doorbell::store::{Advanced, Claim, Claims, Completion, Lease, Progress, Queue, QueueError, StoreError};

/// How it fails.
pub enum Fault {
    /// It panics when it is asked for work.
    PanicsAtClaim,
    /// It panics when work has got further.
    PanicsAtAdvance,
    /// It cannot write this many of the first completions.
    FailsToSettle(usize),
    /// It never wakes anybody.
    NeverWakes,
    /// It gives no lease any longer time.
    LosesLeases,
    /// None.
    None,
}

pub struct FaultyQueue {
    queue: Arc<dyn Queue>,
    fault: Fault,
    /// Completions that it was asked for.
    pub settled: AtomicUsize,
    /// Leases that it was to renew.
    pub renewed: AtomicUsize,
}

impl FaultyQueue {
    pub fn new(queue: Arc<dyn Queue>, fault: Fault) -> Self {
        Self { queue, fault, settled: AtomicUsize::new(0), renewed: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn claim(&self, limit: usize, saturated: &[String], now: Now) -> Result<Claims, StoreError> {
        assert!(!matches!(self.fault, Fault::PanicsAtClaim), "a bug in the store");
        self.queue.claim(limit, saturated, now).await
    }
    async fn advance(&self, claim: Claim, progress: &Progress, now: Now) -> Result<Advanced, QueueError> {
        assert!(!matches!(self.fault, Fault::PanicsAtAdvance), "a bug in the store");
        self.queue.advance(claim, progress, now).await
    }
    async fn settle(&self, claim: Claim, completion: &Completion, now: Now) -> Result<(), QueueError> {
        let before = self.settled.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::FailsToSettle(times) if before < times => {
                Err(QueueError { claim, error: StoreError::Unavailable("it does not answer".to_owned()) })
            }
            _ => self.queue.settle(claim, completion, now).await,
        }
    }
    async fn renew(&self, lease: &Lease, now: Now) -> Result<(), StoreError> {
        self.renewed.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::LosesLeases => Err(StoreError::ClaimLost),
            _ => self.queue.renew(lease, now).await,
        }
    }
    async fn release(&self, lease: Lease, now: Now) -> Result<(), StoreError> {
        self.queue.release(lease, now).await
    }
    async fn body(&self, claim: &Claim) -> Result<Option<Body>, StoreError> {
        self.queue.body(claim).await
    }
    async fn wakeup(&self) {
        match self.fault {
            Fault::NeverWakes => std::future::pending().await,
            _ => self.queue.wakeup().await,
        }
    }
}
