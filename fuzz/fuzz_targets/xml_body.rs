//! An XML body never panics, and what is understood of it can be shown.
#![no_main]

use doorbell::event::Event;
use doorbell_fuzz::within_limit;

libfuzzer_sys::fuzz_target!(|rest: &[u8]| {
    // The first byte decides that it is XML.
    let body = [b"<", rest].concat();
    if let Ok(event) = within_limit(|| Event::read(&body, None)) {
        serde_json::to_string(&event).expect("an event that was understood is shown as JSON");
    }
});
