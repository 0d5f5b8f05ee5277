//! A JSON body never panics, what is understood of it is bounded and the same each time, what is well-formed is never
//! called anything else, and every text is kept as it is, whether its control characters are escaped or not.
#![no_main]

use doorbell::event::BodyError;
use doorbell_fuzz::{assert_name, understand};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let event = understand(body, None);
    if serde_json::from_slice::<serde_json::Value>(body).is_ok() {
        assert!(!matches!(event, Err(BodyError::Malformed(_))), "{event:?}");
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let escaped = serde_json::to_string(text).expect("a string");
        let raw = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        for string in [escaped, raw] {
            let body = format!(r#"{{"type":"A","payload":{{"company":{{"uuid":"c","name":{string}}}}}}}"#);
            assert_name(body.as_bytes(), None, text);
        }
    }
});
