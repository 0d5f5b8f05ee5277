//! Removing what is old, from time to time.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::history::{Filter, History, Pruned};
use super::retention::Retention;
use crate::clock::{Clock, Moment, Timestamp};

/// Events that are removed at a time, so that notifications never wait long for the writer.
const STEP: usize = 128;
/// The pause between two steps: in all more can go in a second than is ever delivered in one.
const PAUSE: Duration = Duration::from_millis(25);
/// The pause between two looks that find nothing to remove: there is no hurry, and whoever records an event comes first.
const PAUSE_OF_SEARCH: Duration = Duration::from_millis(200);
/// How long nothing is looked for once nothing was found, at most: a tenth of the time that events are kept.
const REST: Duration = Duration::from_mins(10);

/// Removes finished events that are older than `keep`, in small steps, until `stop`.
pub async fn prune_from_time_to_time(
    store: Arc<dyn History>,
    clock: Arc<dyn Clock>,
    keep: Duration,
    stop: CancellationToken,
) {
    let rest = (keep / 10).clamp(PAUSE, REST);
    let mut known: Option<(Retention, Moment)> = None;
    while !stop.is_cancelled() {
        let pause = match step(&store, &*clock, keep, &mut known).await {
            Ok(Step::Removed) => PAUSE,
            Ok(Step::Searched) => PAUSE_OF_SEARCH.min(rest),
            Ok(Step::Through) => rest,
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

/// What one step of retention came to.
enum Step {
    /// Events are gone, and there may be more.
    Removed,
    /// Nothing was found yet, and there is more to look at.
    Searched,
    /// There is nothing more to look at for now.
    Through,
}

/// Removes some; says what that came to.
async fn step(
    store: &Arc<dyn History>,
    clock: &dyn Clock,
    keep: Duration,
    known: &mut Option<(Retention, Moment)>,
) -> Result<Step, StoreError> {
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
    Ok(match pruned {
        Pruned { is_through: true, .. } => Step::Through,
        Pruned { removed: 0, .. } => Step::Searched,
        Pruned { .. } => Step::Removed,
    })
}

/// Where retention has come to, or, in a store that never noted it, when its newest event was recorded.
async fn begin(store: &Arc<dyn History>, wall: Timestamp) -> Result<Retention, StoreError> {
    match store.retention().await {
        Ok(Some(noted)) => return Ok(noted),
        Ok(None) => {}
        Err(error @ StoreError::Unreadable(_)) => tracing::error!(%error, "how far retention had come is unknown"),
        Err(error) => return Err(error),
    }
    Ok(Retention::at(newest(store).await?.map_or(wall, |newest| newest.min(wall))))
}

/// When the newest event that can be read was recorded.
async fn newest(store: &Arc<dyn History>) -> Result<Option<Timestamp>, StoreError> {
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
    use crate::store::conformance::{at, claim, fetched, notification, wall};
    use crate::store::memory::MemoryStore;
    use crate::store::{Advanced, Completion, EventStore};

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
            let claim = claim(&*store, received).await.expect("the event");
            let advanced = store.advance(claim, &fetched(None, b"{}"), received).await.expect("fetched");
            let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
            store.settle(claim, &Completion::Done(None), received).await.expect("settled");
        }
        let clock = Arc::new(Hurried(Mutex::new(Now { wall: wall(61), monotonic: Moment::default() })));
        let stop = CancellationToken::new();
        let keep = Duration::from_mins(1);
        let pruning = prune_from_time_to_time(store.clone() as _, clock.clone(), keep, stop.clone());
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
        let claim = claim(&**store, now).await.expect("the event");
        let advanced = store.advance(claim, &fetched(None, b"{}"), now).await.expect("fetched");
        let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
        store.settle(claim, &Completion::Done(None), now).await.expect("settled");
    }

    async fn kept(store: &Arc<dyn EventStore>) -> usize {
        store.list(&Filter::default(), None, 100).await.expect("listed").events.len()
    }

    /// What one process does with a store, as often as it looks for old events.
    async fn serve(store: &Arc<dyn EventStore>, clock: &ManualClock, keep: Duration, passing: &[Duration]) {
        let mut known = None;
        for passing in passing {
            clock.advance(*passing);
            while !matches!(
                step(&(Arc::clone(store) as _), clock, keep, &mut known).await.expect("answers"),
                Step::Through
            ) {}
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
}
