use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::EventStore;
use crate::clock::{Clock, Timestamp};

/// Events that are removed at a time, so that notifications never wait long for the writer.
const STEP: usize = 128;
/// The pause between two steps: in all more can go in a second than is ever delivered in one.
const PAUSE: Duration = Duration::from_millis(25);
/// How long nothing is looked for once nothing was found, at most: a tenth of the time that events are kept.
const REST: Duration = Duration::from_mins(10);

/// Removes finished events that are older than `keep`, in small steps, until `stop`.
pub async fn prune_from_time_to_time(
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    keep: Duration,
    stop: CancellationToken,
) {
    let rest = (keep / 10).clamp(PAUSE, REST);
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    while !stop.is_cancelled() {
        let now = clock.now();
        let moment = Timestamp::from_millis(now.as_millis().saturating_sub(keep));
        let pause = match store.prune(moment, STEP).await {
            Ok(0) => rest,
            Ok(removed) => {
                tracing::debug!(removed, "finished events are older than store.keep");
                PAUSE
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::clock::{Moment, Now};
    use crate::store::conformance::{at, fetched, notification, wall};
    use crate::store::memory::MemoryStore;
    use crate::store::{Advanced, Filter, Settlement};

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
        // A second for these, and one rest of a tenth of a minute.
        assert!(clock.now() < wall(61 + 1 + 6), "{} for {EVENTS}", clock.now());
    }
}
