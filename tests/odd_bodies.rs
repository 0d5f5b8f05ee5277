//! Odd bodies through the public listener: each is served by the marketplace, understood, handled and kept as it came.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use doorbell::event::AccountIdentifier;
use doorbell::handler::{Accept, EventHandler, HandlerResult, NewAccount, Outcome, SubscriptionOrder, retry};
use flate2::Compression;
use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};

use serde_json::{Value, json};

use crate::json_documents::OPEN_STRINGS;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, json};
use crate::support::{PATIENCE, configuration};

/// A body, how it is served, and the name of the company in it.
struct Odd {
    what: String,
    headers: Vec<(&'static str, &'static str)>,
    /// As it is served.
    served: Vec<u8>,
    /// As it is kept: without its content coding.
    body: Vec<u8>,
    name: String,
}

impl Odd {
    fn new(what: &str, content_type: &'static str, body: Vec<u8>, name: &str) -> Self {
        let headers = vec![("content-type", content_type)];
        Self { what: what.to_owned(), headers, served: body.clone(), body, name: name.to_owned() }
    }

    fn packed(what: &str, encodings: &[&'static str], pack: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let body = order("Café");
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(encodings.iter().map(|encoding| ("content-encoding", *encoding)));
        Self {
            what: what.to_owned(),
            headers,
            served: pack(body.as_bytes()),
            body: body.into_bytes(),
            name: "Café".into(),
        }
    }
}

/// What the handler was given at each run, by the event's id: the company's name and the first quantity.
///
/// At the first run it asks for another, so that the event is read from the store once more.
#[derive(Debug, Default, Clone)]
struct Seen(Arc<Mutex<HashMap<String, Vec<Run>>>>);

type Run = (String, String);

#[async_trait]
impl EventHandler for Seen {
    async fn subscription_order(&self, event: SubscriptionOrder) -> HandlerResult<NewAccount> {
        let name = event.company.and_then(|company| company.name).unwrap_or_default();
        let quantity = event.order.items.first().and_then(|item| item.quantity.clone());
        let quantity = quantity.map(|quantity| quantity.as_str().to_owned()).unwrap_or_default();
        let id = event.context.event_id.to_string();
        let runs = {
            let mut seen = self.0.lock().expect("unpoisoned");
            let runs = seen.entry(id.clone()).or_default();
            runs.push((name, quantity));
            runs.len()
        };
        if runs == 1 {
            return Err(retry("once more"));
        }
        Ok(Outcome::account(AccountIdentifier::new(id)?, "welcome"))
    }
}

/// The event with this token in the marketplace, once it satisfies `condition`.
async fn until(receiver: &Receiver, token: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let reached = async {
        loop {
            let url = format!("{}/api/v1/events?limit=200", receiver.admin);
            let events = json(receiver.client.get(url).send().await.expect("answers")).await;
            let mut events = events["events"].as_array().expect("a list").iter();
            let event = events.find(|event| event["token"] == token).expect("recorded");
            if condition(event) {
                return event.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("waited in vain for event {token}"))
}

/// Serves each body, and asserts that each event ends done, that the handler saw the right name and quantity both when the
/// body came and when it was read from the store, and that the body is kept byte for byte.
async fn assert_understood(cases: Vec<Odd>) {
    let marketplace = Marketplace::start().await;
    let seen = Seen::default();
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), seen.clone()).await;
    for (number, odd) in cases.iter().enumerate() {
        let url = marketplace.event_with(&number.to_string(), &odd.headers, &odd.served);
        assert_eq!(receiver.notify("/create", &url).await.status().as_u16(), 202);
    }
    for (number, Odd { what, body, name, .. }) in cases.iter().enumerate() {
        let has_failed = |event: &Value| event["lastError"].as_str().is_some_and(|error| !error.contains("once more"));
        let event = until(&receiver, &number.to_string(), |event| event["state"] == "done" || has_failed(event)).await;
        assert_eq!(event["state"], "done", "{what}: {event}");
        let id = event["id"].as_str().expect("an id");
        let understood = seen.0.lock().expect("unpoisoned").get(id).cloned().expect("handled");
        let expected = (name.clone(), "1.10".to_owned());
        assert_eq!(understood, [expected.clone(), expected], "{what}");
        let kept = receiver.store.load(id.parse().expect("an id"), true).await.expect("read").expect("kept");
        assert_eq!(kept.body.as_ref(), Some(body), "{what}");
        if let Ok(text) = std::str::from_utf8(body) {
            let url = format!("{}/api/v1/events/{id}", receiver.admin);
            let shown = json(receiver.client.get(url).send().await.expect("answers")).await;
            assert_eq!(shown["body"], json!(text), "{what}");
        }
    }
}

/// A JSON order of the company with this name, which is not escaped.
fn order(name: &str) -> String {
    format!(
        r#"{{"type":"SUBSCRIPTION_ORDER","payload":{{"company":{{"name":"{name}"}},"order":{{"editionCode":"A","items":[{{"unit":"USER","quantity":1.10}}]}}}}}}"#
    )
}

/// An XML order of the company with this name, which is not escaped, with this in front.
fn xml_order(declaration: &str, name: &str) -> String {
    format!(
        "{declaration}<event><type>SUBSCRIPTION_ORDER</type><payload><company><name>{name}</name></company>\
         <order><editionCode>A</editionCode><item><unit>USER</unit><quantity>1.10</quantity></item></order></payload></event>"
    )
}

/// The text in ISO-8859-1.
fn latin_1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).expect("in ISO-8859-1")).collect()
}

/// The text in windows-1252, of whose own characters it has two.
fn windows_1252(text: &str) -> Vec<u8> {
    let byte = |character| match character {
        '€' => 0x80,
        '’' => 0x92,
        other => u8::try_from(u32::from(other)).expect("in windows-1252"),
    };
    text.chars().map(byte).collect()
}

fn utf_16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

fn utf_32(text: &str, unit: fn(u32) -> [u8; 4]) -> Vec<u8> {
    text.chars().flat_map(|character| unit(u32::from(character))).collect()
}

/// A JSON order whose company's name is this JSON, of any bytes.
fn order_of_bytes(name: &[u8]) -> Vec<u8> {
    let whole = order("#");
    let (before, behind) = whole.split_once("\"#\"").expect("its place");
    [before.as_bytes(), name, behind.as_bytes()].concat()
}

fn json_of(what: &str, name: &[u8], understood: &str) -> Odd {
    Odd::new(what, "application/json", order_of_bytes(name), understood)
}

#[tokio::test]
async fn every_string_that_json_s_test_suite_leaves_open_is_understood() {
    let suite = OPEN_STRINGS.iter().map(|(case, string, name)| json_of(case, string, name.trim()));
    assert_understood(suite.collect()).await;
}

#[tokio::test]
async fn odd_characters_in_a_string_are_understood_and_no_event_is_refused_for_them() {
    assert_understood(vec![
        json_of("a name cut within an emoji", br#""Zo\ud83d""#, "Zo\u{fffd}"),
        json_of("a tab", b"\"Zo\te\"", "Zo\te"),
        json_of("a zero", b"\"Zo\0e\"", "Zo\0e"),
        json_of("a line break", b"\"Zo\r\ne\"", "Zo\r\ne"),
        json_of("Latin-1 that says nothing", b"\"Zo\xe9\"", "Zo\u{fffd}"),
        Odd::new(
            "Latin-1 that says UTF-8",
            "application/json;charset=UTF-8",
            order_of_bytes(b"\"Zo\xe9 B\""),
            "Zo\u{fffd} B",
        ),
        json_of("a truncated sequence", b"\"Zo\xc3\"", "Zo\u{fffd}"),
        json_of("an overlong sequence", b"\"a\xc0\xafb\"", "a\u{fffd}\u{fffd}b"),
        json_of("a lone continuation byte", b"\"a\x80b\"", "a\u{fffd}b"),
        Odd::new(
            "XML that says UTF-8 and is Latin-1",
            "text/xml",
            latin_1(&xml_order("<?xml version=\"1.0\" encoding=\"UTF-8\"?>", "Zoé")),
            "Zo\u{fffd}",
        ),
        Odd::new(
            "XML with odd references",
            "text/xml",
            xml_order("", "A&#x0;&#xD800;&eacute; & &b;").into_bytes(),
            "A\u{fffd}\u{fffd}é & &b;",
        ),
        Odd::new("XML with control characters", "text/xml", xml_order("", "A\u{1}\u{0}B").into_bytes(), "A\u{1}\0B"),
    ])
    .await;
}

#[tokio::test]
async fn a_body_is_decoded_by_its_byte_order_mark_or_its_declaration() {
    let declared = |charset: &str, name: &str| xml_order(&format!("<?xml version='1.0' encoding='{charset}'?>"), name);
    let bell = "Zoé 🔔";
    assert_understood(vec![
        Odd::new("ISO-8859-1", "text/xml", latin_1(&declared("ISO-8859-1", "Zoé Ünsal")), "Zoé Ünsal"),
        Odd::new("windows-1252", "text/xml", windows_1252(&declared("windows-1252", "Zoé’s €")), "Zoé’s €"),
        Odd::new(
            "windows-1252 that says ISO-8859-1",
            "text/xml",
            windows_1252(&declared("iso-8859-1", "Zoé’s €")),
            "Zoé’s €",
        ),
        Odd::new("US-ASCII", "text/xml", declared("US-ASCII", "Zoe").into_bytes(), "Zoe"),
        Odd::new(
            "a declaration before the header",
            "text/xml;charset=utf-8",
            latin_1(&declared("ISO-8859-1", "Zoé")),
            "Zoé",
        ),
        Odd::new("UTF-8 that says ISO-8859-1", "text/xml", declared("ISO-8859-1", bell).into_bytes(), bell),
        Odd::new("UTF-8 that says UTF-16", "text/xml", declared("UTF-16", bell).into_bytes(), bell),
        Odd::new("a charset that nobody knows", "text/xml", declared("klingon", bell).into_bytes(), bell),
        Odd::new(
            "JSON with a mark of UTF-8",
            "application/json",
            format!("\u{feff}{}", order(bell)).into_bytes(),
            bell,
        ),
        Odd::new(
            "XML in UTF-16 with a mark",
            "text/xml",
            utf_16(&format!("\u{feff}{}", declared("UTF-16", bell)), u16::to_le_bytes),
            bell,
        ),
        Odd::new(
            "XML in big-endian UTF-16 with a mark",
            "text/xml",
            utf_16(&format!("\u{feff}{}", declared("UTF-16", bell)), u16::to_be_bytes),
            bell,
        ),
        Odd::new(
            "XML in UTF-16 without a mark",
            "text/xml",
            utf_16(&declared("UTF-16LE", bell), u16::to_le_bytes),
            bell,
        ),
        Odd::new(
            "JSON in UTF-16 with a mark",
            "application/json",
            utf_16(&format!("\u{feff}{}", order(bell)), u16::to_be_bytes),
            bell,
        ),
        Odd::new("JSON in UTF-16", "application/json", utf_16(&order(bell), u16::to_le_bytes), bell),
        Odd::new("JSON in big-endian UTF-16", "application/json", utf_16(&order(bell), u16::to_be_bytes), bell),
        Odd::new("JSON in UTF-32", "application/json", utf_32(&order(bell), u32::to_le_bytes), bell),
        Odd::new(
            "JSON in big-endian UTF-32 with a mark",
            "application/json",
            utf_32(&format!("\u{feff}{}", order(bell)), u32::to_be_bytes),
            bell,
        ),
        Odd::new(
            "half a pair in UTF-16",
            "application/json",
            utf_16(&order("Zo#"), |unit| if unit == 0x23 { [0x3d, 0xd8] } else { unit.to_le_bytes() }),
            "Zo\u{fffd}",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_is_decoded_by_the_charset_of_its_content_type() {
    assert_understood(vec![
        Odd::new(
            "JSON in ISO-8859-1",
            "application/json;charset=ISO-8859-1",
            latin_1(&order("Zoé Ünsal")),
            "Zoé Ünsal",
        ),
        Odd::new(
            "JSON in windows-1252",
            "application/json; charset=\"windows-1252\"",
            windows_1252(&order("Zoé’s €")),
            "Zoé’s €",
        ),
        Odd::new("XML in ISO-8859-1", "text/xml; Charset=latin1", latin_1(&xml_order("", "Zoé")), "Zoé"),
        Odd::new(
            "a declaration that the bytes contradict",
            "text/xml;charset=ISO-8859-1",
            latin_1(&xml_order("<?xml version='1.0' encoding='UTF-8'?>", "Zoé")),
            "Zoé",
        ),
        Odd::new(
            "JSON in UTF-16",
            "application/json;charset=utf-16",
            utf_16(&order("Zoé 🔔"), u16::to_be_bytes),
            "Zoé 🔔",
        ),
        Odd::new(
            "UTF-8 that is said to be ISO-8859-1",
            "application/json;charset=ISO-8859-1",
            order("Zoé 🔔").into_bytes(),
            "Zoé 🔔",
        ),
        Odd::new(
            "UTF-8 that is said to be UTF-16",
            "application/json;charset=UTF-16",
            order("Zoé 🔔").into_bytes(),
            "Zoé 🔔",
        ),
        Odd::new("a charset that nobody knows", "application/json;charset=klingon", order("Zoé").into_bytes(), "Zoé"),
        json_in("gbk", b"\xb1\xb1\xbe\xa9 \xb9\xab\xcb\xbe", "北京 公司"),
        json_in("Shift_JIS", b"\x93\x8c\x8b\x9e\x82\xcc", "東京の"),
        json_in("gbk", "北京".as_bytes(), "北京"),
        json_in("GB18030", "Café Zoë Ünsal Åse".as_bytes(), "Café Zoë Ünsal Åse"),
        json_in("shift_jis", "東京".as_bytes(), "東京"),
        json_in("Big5", "Zoé 🔔".as_bytes(), "Zoé 🔔"),
        json_in("euc-kr", "서울".as_bytes(), "서울"),
        json_in("iso-2022-jp", "Zoé".as_bytes(), "Zoé"),
        // One letter is no evidence against what the marketplace says.
        json_in("gbk", b"\xc3\xa9", "茅"),
    ])
    .await;
}

/// A JSON order of the company whose name has these bytes, which are said to be in this charset.
fn json_in(charset: &str, name: &[u8], understood: &str) -> Odd {
    let quoted = [b"\"", name, b"\""].concat();
    let header = [("content-type", Box::leak(format!("application/json;charset={charset}").into_boxed_str()) as &_)];
    let mut odd = Odd::new(&format!("{understood} in {charset}"), "", order_of_bytes(&quoted), understood);
    odd.headers = header.to_vec();
    odd
}

#[tokio::test]
async fn a_line_end_in_ascii_behind_a_body_in_wider_units_is_no_part_of_it() {
    let bell = "Zoé 🔔";
    let mut cases = Vec::new();
    for line_end in [&b"\n"[..], b"\r\n"] {
        for (charset, body) in [
            ("UTF-16LE", utf_16(&order(bell), u16::to_le_bytes)),
            ("UTF-16BE", utf_16(&format!("\u{feff}{}", order(bell)), u16::to_be_bytes)),
            ("UTF-32LE", utf_32(&order(bell), u32::to_le_bytes)),
            ("UTF-32BE", utf_32(&order(bell), u32::to_be_bytes)),
        ] {
            let body = [&body, line_end].concat();
            cases.push(Odd::new(&format!("{charset} and {line_end:?}"), "application/json", body, bell));
        }
    }
    // One in the units of the body is.
    cases.push(Odd::new(
        "UTF-16 with a line end of its own",
        "text/xml",
        utf_16(&xml_order("", bell), u16::to_be_bytes),
        bell,
    ));
    assert_understood(cases).await;
}

#[tokio::test]
async fn an_answer_is_read_however_its_coding_is_spelt() {
    assert_understood(vec![
        Odd::packed("gzip", &["gzip"], gzip),
        Odd::packed("gzip in capitals", &["GZIP"], gzip),
        Odd::packed("x-gzip", &["x-gzip"], gzip),
        Odd::packed("deflate in a zlib stream", &["deflate"], zlib),
        Odd::packed("bare deflate", &["Deflate"], bare),
        Odd::packed("gzip that says nothing", &[], gzip),
        Odd::packed("two codings", &["deflate, GZIP"], |bytes| gzip(&zlib(bytes))),
        Odd::packed("two codings in two fields", &["gzip", "deflate"], |bytes| bare(&gzip(bytes))),
        Odd::packed("identity", &["Identity"], <[u8]>::to_vec),
        Odd::packed("an empty value", &[""], <[u8]>::to_vec),
        Odd::packed("a charset by mistake", &["UTF-8"], <[u8]>::to_vec),
    ])
    .await;
}

#[tokio::test]
async fn a_wrong_content_encoding_is_said_to_be_that_and_the_event_is_done_once_it_is_right() {
    let plain = order("Acme").into_bytes();
    let cut = gzip(&plain)[..60].to_vec();
    let cases = [
        ("gzip", plain.clone(), "says Content-Encoding gzip, and its answer is not"),
        ("X-GZIP", zlib(&plain), "says Content-Encoding x-gzip, and its answer is not"),
        ("gzip", cut, "says Content-Encoding gzip, and its answer breaks off"),
        ("deflate", plain.clone(), "says Content-Encoding deflate, and its answer is not"),
        ("br", plain.clone(), "says Content-Encoding br, which was not asked for"),
        ("gzip, zstd", gzip(&plain), "says Content-Encoding zstd, which was not asked for"),
    ];
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    for (number, (encoding, served, words)) in cases.into_iter().enumerate() {
        let token = number.to_string();
        let url = marketplace.event_with(&token, &[("content-encoding", encoding)], &served);
        receiver.notify("/create", &url).await;
        let failed = until(&receiver, &token, |event| !event["lastError"].is_null()).await;
        let error = failed["lastError"].as_str().expect("a reason");
        assert!(error.contains(words) && !error.contains("cannot be reached"), "{encoding}: {error}");
        marketplace.event_with(&token, &[("content-encoding", "gzip")], &gzip(&plain));
        until(&receiver, &token, |event| event["state"] == "done").await;
    }
}

#[tokio::test]
async fn a_status_counts_whatever_is_wrong_with_what_comes_along() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    // A token that is refused is replaced at once, and an error is told by its status.
    marketplace.with(|state| state.read_twists.extend([Twist::Mislabel(401), Twist::Mislabel(503)]));
    // Taken is taken: it is not told again.
    marketplace.with(|state| state.result_twists.push_back(Twist::TakeAndMislabel(200)));
    receiver.notify("/create", &marketplace.order("1")).await;
    let event = until(&receiver, "1", |event| event["state"] == "done").await;
    assert!(!event.to_string().contains("Content-Encoding"), "{event}");
    marketplace.with(|state| {
        assert_eq!((state.arrived["token"], state.arrived["read"], state.arrived["result"]), (2, 3, 1), "{state:?}");
    });
}

#[tokio::test]
async fn what_is_asked_for_is_what_can_be_read() {
    let marketplace = Marketplace::start().await;
    let receiver = Receiver::start(&configuration(&marketplace.base_url, "memory:"), Accept).await;
    receiver.notify("/create", &marketplace.order("1")).await;
    marketplace.until_settled("1").await;
    assert_eq!(marketplace.seen("1").accept_encoding.as_deref(), Some("gzip, deflate"));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    packed(GzEncoder::new(bytes, Compression::fast()))
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    packed(ZlibEncoder::new(bytes, Compression::fast()))
}

fn bare(bytes: &[u8]) -> Vec<u8> {
    packed(DeflateEncoder::new(bytes, Compression::fast()))
}

fn packed(mut encoder: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).expect("packs");
    bytes
}
