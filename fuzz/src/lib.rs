//! What the fuzz targets share.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long reading one input may take.
const LIMIT: Duration = Duration::from_millis(100);

/// Runs `read` and fails if it took longer than any input may, by the processor's time and not the clock's, so that
/// a busy machine does not count.
pub fn within_limit<T>(read: impl FnOnce() -> T) -> T {
    let begun = processor_time();
    let value = read();
    let taken = processor_time() - begun;
    assert!(taken < LIMIT, "a slow input: {taken:?}");
    value
}

fn processor_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(tv_sec as u64, tv_nsec as u32)
}
