//! Claim → fetch → handle → report: the driver that works what `receive` recorded.

mod fetch;
mod handle;
mod handler_threads;
mod permits;
mod report;
mod retry;
mod stages;
mod worker;

pub use retry::RetrySchedule;
pub use stages::Integration;
pub use worker::Worker;

use std::time::Duration;

use crate::event::{Body, Understood};

/// Why a stage did not get through, and whether it is worth another try.
#[derive(Debug)]
pub(crate) struct StageError {
    /// What went wrong.
    reason: String,
    retry: Retry,
    /// The body that came, if nobody could read it.
    unreadable: Option<Box<Body>>,
    /// What a body that was read says it is, if it is not taken all the same.
    understood: Option<Box<Understood>>,
}

/// Whether a stage is tried again. Chosen where the error is made, never guessed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It is permanent.
    Never,
    /// It is transient: by the schedule, and not before this long if the other side asked for it.
    After(Option<Duration>),
    /// It may be a slip of something in between: transient, until it has lasted.
    UntilItLasts(Lasting),
}

/// A failure that is believed once it has come [`Lasting::TIMES`] times in a row, over some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lasting {
    /// What makes two failures the same.
    cause: String,
    /// From the first to the last, at least; or the whole patience, where that is shorter.
    over: Duration,
    then: Ending,
}

/// What becomes of an event whose failure has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is dead.
    Dead,
    /// It is done, as far as anybody can tell: its result was never confirmed.
    Unconfirmed,
}

impl Lasting {
    /// How often a failure has come when it is believed, at least.
    const TIMES: u32 = 3;
}

impl StageError {
    pub(crate) fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry: Retry::Never, unreadable: None, understood: None }
    }

    pub(crate) fn transient(reason: impl Into<String>) -> Self {
        Self::transient_after(reason, None)
    }

    pub(crate) fn transient_after(reason: impl Into<String>, asked: Option<Duration>) -> Self {
        Self { reason: reason.into(), retry: Retry::After(asked), unreadable: None, understood: None }
    }

    pub(crate) fn until_it_lasts(reason: impl Into<String>, cause: String, over: Duration, then: Ending) -> Self {
        let lasting = Lasting { cause, over, then };
        Self { reason: reason.into(), retry: Retry::UntilItLasts(lasting), unreadable: None, understood: None }
    }

    pub(crate) fn with_body(self, body: Body) -> Self {
        Self { unreadable: Some(Box::new(body)), ..self }
    }

    pub(crate) fn understood_as(self, understood: Understood) -> Self {
        Self { understood: Some(Box::new(understood)), ..self }
    }
}

/// A draw for the jitter; where the system has no randomness any number serves.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
