//! Log lines that others can bring about: of each kind one a period, with the number that it stands for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// How long a kind of line is held back after one was written.
const PERIOD: Duration = Duration::from_mins(1);

/// Keeps strangers from filling the log.
///
/// What happens for the first time is logged at once, since an operator at work waits for it. Then the kind is counted
/// for a minute, and the line that comes next says how many there were.
pub(crate) struct LogLimiter {
    clock: Arc<dyn Clock>,
    kinds: Mutex<HashMap<&'static str, Kind>>,
}

#[derive(Default)]
struct Kind {
    held_back: u64,
    until: Option<Moment>,
}

impl LogLimiter {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kinds: Mutex::default() }
    }

    /// Whether a line of this kind is to be written now; if so, how many there were since the last one, this one
    /// included. Kinds are names in the program's text, so that there are only so many.
    pub(crate) fn admit(&self, kind: &'static str) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_default();
        kind.held_back += 1;
        if kind.until.is_some_and(|until| until > now) {
            return None;
        }
        kind.until = Some(now.plus(PERIOD));
        Some(std::mem::take(&mut kind.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn of_each_kind_one_line_a_minute_is_written_and_it_says_how_many_it_stands_for() {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(0)));
        let limiter = LogLimiter::new(clock.clone());
        assert_eq!(limiter.admit("a"), Some(1));
        assert!((0..999).all(|_| limiter.admit("a").is_none()));
        assert_eq!(limiter.admit("b"), Some(1), "another kind has its own");
        // The wall clock does not count.
        clock.set(Timestamp::from_millis(1 << 40));
        assert_eq!(limiter.admit("a"), None);
        clock.advance(PERIOD);
        assert_eq!(limiter.admit("a"), Some(1001));
        assert_eq!(limiter.admit("a"), None);
    }
}
