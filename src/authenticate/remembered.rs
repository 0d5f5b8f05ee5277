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
pub(super) struct Remembered<T> {
    notes: Mutex<Notes<T>>,
}

struct Notes<T> {
    generation: Generation,
    tokens: LruCache<String, (T, Timestamp)>,
}

/// Between two times of forgetting everything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl<T: Copy> Remembered<T> {
    pub(super) fn new() -> Self {
        Self { notes: Mutex::new(Notes { generation: Generation(0), tokens: LruCache::new(REMEMBERED) }) }
    }

    /// The present generation: to be asked for before a token is looked into.
    pub(super) fn generation(&self) -> Generation {
        self.notes().generation
    }

    /// What was found out about `token`, if that still holds at `now`.
    pub(super) fn recall(&self, token: &str, now: Timestamp) -> Option<T> {
        let mut notes = self.notes();
        let (found, until) = *notes.tokens.get(token)?;
        if until > now {
            return Some(found);
        }
        notes.tokens.pop(token);
        None
    }

    /// Remembers what was found out about `token` until `until`, which is not included; unless everything was
    /// forgotten since it began to be looked into, since what was found may rest on what is no more.
    pub(super) fn keep(&self, token: &str, found: T, until: Timestamp, began: Generation) {
        let mut notes = self.notes();
        if notes.generation != began {
            return;
        }
        notes.tokens.put(token.to_owned(), (found, until));
    }

    pub(super) fn forget_all(&self) {
        let mut notes = self.notes();
        notes.generation = Generation(notes.generation.0 + 1);
        notes.tokens.clear();
    }

    fn notes(&self) -> MutexGuard<'_, Notes<T>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
