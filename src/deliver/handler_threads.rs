//! Threads for the vendor's product logic, apart from those that everything else runs on.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::event::EventId;

/// Runs that were stopped and go on all the same, each of which keeps a thread: beyond so many no other is begun.
const MOST_OVERRUN: usize = 128;
/// Threads beside those of the runs, for what handlers give to `spawn_blocking` and for looking up names.
const SPARE_THREADS: usize = 512;

/// A runtime on which each run has a thread to itself, if the handler may block any.
///
/// Product logic that blocks holds up nobody but itself so: not the delivery of other events, nor a timer, nor a signal.
/// A thread is taken from a pool and goes back to it, so that a run that does not block costs no new one.
pub(super) struct HandlerThreads {
    place: Place,
    unended: Arc<Unended>,
}

/// Where runs take place.
enum Place {
    /// Each on a thread of its own, of this runtime; taken out when that is dropped.
    Apart(Option<Runtime>),
    /// Beside everything else: they only ever await.
    Beside,
}

/// The events whose run has not ended.
#[derive(Default)]
struct Unended(Mutex<HashMap<EventId, UnendedRun>>);

struct UnendedRun {
    account: Option<AccountName>,
    was_stopped: bool,
}

/// An account: the name of its integration, and its identifier.
pub(super) type AccountName = (String, String);

impl Unended {
    fn runs(&self) -> MutexGuard<'_, HashMap<EventId, UnendedRun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a run is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// The event's run before has not ended, or that of another event of its account.
    RunBefore,
    /// So many runs that were stopped have not ended.
    TooManyOverran(usize),
    /// The threads are gone: the process ends.
    Stopping,
}

/// A run that was begun. It is stopped when this is dropped, and has ended when its thread lets go of it.
pub(super) struct Run<T> {
    /// `None` if it was stopped.
    pub(super) ended: JoinHandle<Option<T>>,
    stop: Option<DropGuard>,
    is_apart: bool,
    event: EventId,
    unended: Arc<Unended>,
}

impl<T> Run<T> {
    /// Stops the run where it next waits for something. Until then it is remembered.
    pub(super) fn stop(&mut self) {
        if let Some(run) = self.unended.runs().get_mut(&self.event) {
            run.was_stopped = true;
        }
        self.stop = None;
        if self.is_apart {
            // Takes it out of the queue if there was no thread for it yet.
            self.ended.abort();
        }
    }
}

impl<T> Drop for Run<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says, by being dropped, that a run has ended.
struct Unfinished {
    event: EventId,
    unended: Arc<Unended>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let run = self.unended.runs().remove(&self.event);
        if run.is_some_and(|run| run.was_stopped) {
            tracing::info!(event.id = %self.event, "a run of the handler that was stopped has ended");
        }
    }
}

impl HandlerThreads {
    /// Threads for so many runs at once, of a handler that may block them or not.
    pub(super) fn for_runs(runs: usize, may_block: bool) -> io::Result<Self> {
        if !may_block {
            return Ok(Self { place: Place::Beside, unended: Arc::default() });
        }
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("handler")
            .max_blocking_threads(runs.saturating_add(MOST_OVERRUN + SPARE_THREADS))
            .build()?;
        Ok(Self { place: Place::Apart(Some(runtime)), unended: Arc::default() })
    }

    /// Begins a run for `event`, unless one before has not ended: of this event, or of its account (G5).
    pub(super) fn begin<F>(
        &self,
        event: EventId,
        account: Option<AccountName>,
        work: F,
    ) -> Result<Run<F::Output>, NotBegun>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let unfinished = self.remember(event, account)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let run = async move {
            // Dropped after the work is, whether that returns or panics.
            let _unfinished = unfinished;
            tokio::select! {
                biased;
                () = stopped.cancelled() => None,
                ended = work => Some(ended),
            }
        };
        let ended = match &self.place {
            Place::Beside => tokio::spawn(run),
            Place::Apart(runtime) => {
                let runtime = runtime.as_ref().ok_or(NotBegun::Stopping)?;
                let handle = runtime.handle().clone();
                runtime.spawn_blocking(move || handle.block_on(run))
            }
        };
        let is_apart = matches!(self.place, Place::Apart(_));
        Ok(Run { ended, stop: Some(stop.drop_guard()), is_apart, event, unended: Arc::clone(&self.unended) })
    }

    fn remember(&self, event: EventId, account: Option<AccountName>) -> Result<Unfinished, NotBegun> {
        let mut runs = self.unended.runs();
        let of_account = |run: &UnendedRun| account.is_some() && run.account == account;
        if runs.contains_key(&event) || runs.values().any(of_account) {
            return Err(NotBegun::RunBefore);
        }
        let overran = runs.values().filter(|run| run.was_stopped).count();
        if overran >= MOST_OVERRUN {
            return Err(NotBegun::TooManyOverran(overran));
        }
        runs.insert(event, UnendedRun { account, was_stopped: false });
        Ok(Unfinished { event, unended: Arc::clone(&self.unended) })
    }
}

impl Drop for HandlerThreads {
    fn drop(&mut self) {
        if let Place::Apart(runtime) = &mut self.place
            && let Some(runtime) = runtime.take()
        {
            // Waits for nobody: what blocks may do so for ever.
            runtime.shutdown_background();
        }
    }
}
