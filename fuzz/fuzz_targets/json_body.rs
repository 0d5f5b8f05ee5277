//! A JSON body never panics, and what is understood of it can be shown.
#![no_main]

use doorbell::event::Event;
use doorbell_fuzz::within_limit;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    if let Ok(event) = within_limit(|| Event::read(body, None)) {
        serde_json::to_string(&event).expect("an event that was understood is shown as JSON");
        let _ = format!("{event:?}");
    }
});
