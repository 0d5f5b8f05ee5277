//! When a failed attempt is made again.

use std::time::Duration;

/// How long to wait before an attempt that failed for a transient reason is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    steps: Vec<Duration>,
}

impl RetrySchedule {
    /// The longest wait before each next try; the last repeats.
    #[must_use]
    pub fn new(steps: Vec<Duration>) -> Self {
        Self { steps }
    }

    /// The wait after `failures` failures in a row.
    ///
    /// Drawn evenly between nothing and the step's length (full jitter), so that events that failed together do
    /// not come back together; never shorter than the marketplace asked for, as far as that is no longer than the
    /// longest step: a slip of the pen there must not stop an account for a day. `random` is the draw.
    #[must_use]
    pub fn wait(&self, failures: u32, asked: Option<Duration>, random: u64) -> Duration {
        let index = usize::try_from(failures).unwrap_or(usize::MAX).min(self.steps.len().saturating_sub(1));
        let longest = self.steps.get(index).copied().unwrap_or(Duration::from_secs(1));
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX - 1);
        let drawn = Duration::from_millis(random % (millis + 1));
        let most = self.steps.iter().max().copied().unwrap_or(longest);
        drawn.max(asked.unwrap_or_default().min(most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule() -> RetrySchedule {
        RetrySchedule::new([1, 5, 30].map(Duration::from_secs).to_vec())
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_step_and_the_last_step_repeats(failures in 0_u32..1000, random: u64) {
            let longest = [1, 5, 30][usize::try_from(failures).expect("small").min(2)];
            prop_assert!(schedule().wait(failures, None, random) <= Duration::from_secs(longest));
        }

        #[test]
        fn a_wait_is_never_shorter_than_the_marketplace_asked_for_and_never_longer_than_the_longest_step(
            failures in 0_u32..10,
            random: u64,
            asked in prop_oneof![0_u64..100, any::<u64>()],
        ) {
            let asked = Duration::from_secs(asked);
            let longest = Duration::from_secs(30);
            let wait = schedule().wait(failures, Some(asked), random);
            prop_assert!(wait >= asked.min(longest) && wait <= longest);
        }
    }
}
