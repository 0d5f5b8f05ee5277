//! Up to when events are old, and when that is to be believed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Of how many parts of the time that events are kept each has a [`Lead`] of its own: the most that are remembered, but one.
const PARTS: u32 = 16;

/// How far retention has come: the time by which events are old, which the wall clock moves on but cannot make leap.
///
/// A wall clock that is ahead by a year would have everything forgotten, and one that was wrong before and is right now
/// looks the same. So time goes on as fast as it really passes, by the monotonic clock. What the wall clock is ahead
/// of that is believed if it is little, as after a restart, or if the clock has stood by it for as long as events are
/// kept: by then all that was recorded before is old by any clock. A clock that leaps on stands by its leaps before, so
/// that a process which is often down for long is behind by a bounded time. A clock that goes back is believed at once,
/// since that forgets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NotedRetention")]
pub struct Retention {
    /// The time by which events are old.
    pub(super) reached: Timestamp,
    /// What the wall clock has been ahead of that, at least: the oldest lead first, each greater than the one before.
    pub(super) leads: Vec<Lead>,
}

/// What the wall clock was ahead by, all the time that it has been so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lead {
    by: Duration,
    stood: Duration,
}

/// A [`Retention`] as it was ever noted: an earlier release knew one lead.
#[derive(Deserialize)]
struct NotedRetention {
    reached: Timestamp,
    #[serde(default)]
    leads: Vec<Lead>,
    #[serde(default)]
    lead: Duration,
    #[serde(default)]
    stood: Duration,
}

impl From<NotedRetention> for Retention {
    fn from(noted: NotedRetention) -> Self {
        let NotedRetention { reached, mut leads, lead, stood } = noted;
        if leads.is_empty() && lead > Duration::ZERO {
            leads.push(Lead { by: lead, stood });
        }
        Self { reached, leads }
    }
}

impl Retention {
    /// Up to when the store's time has come.
    pub(super) const fn reached(&self) -> Timestamp {
        self.reached
    }

    /// Begins at `reached`.
    pub(super) const fn at(reached: Timestamp) -> Self {
        Self { reached, leads: Vec::new() }
    }

    /// Goes on after `elapsed` by the monotonic clock, when the wall clock says `wall`, and events are kept for `keep`.
    pub(super) fn go_on(&mut self, elapsed: Duration, wall: Timestamp, keep: Duration) {
        // As much as an event may go too early.
        let little = keep / 10;
        self.reached = self.reached.plus(elapsed);
        let ahead = wall.since(self.reached);
        for lead in &mut self.leads {
            lead.by = lead.by.min(ahead);
            lead.stood += elapsed;
        }
        // Of equal ones the oldest stays.
        self.leads.dedup_by_key(|lead| lead.by);
        let believed = self.leads.iter().rposition(|lead| lead.stood >= keep);
        let by = believed
            .map_or(Duration::ZERO, |last| self.leads.drain(..=last).map(|lead| lead.by).max().unwrap_or_default());
        for lead in &mut self.leads {
            lead.by -= by;
        }
        self.reached = self.reached.plus(by);
        let ahead = ahead.saturating_sub(by);
        if ahead <= little {
            *self = Self::at(wall);
        } else if self.leads.last().is_none_or(|last| last.by < ahead && last.stood >= keep / PARTS) {
            self.leads.push(Lead { by: ahead, stood: Duration::ZERO });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::wall;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn each_leap_of_a_clock_that_leaps_again_and_again_is_believed_once_it_has_stood_and_one_back_is_at_once() {
        let keep = 10 * DAY;
        let mut retention = Retention::at(wall(0));
        let mut leapt = wall(0);
        for day in 1..1000 {
            leapt = leapt.plus(3 * DAY);
            retention.go_on(DAY, leapt, keep);
            // The wall clock leaps by two days a day: what it had leapt by ten days ago is believed.
            let believed = 2 * DAY * u32::try_from(day - 10).unwrap_or(0);
            assert_eq!(retention.reached, wall(0).plus(day_of(day) + believed), "{day}");
        }
        retention.go_on(DAY, wall(50), keep);
        assert_eq!(retention, Retention::at(wall(50)));
    }

    fn day_of(day: i32) -> Duration {
        DAY * u32::try_from(day).expect("positive")
    }

    #[test]
    fn however_often_a_process_is_down_for_long_retention_is_behind_by_a_bounded_time() {
        let hour = Duration::from_hours(1);
        for (keep, up, down) in [
            (DAY, 12 * hour, 12 * hour),
            (2 * DAY, 12 * hour, 12 * hour),
            (7 * DAY, 5 * DAY, 2 * DAY),
            (7 * DAY, hour, 17 * hour),
            (DAY, 9 * DAY, 9 * DAY),
        ] {
            let mut now = wall(0);
            let mut retention = Retention::at(now);
            for _ in 0..3000 {
                now = now.plus(down);
                retention.go_on(Duration::ZERO, now, keep);
                let mut uptime = Duration::ZERO;
                while uptime < up {
                    now = now.plus(hour / 6);
                    uptime += hour / 6;
                    retention.go_on(hour / 6, now, keep);
                }
                assert!(retention.leads.len() <= PARTS as usize + 1, "{} leads", retention.leads.len());
            }
            // What it was down for until it was up for as long as events are kept, and a part of that more.
            let times = (keep + keep / PARTS).as_secs().div_ceil(up.as_secs()) + 1;
            let most = down * u32::try_from(times).expect("few");
            assert!(
                now.since(retention.reached) <= most,
                "{up:?} up, {down:?} down: {:?}",
                now.since(retention.reached)
            );
        }
    }

    proptest::proptest! {
        /// Leaps are greater than what is believed at once, by which an event may go early.
        #[test]
        fn whatever_the_wall_clock_does_no_event_goes_early_and_what_it_stands_by_is_believed(
            steps in proptest::collection::vec((0_u32..40, proptest::option::weighted(0.2, -20_i64..20)), 1..200)
        ) {
            let unit = Duration::from_hours(1);
            let keep = 20 * unit;
            let mut retention = Retention::at(wall(0));
            let (mut true_time, mut set_by) = (Duration::ZERO, 0_i64);
            let mut recorded = Vec::new();
            let shown = |true_time: Duration, set_by: i64| {
                let leapt = set_by * 4 * 3_600_000;
                Timestamp::from_millis(wall(5_000_000).plus(true_time).as_millis() + leapt)
            };
            for (passing, leap) in steps {
                true_time += passing * unit;
                set_by += leap.unwrap_or(0);
                let now = shown(true_time, set_by);
                retention.go_on(passing * unit, now, keep);
                let moment = Timestamp::from_millis(
                    retention.reached.as_millis() - i64::try_from(keep.as_millis()).expect("little"),
                );
                for (at, dated) in &recorded {
                    proptest::prop_assert!(*dated >= moment || true_time.saturating_sub(*at) >= keep, "recorded at {at:?}, {true_time:?} now");
                }
                // A clock behind what the store has seen makes an event no older.
                recorded.push((true_time, now.max(retention.reached)));
                proptest::prop_assert!(retention.leads.is_sorted_by(|a, b| a.by < b.by && a.stood > b.stood));
            }
            for _ in 0..=PARTS + PARTS {
                true_time += keep / PARTS;
                retention.go_on(keep / PARTS, shown(true_time, set_by), keep);
            }
            proptest::prop_assert_eq!(retention, Retention::at(shown(true_time, set_by)));
        }
    }

    #[test]
    fn what_an_earlier_release_noted_is_read() {
        let noted = r#"{"reached":1700000000000,"lead":{"secs":86400,"nanos":0},"stood":{"secs":60,"nanos":0}}"#;
        let read: Retention = serde_json::from_str(noted).expect("readable");
        let lead = Lead { by: DAY, stood: Duration::from_mins(1) };
        assert_eq!(read, Retention { reached: Timestamp::from_millis(1_700_000_000_000), leads: vec![lead] });
        let again = serde_json::to_string(&read).expect("written");
        assert_eq!(serde_json::from_str::<Retention>(&again).expect("readable"), read);
        let calm = r#"{"reached":1700000000000,"lead":{"secs":0,"nanos":0},"stood":{"secs":0,"nanos":0}}"#;
        let calm: Retention = serde_json::from_str(calm).expect("readable");
        assert_eq!(calm, Retention::at(Timestamp::from_millis(1_700_000_000_000)));
    }
}
