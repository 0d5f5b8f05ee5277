//! How many events of each marketplace are worked at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many events of each marketplace are worked, so that one that stalls does not take all the hands there are.
pub(super) struct InHand {
    most: usize,
    /// By base URL; marketplaces without an event in hand are not in it.
    counts: Mutex<HashMap<String, usize>>,
    /// A marketplace has a hand free again.
    freed: Notify,
}

impl InHand {
    /// At most so many of each marketplace.
    pub(super) fn at_most(most: usize) -> Self {
        Self { most, counts: Mutex::default(), freed: Notify::new() }
    }

    /// Returns once a marketplace that had no hand free has one again.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The marketplaces with no hand free.
    pub(super) fn busy(&self) -> Vec<String> {
        let counts = self.counts();
        counts.iter().filter(|(_, count)| **count >= self.most).map(|(marketplace, _)| marketplace.clone()).collect()
    }

    /// Takes a hand for an event of this marketplace.
    pub(super) fn take(self: &Arc<Self>, marketplace: &str) -> Hand {
        *self.counts().entry(marketplace.to_owned()).or_default() += 1;
        Hand { marketplace: marketplace.to_owned(), in_hand: Arc::clone(self) }
    }
}

/// A hand on one event of a marketplace, which is free again when this is dropped.
pub(super) struct Hand {
    marketplace: String,
    in_hand: Arc<InHand>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut counts = self.in_hand.counts();
        let Some(count) = counts.get_mut(&self.marketplace) else { return };
        let was_busy = *count >= self.in_hand.most;
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.marketplace);
        }
        drop(counts);
        if was_busy {
            self.in_hand.freed.notify_one();
        }
    }
}
