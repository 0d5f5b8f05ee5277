//! Which of the formats that we write a caller prefers.

use actix_web::HttpRequest;
use actix_web::http::header::{ACCEPT, Accept, Header, Quality, QualityItem};
use actix_web::mime::Mime;

/// Whether the `Accept` of a request prefers XML to JSON; a request without one is content with JSON.
pub(crate) fn prefers_xml(request: &HttpRequest) -> bool {
    request.headers().contains_key(ACCEPT) && Accept::parse(request).is_ok_and(|accept| ranks_xml_first(&accept))
}

/// Whether XML is preferred to JSON. Where both are as welcome, the one that is named wins over a wildcard, and JSON
/// over XML.
fn ranks_xml_first(accept: &Accept) -> bool {
    let best = |names: &[&str]| {
        let rank = |range: &QualityItem<Mime>| {
            let specificity = match (range.item.type_().as_str(), range.item.subtype().as_str()) {
                ("*", _) => 0,
                ("application" | "text", "*") => 1,
                _ if names.contains(&range.item.essence_str()) => 2,
                _ => return None,
            };
            Some((specificity, range.quality))
        };
        // The most specific range decides how welcome a format is.
        let (specificity, quality) = accept.iter().filter_map(rank).max_by_key(|(specificity, _)| *specificity)?;
        Some((quality, specificity))
    };
    let xml = best(&["application/xml", "text/xml"]).filter(|(quality, _)| *quality > Quality::ZERO);
    xml > best(&["application/json"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_given_to_those_who_prefer_it_and_json_to_everybody_else() {
        for (accept, is_xml) in [
            ("application/xml", true),
            ("text/xml", true),
            ("application/json", false),
            ("*/*", false),
            ("application/*", false),
            ("application/xml, application/json", false),
            ("application/xml, */*", true),
            ("application/json, */*", false),
            ("application/json;q=0.5, application/xml;q=0.9", true),
            ("application/json;q=0.9, application/xml;q=0.5", false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/xml;q=0, */*", false),
            ("application/xml;q=0", false),
            ("application/json;q=0, */*;q=0.1", true),
            ("text/html", false),
        ] {
            let request = actix_web::test::TestRequest::default().insert_header((ACCEPT, accept)).to_request();
            let parsed = Accept::parse(&request).expect("well-formed");
            assert_eq!(ranks_xml_first(&parsed), is_xml, "{accept}");
        }
    }
}
