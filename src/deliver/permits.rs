//! How many events of each marketplace are worked at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many events of each marketplace are worked, so that one that stalls does not take all the permits there are.
pub(super) struct MarketplacePermits {
    most: usize,
    /// By base URL; marketplaces without an event at work are not in it.
    counts: Mutex<HashMap<String, usize>>,
    /// A marketplace that was saturated is so no longer.
    freed: Notify,
}

impl MarketplacePermits {
    /// At most so many of each marketplace.
    pub(super) fn at_most(most: usize) -> Self {
        Self { most, counts: Mutex::default(), freed: Notify::new() }
    }

    /// Returns once a marketplace that was saturated is so no longer.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The marketplaces with no permit left.
    pub(super) fn saturated(&self) -> Vec<String> {
        let counts = self.counts();
        counts.iter().filter(|(_, count)| **count >= self.most).map(|(marketplace, _)| marketplace.clone()).collect()
    }

    /// How many permits each marketplace has left that has any, at least.
    pub(super) fn free_in_each(&self) -> usize {
        let counts = self.counts();
        let free = counts.values().filter_map(|count| self.most.checked_sub(*count)).filter(|free| *free > 0);
        free.min().unwrap_or(self.most)
    }

    /// Takes a permit for an event of this marketplace.
    pub(super) fn take(self: &Arc<Self>, marketplace: &str) -> MarketplacePermit {
        *self.counts().entry(marketplace.to_owned()).or_default() += 1;
        MarketplacePermit { marketplace: marketplace.to_owned(), permits: Arc::clone(self) }
    }
}

/// A permit to work on one event of a marketplace, which is free again when this is dropped.
pub(super) struct MarketplacePermit {
    marketplace: String,
    permits: Arc<MarketplacePermits>,
}

impl Drop for MarketplacePermit {
    fn drop(&mut self) {
        let mut counts = self.permits.counts();
        let Some(count) = counts.get_mut(&self.marketplace) else { return };
        let was_saturated = *count >= self.permits.most;
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.marketplace);
        }
        drop(counts);
        if was_saturated {
            self.permits.freed.notify_one();
        }
    }
}
