use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::EventStore;
use crate::clock::{Clock, Timestamp};

/// Events that are removed at a time, so that notifications never wait long for the writer.
const STEP: usize = 64;
/// The pause between two steps.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is looked for once nothing was found, or the store could not be asked.
const REST: Duration = Duration::from_mins(10);

/// Removes finished events that are older than `keep`, in small steps, until `stop`.
pub async fn prune_from_time_to_time(
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    keep: Duration,
    stop: CancellationToken,
) {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    while !stop.is_cancelled() {
        let now = clock.now();
        let moment = Timestamp::from_millis(now.as_millis().saturating_sub(keep));
        let pause = match store.prune(moment, STEP).await {
            Ok(0) => REST,
            Ok(removed) => {
                tracing::debug!(removed, "finished events are older than store.keep");
                PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "old events could not be removed");
                REST
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = clock.sleep_until(now.plus(pause)) => {}
        }
    }
}
