//! What was found out about bearer tokens, so that each is looked into once.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::at_most;
use crate::clock::Timestamp;

/// Tokens that are remembered. A marketplace uses one at a time.
const REMEMBERED: NonZeroUsize = at_most(256);

/// What was found out about tokens, so that each is looked into once and not at every notification.
///
/// Bounded: the token that has not been shown for longest makes room, which costs it a second look and nothing else.
pub(super) struct TokenCache<T> {
    tokens: Mutex<LruCache<String, (T, Timestamp)>>,
}

impl<T: Clone> TokenCache<T> {
    pub(super) fn new() -> Self {
        Self { tokens: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// What was found out about `token`, if that still holds at `now`.
    pub(super) fn recall(&self, token: &str, now: Timestamp) -> Option<T> {
        let mut tokens = self.tokens();
        let (found, until) = tokens.get(token)?;
        if *until > now {
            return Some(found.clone());
        }
        tokens.pop(token);
        None
    }

    /// Remembers what was found out about `token` until `until`, which is not included.
    pub(super) fn keep(&self, token: &str, found: T, until: Timestamp) {
        self.tokens().put(token.to_owned(), (found, until));
    }

    fn tokens(&self) -> MutexGuard<'_, LruCache<String, (T, Timestamp)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
