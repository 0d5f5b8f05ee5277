//! A notification's query never panics, and what is kept of it is bounded.
#![no_main]

use doorbell::event::NotificationQuery;
use doorbell_fuzz::within_limit;

libfuzzer_sys::fuzz_target!(|query: &str| {
    if let Ok(read) = within_limit(|| NotificationQuery::parse(query)) {
        assert!(!read.event_url.is_empty());
        assert!(read.parameters.len() <= 2048);
    }
});
