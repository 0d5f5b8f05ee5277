//! What happened to an event, step by step, in a bounded list.

use serde::{Deserialize, Serialize};

use super::outcome::without_controls;
use crate::clock::Timestamp;

/// Steps that are kept; of more, the ones after the first few are forgotten.
const MAX_STEPS: usize = 40;
/// The first steps, which stay whatever follows.
const FIRST_STEPS: usize = 8;
/// Bytes of a note that are kept.
const MAX_NOTE_BYTES: usize = 500;

/// What a step takes as JSON without its note, at most.
const STEP_BYTES: usize = 72;

/// What an event went through since it was received, oldest first.
///
/// Bounded, because an event is rewritten with every step: of a long row of failures the first and the last ones
/// tell the story.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    steps: Vec<TimelineStep>,
    /// Steps that were forgotten after the first few.
    #[serde(default, skip_serializing_if = "is_zero")]
    forgotten: u32,
}

/// One step of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineStep {
    /// When.
    pub at: Timestamp,
    /// Its name: `fetched`, `handled`, `failed` and so on.
    pub step: String,
    /// What is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Timeline {
    /// Adds a step.
    pub(super) fn note(&mut self, at: Timestamp, step: &'static str, note: Option<&str>) {
        let note = note.map(|note| without_controls(&note[..note.floor_char_boundary(MAX_NOTE_BYTES)]).into_owned());
        self.steps.push(TimelineStep { at, step: step.to_owned(), note });
        if self.steps.len() > MAX_STEPS {
            self.steps.remove(FIRST_STEPS);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }

    /// Bytes that it takes as JSON, at most, by the length of each note as `length` has it.
    pub(super) fn bytes(&self, length: impl Fn(&str) -> usize) -> usize {
        self.steps.iter().map(|step| step.bytes(&length)).sum()
    }

    /// Forgets steps in the middle until it takes no more than `bytes`.
    ///
    /// The latest steps stay longest, then the first ones: how it began, and how it stands.
    pub(super) fn shrink_to(&mut self, bytes: usize, length: impl Fn(&str) -> usize) {
        let mut taken = self.bytes(&length);
        while taken > bytes && !self.steps.is_empty() {
            let forgotten = self.steps.remove(if self.steps.len() > FIRST_STEPS { FIRST_STEPS } else { 0 });
            taken -= forgotten.bytes(&length);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }

    /// The steps that are kept, oldest first.
    #[must_use]
    pub fn steps(&self) -> &[TimelineStep] {
        &self.steps
    }

    /// How many steps were forgotten, after the first few.
    #[must_use]
    pub const fn forgotten(&self) -> u32 {
        self.forgotten
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl TimelineStep {
    /// Bytes that it takes as JSON, at most.
    fn bytes(&self, length: impl Fn(&str) -> usize) -> usize {
        STEP_BYTES + self.note.as_deref().map_or(0, length)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape `skip_serializing_if` wants")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_row_of_steps_the_first_and_the_last_are_kept_and_the_rest_is_counted() {
        let mut timeline = Timeline::default();
        for number in 0..100 {
            timeline.note(Timestamp::from_millis(number), "failed", Some("why"));
        }
        let at: Vec<_> = timeline.steps().iter().map(|step| step.at).collect();
        let expected: Vec<_> = (0..8).chain(68..100).map(Timestamp::from_millis).collect();
        assert_eq!((at, timeline.forgotten()), (expected, 60));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let mut timeline = Timeline::default();
        timeline.note(Timestamp::from_millis(1), "failed", Some(&"€".repeat(MAX_NOTE_BYTES)));
        assert_eq!(timeline.steps()[0].note.as_deref(), Some("€".repeat(MAX_NOTE_BYTES / 3).as_str()));
    }
}
