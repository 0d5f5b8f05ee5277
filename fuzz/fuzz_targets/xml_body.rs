//! An XML body never panics, what is understood of it is bounded and the same each time, and every text is kept as it
//! is but for its line ends.
#![no_main]

use doorbell_fuzz::{assert_name, understand};

libfuzzer_sys::fuzz_target!(|rest: &[u8]| {
    // The first byte decides that it is XML.
    let _ = understand(&[b"<", rest].concat(), None);
    if let Ok(text) = std::str::from_utf8(rest) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        let body = format!("<e><type>A</type><payload><company><uuid>c</uuid><name>{escaped}</name></company></payload></e>");
        assert_name(body.as_bytes(), None, &text.replace("\r\n", "\n").replace('\r', "\n"));
    }
});
