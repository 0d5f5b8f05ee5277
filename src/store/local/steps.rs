//! Whether a holder's step is taken, was taken before, or comes too late.

use super::scheduler::{HoldState, Scheduler};
use crate::event::EventRecord;
use crate::store::error::StoreError;
use crate::store::lease::Lease;

/// What a step of a holder comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum StepState {
    /// It is to be taken.
    Fresh,
    /// It was taken, and its holder was not told.
    Repeated,
}

/// What it comes to that a holder, who has taken `step` steps, wants to leave an event as `after` that it knows as `before`.
///
/// A holder goes on where its last write failed, or its answer was lost, as long as nobody else has the event: the record
/// as it is stored says whether the write was made.
pub(in crate::store) fn check_step(
    scheduler: &Scheduler,
    (lease, step): (&Lease, u32),
    before: &EventRecord,
    after: &EventRecord,
    stored: impl FnOnce() -> Result<Option<EventRecord>, StoreError>,
) -> Result<StepState, StoreError> {
    let state = scheduler.hold_state(lease, step);
    if state == HoldState::Current {
        return Ok(StepState::Fresh);
    }
    match stored()? {
        Some(stored) if stored == *after => Ok(StepState::Repeated),
        Some(stored) if stored == *before && state == HoldState::Restored => Ok(StepState::Fresh),
        _ => Err(StoreError::ClaimLost),
    }
}
