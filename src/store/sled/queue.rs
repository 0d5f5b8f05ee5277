//! Handing events to workers, and taking what comes of them.

use std::iter;
use std::sync::Arc;

use async_trait::async_trait;

use super::prepare::{Step, in_chunks};
use super::records::stored_record;
use super::store::SledStore;
use super::writer::Write;
use crate::clock::Now;
use crate::event::{Body, Change, EventRecord};
use crate::store::error::StoreError;
use crate::store::lease::Lease;
use crate::store::local::lock;
use crate::store::local::scheduler::Claimed;
use crate::store::queue::{Advanced, Claim, Claims, Completion, Progress, Queue, QueueError};

impl SledStore {
    /// The record of an event that was claimed, or nothing if the event is to be left alone.
    fn claimed_record(&self, lease: &Lease) -> Result<Option<EventRecord>, StoreError> {
        let sequence = lease.sequence();
        let error = match stored_record(&self.lookup.tree, sequence) {
            Ok(Some(record)) => return Ok(Some(record)),
            Ok(None) => StoreError::Unreadable("it is not there".to_owned()),
            Err(error @ StoreError::Unreadable(_)) => error,
            Err(error) => return Err(error),
        };
        // It would be in the way of all others for ever. It stays where it is, held by nobody.
        lease.end();
        lock(&self.lookup.scheduler).remove(sequence);
        tracing::error!(number = sequence, %error, "an event is left alone until it can be read");
        Ok(None)
    }

    fn give_back(&self, leases: impl Iterator<Item = Lease>) {
        let mut scheduler = lock(&self.lookup.scheduler);
        for lease in leases {
            scheduler.give_back(&lease);
            lease.end();
        }
    }
}

fn step(claim: &Claim, change: Change, body: Option<&[u8]>, now: Now) -> Step {
    let before = Arc::clone(&claim.record);
    Step { lease: claim.lease.clone(), number: claim.step, before, change, body: body.map(in_chunks), now }
}

#[async_trait]
impl Queue for SledStore {
    async fn claim(&self, limit: usize, saturated: &[String], now: Now) -> Result<Claims, StoreError> {
        let mut claims = Vec::new();
        // What a failed store reads may never have become durable.
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        loop {
            let taken: Vec<_> = {
                let mut scheduler = lock(&self.lookup.scheduler);
                let next = std::iter::from_fn(|| scheduler.claim(saturated, now.monotonic));
                next.take(limit - claims.len()).collect()
            };
            let are_all = taken.is_empty();
            let mut taken = taken.into_iter();
            while let Some(Claimed { lease, was_lost }) = taken.next() {
                match self.claimed_record(&lease) {
                    Ok(Some(record)) => claims.push(Claim { record: Arc::new(record), lease, step: 0, was_lost }),
                    Ok(None) => {}
                    Err(error) => {
                        // Nobody has worked on these: none of them counts as an attempt.
                        self.give_back(iter::once(lease).chain(taken.map(|claimed| claimed.lease)));
                        let some = Claims { claims, idle_until: Some(now.monotonic) };
                        return if some.claims.is_empty() { Err(error) } else { Ok(some) };
                    }
                }
            }
            if are_all || claims.len() == limit {
                return Ok(Claims { claims, idle_until: lock(&self.lookup.scheduler).idle_until(saturated) });
            }
        }
    }

    async fn advance(&self, mut claim: Claim, progress: &Progress, now: Now) -> Result<Advanced, QueueError> {
        let step = step(&claim, progress.change(), progress.body(), now);
        match self.write_in_turn(|reply| Write::Advance(step, reply)).await {
            Ok((record, true)) => {
                claim.record = record;
                claim.step += 1;
                Ok(Advanced::Proceed(claim))
            }
            Ok((_, false)) => Ok(Advanced::Blocked),
            Err(error) => Err(QueueError { claim, error }),
        }
    }

    async fn settle(&self, claim: Claim, completion: &Completion, now: Now) -> Result<(), QueueError> {
        let step = step(&claim, completion.change(), completion.body(), now);
        self.write_in_turn(|reply| Write::Settle(step, reply)).await.map_err(|error| QueueError { claim, error })
    }

    async fn renew(&self, lease: &Lease, _: Now) -> Result<(), StoreError> {
        if lock(&self.lookup.scheduler).extend(lease) { Ok(()) } else { Err(StoreError::ClaimLost) }
    }

    async fn release(&self, lease: Lease, _: Now) -> Result<(), StoreError> {
        self.give_back(iter::once(lease));
        self.kept.wakeup.notify_one();
        Ok(())
    }

    async fn body(&self, claim: &Claim) -> Result<Option<Body>, StoreError> {
        let bytes = self.lookup.body(claim.lease.sequence(), &claim.record)?;
        Ok(bytes.map(|bytes| Body { bytes, charset: claim.record.charset.clone() }))
    }

    async fn wakeup(&self) {
        self.kept.wakeup.notified().await;
    }
}
