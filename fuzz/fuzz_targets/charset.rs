//! A body in whatever charset, said to be in whatever other, never panics, is the same each time, and keeps what is
//! beside the odd bytes; UTF-8 is kept as it is though a charset of single bytes is named.
#![no_main]

use doorbell::event::charset_of;
use doorbell_fuzz::{assert_name, understand};

const CHARSETS: [&str; 12] = [
    "iso-8859-1", "windows-1251", "koi8-r", "utf-8", "utf-16", "gb18030", "shift_jis", "euc-jp", "euc-kr", "big5",
    "iso-2022-jp", "x-user-defined",
];

libfuzzer_sys::fuzz_target!(|input: (u8, &str, &[u8])| {
    let (number, label, bytes) = input;
    let said = charset_of(&format!("text/xml; charset={label}"));
    assert!(said.as_ref().is_none_or(|said| said.len() <= 40));
    let _ = understand(bytes, said.as_deref());
    let charset = CHARSETS[usize::from(number) % CHARSETS.len()];
    let declaration = format!("<?xml version='1.0' encoding='{charset}'?>");
    let _ = understand(&[declaration.as_bytes(), bytes].concat(), said.as_deref());
    // As a string, whatever it holds: what ends the string or escapes something does not stand in it as ASCII.
    let bytes: Vec<u8> = bytes.iter().map(|byte| if matches!(byte, b'"' | b'\\') { b'x' } else { *byte }).collect();
    let body = [&br#"{"type":"A","payload":{"company":{"uuid":"c","name":""#[..], &bytes, br#""}}}"#].concat();
    let event = understand(&body, Some(charset));
    if let Ok(text) = std::str::from_utf8(&bytes) {
        if number as usize % CHARSETS.len() < 5 {
            assert_name(&body, Some(charset), text);
        }
    } else if matches!(charset, "iso-8859-1" | "windows-1251" | "koi8-r" | "utf-8" | "utf-16") {
        let company = event.expect("understood").payload.company.expect("a company");
        assert_eq!(company.uuid.as_deref(), Some("c"));
    }
});
