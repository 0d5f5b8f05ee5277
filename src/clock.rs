//! Time as a parameter.
//!
//! Nothing outside this file asks the system what time it is: everything that decides by time takes a reading
//! or a [`Clock`], so that a day of retries takes a test no time at all.
//!
//! There are two clocks. The wall clock tells people and other machines when something was, as a [`Timestamp`]; it may
//! be set, forward or back, at any moment. The monotonic clock tells a process how long something takes, as a
//! [`Moment`], and is never set. Whatever is waited for inside the process is measured by the second (G12).

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A moment, in whole milliseconds since the Unix epoch.
///
/// Eight bytes, because the store keeps one for every unfinished event in memory; shown to people as
/// RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The end of time.
    pub const MAX: Self = Self(i64::MAX);

    /// The moment `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch: the unit of a JWT's `NumericDate` (RFC 7519 §2).
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment and `duration` more, or the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// A point on the monotonic clock of this process, in microseconds before or after an arbitrary start.
///
/// It means nothing to another process, so it is never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// The point that lies `elapsed` after the start.
    #[must_use]
    pub fn after_start(elapsed: Duration) -> Self {
        Self(0).plus(elapsed)
    }

    /// This point and `duration` more, or the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// The point that lies `duration` before this one.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What people call it.
    pub wall: Timestamp,
    /// What the process measures by.
    pub monotonic: Moment,
}

/// Where the time comes from, and how to wait for it.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// The monotonic clock.
    fn monotonic(&self) -> Moment;

    /// Returns once `monotonic()` has reached `moment`.
    async fn sleep_until(&self, moment: Moment);

    /// Both clocks.
    fn read(&self) -> Now {
        Now { wall: self.now(), monotonic: self.monotonic() }
    }

    /// Returns once `duration` has passed, whatever happens to the wall clock meanwhile.
    async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.monotonic().plus(duration)).await;
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    fn now(&self) -> Timestamp {
        let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(0).plus(elapsed)
    }

    fn monotonic(&self) -> Moment {
        static START: OnceLock<Instant> = OnceLock::new();
        Moment::after_start(START.get_or_init(Instant::now).elapsed())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn sleep_until(&self, moment: Moment) {
        // The timer rounds to milliseconds, and may be that much early.
        loop {
            let left = moment.since(self.monotonic());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// A clock that stands still until it is told to move: for tests of anything that waits.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Now>,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { now: watch::Sender::new(Now { wall: start, monotonic: Moment::default() }) }
    }

    /// Lets time pass, and wakes whoever waited for a moment that has now come.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = Now { wall: now.wall.plus(by), monotonic: now.monotonic.plus(by) });
    }

    /// Sets the wall clock, as an operator or a time server does: no time passes.
    pub fn set(&self, wall: Timestamp) {
        self.now.send_modify(|now| now.wall = wall);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.read().wall
    }

    fn monotonic(&self) -> Moment {
        self.read().monotonic
    }

    fn read(&self) -> Now {
        *self.now.borrow()
    }

    async fn sleep_until(&self, moment: Moment) {
        let mut now = self.now.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = now.wait_for(|now| now.monotonic >= moment).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_a_sleeper_when_its_moment_comes() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let moment = clock.monotonic().plus(Duration::from_hours(1));
        let sleep = clock.sleep_until(moment);
        tokio::pin!(sleep);
        clock.advance(Duration::from_secs(3599));
        assert!(futures_poll(sleep.as_mut()).is_pending());
        clock.advance(Duration::from_secs(1));
        assert!(futures_poll(sleep.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn setting_the_wall_clock_wakes_nobody_and_makes_nobody_wait_longer() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let sleep = clock.sleep(Duration::from_hours(1));
        tokio::pin!(sleep);
        clock.set(Timestamp::from_millis(1 << 40));
        assert!(futures_poll(sleep.as_mut()).is_pending());
        clock.set(Timestamp::from_millis(0));
        clock.advance(Duration::from_hours(1));
        assert!(futures_poll(sleep.as_mut()).is_ready());
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
