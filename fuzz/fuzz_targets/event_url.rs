//! An event URL that is accepted lies in a configured marketplace, whoever reads it, and is stable.
#![no_main]

use doorbell::event::{BaseUrl, EventId, EventUrl};
use doorbell_fuzz::within_limit;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let bases = ["https://market.example", "http://127.0.0.1:8090", "https://shared.example:8443/store"]
        .map(|base| BaseUrl::parse(base).expect("a base URL"));
    if let Ok(url) = within_limit(|| EventUrl::parse(text, &bases)) {
        let base = url.marketplace().as_str();
        assert!(url.as_str().starts_with(&format!("{base}/")), "{text}: {url}");
        assert!(url.result_url().starts_with(&format!("{base}/")), "{text}");
        assert!(!url.token().is_empty(), "{text}");
        let again = EventUrl::parse(url.as_str(), &bases).expect("is accepted again");
        assert_eq!((again.as_str(), again.result_url()), (url.as_str(), url.result_url()), "{text}");
        assert_eq!(EventId::of("a", &again), EventId::of("a", &url), "{text}");
    }
});
