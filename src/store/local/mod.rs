//! What stores that live in one process share.

pub(super) mod scheduler;
pub(super) mod steps;
pub(super) mod subscriptions;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what a panic elsewhere cannot have left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
