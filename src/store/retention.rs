//! Which events are old, and when that is to be believed.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{EventStore, Filter, StoreError};
use crate::clock::{Clock, Moment, Timestamp};

/// Events that are removed at a time, so that notifications never wait long for the writer.
const STEP: usize = 128;
/// The pause between two steps: in all more can go in a second than is ever delivered in one.
const PAUSE: Duration = Duration::from_millis(25);
/// How long nothing is looked for once nothing was found, at most: a tenth of the time that events are kept.
const REST: Duration = Duration::from_mins(10);

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
    reached: Timestamp,
    /// What the wall clock has been ahead of that, at least: the oldest lead first, each greater than the one before.
    leads: Vec<Lead>,
}

/// What the wall clock was ahead by, all the time that it has been so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Lead {
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
    fn go_on(&mut self, elapsed: Duration, wall: Timestamp, keep: Duration) {
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

/// Removes finished events that are older than `keep`, in small steps, until `stop`.
pub async fn prune_from_time_to_time(
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    keep: Duration,
    stop: CancellationToken,
) {
    let rest = (keep / 10).clamp(PAUSE, REST);
    let mut known: Option<(Retention, Moment)> = None;
    while !stop.is_cancelled() {
        let pause = match step(&store, &*clock, keep, &mut known).await {
            Ok(true) => PAUSE,
            Ok(false) => rest,
            Err(error) => {
                tracing::warn!(%error, "old events could not be removed");
                rest
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = clock.sleep(pause) => {}
        }
    }
}

/// Removes some; says whether there may be more.
async fn step(
    store: &Arc<dyn EventStore>,
    clock: &dyn Clock,
    keep: Duration,
    known: &mut Option<(Retention, Moment)>,
) -> Result<bool, StoreError> {
    let now = clock.read();
    let is_first = known.is_none();
    let (mut retention, since) = match known.take() {
        Some(known) => known,
        None => (begin(store, now.wall).await?, now.monotonic),
    };
    let was_ahead = !is_first && !retention.leads.is_empty();
    retention.go_on(now.monotonic.since(since), now.wall, keep);
    if !retention.leads.is_empty() && !was_ahead {
        tracing::warn!(
            clock = %now.wall,
            believed = %retention.reached,
            "the clock is far ahead of what this store has seen, as it is after a long downtime, or if it is wrong: \
             finished events are kept for longer until it has stood by that for as long as events are kept"
        );
    }
    *known = Some((retention.clone(), now.monotonic));
    let moment = Timestamp::from_millis(
        retention.reached.as_millis().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)),
    );
    let pruned = store.prune(moment, retention.reached, STEP).await?;
    if pruned.removed > 0 {
        tracing::debug!(removed = pruned.removed, "finished events are older than store.keep");
    }
    if is_first || pruned.is_through {
        store.note_retention(retention).await?;
    }
    Ok(!pruned.is_through)
}

/// Where retention has come to, or, in a store that never noted it, when its newest event was recorded.
async fn begin(store: &Arc<dyn EventStore>, wall: Timestamp) -> Result<Retention, StoreError> {
    match store.retention().await {
        Ok(Some(noted)) => return Ok(noted),
        Ok(None) => {}
        Err(error @ StoreError::Unreadable(_)) => tracing::error!(%error, "how far retention had come is unknown"),
        Err(error) => return Err(error),
    }
    Ok(Retention::at(newest(store).await?.map_or(wall, |newest| newest.min(wall))))
}

/// When the newest event that can be read was recorded.
async fn newest(store: &Arc<dyn EventStore>) -> Result<Option<Timestamp>, StoreError> {
    let mut before = None;
    loop {
        let page = store.list(&Filter::default(), before, STEP).await?;
        if let Some(newest) = page.events.first() {
            return Ok(Some(newest.received_at));
        }
        if page.next.is_none() {
            return Ok(None);
        }
        before = page.next;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::clock::{ManualClock, Now};
    use crate::store::conformance::{at, fetched, notification, wall};
    use crate::store::memory::MemoryStore;
    use crate::store::{Advanced, Settlement};

    /// A clock on which it is always what somebody waits for.
    struct Hurried(Mutex<Now>);

    #[async_trait]
    impl Clock for Hurried {
        fn now(&self) -> Timestamp {
            self.0.lock().expect("not poisoned").wall
        }

        fn monotonic(&self) -> Moment {
            self.0.lock().expect("not poisoned").monotonic
        }

        async fn sleep_until(&self, moment: Moment) {
            {
                let mut now = self.0.lock().expect("not poisoned");
                let slept = moment.since(now.monotonic);
                *now = Now { wall: now.wall.plus(slept), monotonic: moment.max(now.monotonic) };
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_older_than_store_keep_goes_faster_than_it_came_and_the_rest_stays() {
        const EVENTS: u32 = 4000;
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        for number in 0..EVENTS + 10 {
            let received = at(if number < EVENTS { 0 } else { 100 });
            store.record(&notification(&number.to_string()), received).await.expect("recorded");
            let claim = store.claim(received, &[]).await.expect("answers").expect("the event");
            let advanced = store.advance(claim, fetched(None, b"{}"), received).await.expect("fetched");
            let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
            store.settle(claim, Settlement::Done(None), received).await.expect("settled");
        }
        let clock = Arc::new(Hurried(Mutex::new(Now { wall: wall(61), monotonic: Moment::default() })));
        let stop = CancellationToken::new();
        let keep = Duration::from_mins(1);
        let pruning = prune_from_time_to_time(store.clone(), clock.clone(), keep, stop.clone());
        let watching = async {
            while store.list(&Filter::default(), None, 11).await.expect("listed").events.len() > 10 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        tokio::join!(pruning, watching);
        // A second for these, and two rests of a tenth of a minute, in the first of which the test may look.
        assert!(clock.now() < wall(61 + 1 + 12), "{} for {EVENTS}", clock.now());
    }

    const DAY: Duration = Duration::from_hours(24);

    /// Lets `store` take on an event and finish it when the clock shows that.
    async fn finish(store: &Arc<dyn EventStore>, token: &str, now: Now) {
        store.record(&notification(token), now).await.expect("recorded");
        let claim = store.claim(now, &[]).await.expect("answers").expect("the event");
        let advanced = store.advance(claim, fetched(None, b"{}"), now).await.expect("fetched");
        let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
        store.settle(claim, Settlement::Done(None), now).await.expect("settled");
    }

    async fn kept(store: &Arc<dyn EventStore>) -> usize {
        store.list(&Filter::default(), None, 100).await.expect("listed").events.len()
    }

    /// What one process does with a store, as often as it looks for old events.
    async fn serve(store: &Arc<dyn EventStore>, clock: &ManualClock, keep: Duration, passing: &[Duration]) {
        let mut known = None;
        for passing in passing {
            clock.advance(*passing);
            while step(store, clock, keep, &mut known).await.expect("answers") {}
        }
    }

    #[tokio::test]
    async fn a_start_with_the_clock_far_ahead_forgets_nothing_that_is_new() {
        let keep = 400 * DAY;
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        let clock = ManualClock::starting_at(wall(0));
        for number in 0..30 {
            finish(&store, &number.to_string(), clock.read()).await;
        }
        serve(&store, &clock, keep, &[DAY]).await;
        clock.set(clock.now().plus(401 * DAY));
        finish(&store, "recorded-meanwhile", clock.read()).await;
        serve(&store, &clock, keep, &[Duration::ZERO, DAY, DAY]).await;
        serve(&store, &clock, keep, &[DAY; 100]).await;
        assert_eq!(kept(&store).await, 31);
        // All have truly been kept for that long, however the clock stands.
        serve(&store, &clock, keep, &[DAY; 300]).await;
        assert_eq!(kept(&store).await, 1);
    }

    #[tokio::test]
    async fn a_store_that_has_noted_nothing_goes_by_its_newest_event() {
        let keep = 400 * DAY;
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        let clock = ManualClock::starting_at(wall(0));
        for number in 0..30 {
            finish(&store, &number.to_string(), clock.read()).await;
        }
        clock.set(clock.now().plus(401 * DAY));
        serve(&store, &clock, keep, &[Duration::ZERO, DAY]).await;
        assert_eq!(kept(&store).await, 30);
    }

    #[tokio::test]
    async fn an_event_recorded_years_ahead_does_not_stop_retention() {
        let keep = 10 * DAY;
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        let clock = ManualClock::starting_at(wall(0));
        finish(&store, "before", clock.read()).await;
        serve(&store, &clock, keep, &[Duration::ZERO]).await;
        clock.set(wall(0).plus(5000 * DAY));
        finish(&store, "years-ahead", clock.read()).await;
        serve(&store, &clock, keep, &[Duration::ZERO]).await;
        clock.set(wall(0));
        finish(&store, "after", clock.read()).await;
        finish(&store, "newest", clock.read()).await;
        assert_eq!(kept(&store).await, 4, "nothing is old");
        serve(&store, &clock, keep, &[Duration::ZERO, 11 * DAY]).await;
        assert_eq!(kept(&store).await, 2, "the one from the future, and the newest");
    }

    #[tokio::test]
    async fn a_restart_costs_no_event_any_time_and_a_long_downtime_is_believed_once_it_has_stood() {
        let keep = 10 * DAY;
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        let clock = ManualClock::starting_at(wall(0));
        finish(&store, "old", clock.read()).await;
        finish(&store, "newest", clock.read()).await;
        for _ in 0..10 {
            serve(&store, &clock, keep, &[Duration::ZERO]).await;
            // Down for a day, which counts.
            clock.set(clock.now().plus(DAY));
        }
        assert_eq!(kept(&store).await, 2);
        serve(&store, &clock, keep, &[Duration::ZERO, DAY]).await;
        assert_eq!(kept(&store).await, 1);

        finish(&store, "again", clock.read()).await;
        finish(&store, "newer", clock.read()).await;
        clock.set(clock.now().plus(30 * DAY));
        serve(&store, &clock, keep, &[Duration::ZERO; 3]).await;
        assert_eq!(kept(&store).await, 2, "nobody can tell that from a clock that is wrong");
        serve(&store, &clock, keep, &[DAY; 5]).await;
        serve(&store, &clock, keep, &[DAY; 8]).await;
        assert_eq!(kept(&store).await, 1);
    }

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
