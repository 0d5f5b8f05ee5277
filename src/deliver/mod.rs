//! Claim → fetch → handle → report: the driver that works what `receive` recorded.

mod fetch;
mod handle;
mod hands;
mod report;
mod retry;
mod worker;

pub use retry::RetrySchedule;
pub use worker::{Integration, Worker};

use std::time::Duration;

/// Why a stage did not get through, and whether it is worth another try.
#[derive(Debug)]
pub(crate) struct StageError {
    /// What went wrong.
    reason: String,
    retry: TryAgain,
}

/// Whether a stage is tried again. Chosen where the error is made, never guessed afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TryAgain {
    /// It will not get better by itself.
    Never,
    /// By the schedule, and not before this long if the other side asked for it.
    After(Option<Duration>),
}

impl StageError {
    pub(crate) fn for_good(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry: TryAgain::Never }
    }

    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry: TryAgain::After(None) }
    }

    pub(crate) fn passing_after(reason: impl Into<String>, asked: Option<Duration>) -> Self {
        Self { reason: reason.into(), retry: TryAgain::After(asked) }
    }
}
