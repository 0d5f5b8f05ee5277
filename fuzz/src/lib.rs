//! What the fuzz targets share.

use std::time::Duration;

use doorbell::event::{BodyError, Event};
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

/// Reads a body twice, and fails if it is not the same or larger than its bytes can account for.
///
/// # Errors
/// If the body is no event.
pub fn understand(body: &[u8], charset: Option<&str>) -> Result<Event, BodyError> {
    let event = within_limit(|| Event::read(body, charset));
    assert_eq!(Event::read(body, charset), event, "read again");
    match &event {
        Ok(event) => {
            let shown = serde_json::to_string(event).expect("an event that was understood is shown as JSON");
            // A control character is six bytes in JSON, and the shortest attribute of an order becomes one with three fields.
            assert!(shown.len() <= 16 * body.len() + 4096, "{} bytes of {}", shown.len(), body.len());
            let _ = format!("{event:?}");
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.len() < 4096 && !words.chars().any(char::is_control), "{words:?}");
        }
    }
    event
}

/// Reads a body whose company has the id `c` and this name.
pub fn assert_name(body: &[u8], charset: Option<&str>, name: &str) {
    if body.len() > doorbell::event::MAX_BODY_BYTES {
        return;
    }
    let event = understand(body, charset).unwrap_or_else(|error| panic!("{error}"));
    let company = event.payload.company.expect("a company");
    assert_eq!(company.uuid.as_deref(), Some("c"));
    let name = Some(name.trim()).filter(|name| !name.is_empty());
    assert_eq!(company.name.as_deref(), name);
}
