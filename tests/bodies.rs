//! What is understood of bodies that differ from every table of the wire.

use doorbell::event::{BodyError, Event, charset_of};
use encoding_rs::Encoding;
use proptest::prelude::*;
use serde_json::{Value, json};

fn understood(body: &str) -> Result<Value, BodyError> {
    Ok(serde_json::to_value(Event::read(body.as_bytes(), None)?).expect("serializes"))
}

/// A JSON body with this payload.
fn with(payload: &str) -> String {
    format!(r#"{{"type":"SUBSCRIPTION_ORDER","payload":{payload}}}"#)
}

/// An XML body with this payload.
fn xml(payload: &str) -> String {
    format!("<event><type>SUBSCRIPTION_ORDER</type><payload>{payload}</payload></event>")
}

#[test]
#[rustfmt::skip]
fn every_odd_body_is_understood_as_far_as_it_goes() {
    let order = |inside: &str| with(&format!(r#"{{"order":{inside}}}"#));
    let xml_order = |inside: &str| xml(&format!("<order>{inside}</order>"));
    let quantity = "/payload/order/items/0/quantity";
    let items = "/payload/order/items";
    let configuration = "/payload/configuration";
    let name = "/payload/company/name";
    for (odd, body, place, expected) in [
        // Types and flags are open.
        ("a type nobody has seen", r#"{"type":"SUBSCRIPTION_MOVED"}"#.into(), "/type", json!("SUBSCRIPTION_MOVED")),
        ("a type with spaces around", r#"{"type":" USER_UPDATED\n"}"#.into(), "/type", json!("USER_UPDATED")),
        ("a type in lower case stays as it came", r#"{"type":"user_updated"}"#.into(), "/type", json!("user_updated")),
        ("a flag nobody has seen", r#"{"type":"A","flag":"SHADOW"}"#.into(), "/flag", json!("SHADOW")),
        ("an empty flag", r#"{"type":"A","flag":""}"#.into(), "/flag", Value::Null),
        ("a pricing duration nobody has seen", order(r#"{"pricingDuration":"WEEKLY"}"#), "/payload/order/pricingDuration", json!("WEEKLY")),
        ("an account status nobody has seen", with(r#"{"account":{"status":"PAUSED"}}"#), "/payload/account/status", json!("PAUSED")),
        ("a notice nobody has seen", with(r#"{"notice":{"type":"MOVED"}}"#), "/payload/notice/type", json!("MOVED")),
        ("a unit nobody has seen", order(r#"{"items":[{"unit":"PARSEC","quantity":1}]}"#), "/payload/order/items/0/unit", json!("PARSEC")),
        // The payload's maps.
        ("configuration as an empty list", with(r#"{"configuration":[]}"#), configuration, json!({})),
        ("configuration as null", with(r#"{"configuration":null}"#), configuration, json!({})),
        ("configuration as text", with(r#"{"configuration":"none"}"#), configuration, json!({})),
        ("configuration absent", with("{}"), configuration, json!({})),
        ("a configuration value that is a number", with(r#"{"configuration":{"seats":5}}"#), configuration, json!({"seats": "5"})),
        ("a configuration value that is a boolean", with(r#"{"configuration":{"on":true}}"#), configuration, json!({"on": "true"})),
        ("a configuration value that is null", with(r#"{"configuration":{"a":null,"b":"c"}}"#), configuration, json!({"b": "c"})),
        ("a configuration value that is an object", with(r#"{"configuration":{"a":{"x":1},"b":"c"}}"#), configuration, json!({"b": "c"})),
        ("configuration as a list of keys and values", with(r#"{"configuration":[{"key":"a","value":"b"}]}"#), configuration, json!({"a": "b"})),
        ("a configuration key named entry", with(r#"{"configuration":{"entry":"main"}}"#), configuration, json!({"entry": "main"})),
        ("attributes as an empty list", with(r#"{"user":{"uuid":"u","attributes":[]}}"#), "/payload/user/attributes", json!({})),
        ("attributes as null", with(r#"{"user":{"uuid":"u","attributes":null}}"#), "/payload/user/attributes", json!({})),
        ("attributes as a map", with(r#"{"user":{"attributes":{"a":"b"}}}"#), "/payload/user/attributes", json!({"a": "b"})),
        // Items and quantities.
        ("items as one object", order(r#"{"items":{"unit":"USER","quantity":"3"}}"#), quantity, json!("3")),
        ("items as null", order(r#"{"editionCode":"A","items":null}"#), items, json!([])),
        ("items as text", order(r#"{"editionCode":"A","items":"none"}"#), items, json!([])),
        ("items that hold null", order(r#"{"items":[null,{"unit":"USER","quantity":"3"}]}"#), quantity, json!("3")),
        ("items named item", order(r#"{"item":[{"unit":"USER","quantity":"3"}]}"#), quantity, json!("3")),
        ("item as one object", order(r#"{"item":{"unit":"USER","quantity":"3"}}"#), quantity, json!("3")),
        ("items that wrap item", order(r#"{"items":{"item":[{"unit":"USER","quantity":"3"}]}}"#), quantity, json!("3")),
        ("an item without a quantity", order(r#"{"items":[{"unit":"USER"}]}"#), quantity, Value::Null),
        ("a quantity as a number", order(r#"{"items":[{"quantity":25}]}"#), quantity, json!("25")),
        ("a decimal quantity keeps its last zero", order(r#"{"items":[{"quantity":1.10}]}"#), quantity, json!("1.10")),
        ("a decimal quantity in quotes", order(r#"{"items":[{"quantity":"0.3333333333333333333333"}]}"#), quantity, json!("0.3333333333333333333333")),
        ("a quantity beyond 64 bits", order(r#"{"items":[{"quantity":18446744073709551616}]}"#), quantity, json!("18446744073709551616")),
        ("a quantity with an exponent", order(r#"{"items":[{"quantity":1E3}]}"#), quantity, json!("1E3")),
        ("a negative quantity", order(r#"{"items":[{"quantity":"-1"}]}"#), quantity, json!("-1")),
        // Objects where something else was promised, and the other way round.
        ("a payload that is null", r#"{"type":"A","payload":null}"#.into(), "/payload/order", Value::Null),
        ("a payload that is a list", r#"{"type":"A","payload":[]}"#.into(), "/payload/order", Value::Null),
        ("a user that is an empty object", with(r#"{"user":{}}"#), "/payload/user", Value::Null),
        ("a user that is an empty list", with(r#"{"user":[]}"#), "/payload/user", Value::Null),
        ("a creator that is absent", with("{}"), "/creator", Value::Null),
        ("an account identifier that is a number", with(r#"{"account":{"accountIdentifier":42}}"#), "/payload/account/accountIdentifier", json!("42")),
        ("an account identifier of spaces", with(r#"{"account":{"accountIdentifier":"  ","status":"ACTIVE"}}"#), "/payload/account/accountIdentifier", Value::Null),
        ("links as null", r#"{"type":"A","links":null}"#.into(), "/links", json!([])),
        ("links as one object", r#"{"type":"A","links":{"rel":"samlIdp","href":"h"}}"#.into(), "/links/0/rel", json!("samlIdp")),
        ("a free trial in quotes", order(r#"{"freeTrial":{"active":"true"}}"#), "/payload/order/freeTrial", json!(true)),
        ("a field that is given twice: the last one counts", r#"{"type":"A","type":"B"}"#.into(), "/type", json!("B")),
        ("field names in lower case", r#"{"type":"A","payload":{"account":{"accountidentifier":"a"}}}"#.into(), "/payload/account/accountIdentifier", json!("a")),
        ("fields nobody has seen", r#"{"type":"A","future":{"deep":[1,{"x":2}]},"payload":{"new":1,"account":{"accountIdentifier":"a"}}}"#.into(), "/payload/account/accountIdentifier", json!("a")),
        ("a byte-order mark", "\u{feff}{\"type\":\"A\"}".into(), "/type", json!("A")),
        ("white space around", "\r\n\t {\"type\":\"A\"} \n".into(), "/type", json!("A")),
        ("an escaped character beyond the first plane", r#"{"type":"A","payload":{"company":{"name":"\ud83d\udd14"}}}"#.into(), "/payload/company/name", json!("🔔")),
        // XML.
        ("XML without a declaration", xml("<company><name>Acme</name></company>"), "/payload/company/name", json!("Acme")),
        ("XML with a declaration and a comment", format!("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?><!-- c -->{}", xml("<company><name>Acme</name></company>")), "/payload/company/name", json!("Acme")),
        ("XML with white space in its text", xml("<company><name>\n   Acme \t</name></company>"), "/payload/company/name", json!("Acme")),
        ("XML names in lower case", xml("<account><accountidentifier>a-1</accountidentifier></account>"), "/payload/account/accountIdentifier", json!("a-1")),
        ("XML with a repeated item", xml_order("<item><unit>USER</unit><quantity>3</quantity></item><item><unit>GIGABYTE</unit><quantity>1.50</quantity></item>"), items, json!([{"unit": "USER", "quantity": "3"}, {"unit": "GIGABYTE", "quantity": "1.50"}])),
        ("XML with one item", xml_order("<editionCode>A</editionCode><item><quantity>3</quantity></item>"), quantity, json!("3")),
        ("XML with items around item", xml_order("<items><item><quantity>3</quantity></item></items>"), quantity, json!("3")),
        ("XML with an empty order", xml_order(""), "/payload/order", Value::Null),
        ("XML configuration as entries", xml("<configuration><entry><key>domain</key><value>acme.example</value></entry><entry><key>plan</key><value/></entry></configuration>"), configuration, json!({"domain": "acme.example", "plan": ""})),
        ("XML configuration as one entry", xml("<configuration><entry><key>a</key><value>b</value></entry></configuration>"), configuration, json!({"a": "b"})),
        ("XML configuration as plain children", xml("<configuration><domain>acme.example</domain></configuration>"), configuration, json!({"domain": "acme.example"})),
        ("XML configuration that is empty", xml("<configuration/>"), configuration, json!({})),
        ("XML links", "<event><type>A</type><links><link><rel>oidcClient</rel><href>h1</href></link><link><rel>samlIdp</rel><href>h2</href></link></links></event>".into(), "/links/1/href", json!("h2")),
        ("XML links as attributes", "<event><type>A</type><link rel=\"oidcClient\" href=\"h?a=1&amp;b=2\"/></event>".into(), "/links/0/href", json!("h?a=1&b=2")),
        ("XML custom attributes", xml_order("<customAttributes><customAttribute><attributeType>TEXT</attributeType><name>po</name><value>7</value></customAttribute></customAttributes>"), "/payload/order/customAttributes/0/value", json!("7")),
        ("XML entities and character references", xml("<company><name>A&amp;B &lt;&#8364;&#x41;&gt;</name></company>"), "/payload/company/name", json!("A&B <€A>")),
        ("XML character data", xml("<company><name><![CDATA[A&B <c>]]></name></company>"), "/payload/company/name", json!("A&B <c>")),
        ("XML text around a comment", xml("<company><name>A<!-- x -->B</name></company>"), "/payload/company/name", json!("AB")),
        ("XML namespaces", "<ns2:event xmlns:ns2=\"urn:x\" xmlns:xsi=\"urn:y\" xsi:type=\"z\"><ns2:type>A</ns2:type></ns2:event>".into(), "/type", json!("A")),
        ("XML nil", xml("<user xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:nil=\"true\"/>"), "/payload/user", Value::Null),
        ("an XML text with an attribute keeps its text", xml("<company><name lang=\"en\">Acme</name></company>"), "/payload/company/name", json!("Acme")),
        ("an XML add-on instance", xml("<addonInstance><id>7</id></addonInstance>"), "/payload/addonInstance", json!("7")),
        ("an XML free trial", xml_order("<freeTrial><active>true</active></freeTrial>"), "/payload/order/freeTrial", json!(true)),
        // XML with odd characters.
        ("XML with control characters", xml("<company><name>A\u{0}B\u{1}\u{b}\u{1f}C</name></company>"), name, json!("A\u{0}B\u{1}\u{b}\u{1f}C")),
        ("XML with a control character in a CDATA section", xml("<company><name><![CDATA[A\u{1}<B>]]></name></company>"), name, json!("A\u{1}<B>")),
        ("an XML reference to a control character", xml("<company><name>A&#x1;B&#27;</name></company>"), name, json!("A\u{1}B\u{1b}")),
        ("an XML reference to zero", xml("<company><name>A&#x0;B&#0;</name></company>"), name, json!("A\u{fffd}B\u{fffd}")),
        ("an XML reference to half a surrogate pair", xml("<company><name>A&#xD83D;&#56596;</name></company>"), name, json!("A\u{fffd}\u{fffd}")),
        ("an XML reference beyond Unicode", xml("<company><name>A&#x110000;&#xFFFFFFFFFF;</name></company>"), name, json!("A\u{fffd}\u{fffd}")),
        ("an XML reference that is no number", xml("<company><name>A&#xZZ;&#;&#+1;&#x-1;</name></company>"), name, json!("A&#xZZ;&#;&#+1;&#x-1;")),
        ("an XML reference to HTML's entity", xml("<company><name>Zo&eacute;&nbsp;&euro;</name></company>"), name, json!("Zoé\u{a0}€")),
        ("an XML reference to an unknown entity", xml("<company><name>A &company; B</name></company>"), name, json!("A &company; B")),
        ("a bare ampersand in XML", xml("<company><name>A & B &amp; C; D &</name></company>"), name, json!("A & B & C; D &")),
        ("ampersands in an XML attribute", "<event><type>A</type><link rel=\"a&b\" href=\"h?a=1&b=2&#x0;&nothing;&amp;\r\n&#xe9;\"/></event>".into(), "/links/0/href", json!("h?a=1&b=2\u{fffd}&nothing;& é")),
        ("an XML attribute that is given twice", "<event a=\"1\" a=\"2\"><type>A</type></event>".into(), "/type", json!("A")),
        ("an XML document type", format!("<!DOCTYPE event SYSTEM \"http://127.0.0.1/event.dtd\">{}", xml("")), "/type", json!("SUBSCRIPTION_ORDER")),
        ("an XML document type with elements of its own", format!("<?xml version='1.0'?><!DOCTYPE event [<!ELEMENT event ANY>]>{}", xml("<company><name>&x;</name></company>")), name, json!("&x;")),
        ("XML 1.1", format!("<?xml version=\"1.1\"?>{}", xml("<company><name>A\u{7f}\u{85}B</name></company>")), name, json!("A\u{7f}\u{85}B")),
        ("XML white space before the declaration", format!("\n <?xml version=\"1.0\"?>{}", xml("")), "/type", json!("SUBSCRIPTION_ORDER")),
        ("an XML byte-order mark", format!("\u{feff}{}", xml("")), "/type", json!("SUBSCRIPTION_ORDER")),
    ] {
        let event = understood(&body).unwrap_or_else(|error| panic!("{odd}: {error}: {body}"));
        assert_eq!(event.pointer(place), Some(&expected), "{odd}: {body}");
    }
}

/// The bytes of a text in this charset.
fn encoded(text: &str, charset: &str) -> Vec<u8> {
    let encoding = Encoding::for_label(charset.as_bytes()).expect("a charset");
    let (bytes, _, is_lossy) = encoding.encode(text);
    assert!(!is_lossy, "{text} is not in {charset}");
    bytes.into_owned()
}

/// The name of the company in a body that came with this `Content-Type`.
fn name_in(case: &str, bytes: &[u8], content_type: &str) -> Value {
    let charset = charset_of(content_type);
    let event = Event::read(bytes, charset.as_deref()).unwrap_or_else(|error| panic!("{case}: {error}"));
    // What is stored beside the bytes decides alike when they are read again.
    assert_eq!(Event::read(bytes, charset.as_deref()).as_ref(), Ok(&event), "{case}");
    serde_json::to_value(event).expect("serializes")["payload"]["company"]["name"].clone()
}

#[test]
#[rustfmt::skip]
fn a_body_is_read_in_the_charset_of_its_content_type() {
    let json_body = |name: &str| with(&format!(r#"{{"company":{{"name":"{name}"}}}}"#));
    let xml_body = |name: &str| xml(&format!("<company><name>{name}</name></company>"));
    for (content_type, charset, name) in [
        ("application/json;charset=ISO-8859-1", "iso-8859-1", "Zoé Ünsal"),
        ("application/json; charset=\"latin1\"", "iso-8859-1", "Zoé"),
        ("application/json;charset=windows-1252", "windows-1252", "Zoé’s €"),
        ("application/json;charset=ISO-8859-1", "windows-1252", "Zoé’s €"),
        ("application/json;charset=ISO-8859-15", "iso-8859-15", "Zoé €"),
        ("application/json;charset=windows-1251", "windows-1251", "Зоя"),
        ("application/json;CHARSET=koi8-r", "koi8-r", "Зоя"),
        ("application/json;charset=Shift_JIS", "shift_jis", "表示ソフト"),
        ("application/json;charset=EUC-JP", "euc-jp", "表示"),
        ("application/json;charset=ISO-2022-JP", "iso-2022-jp", "表示"),
        ("application/json;charset=GBK", "gbk", "联通"),
        ("application/json;charset=gb18030", "gb18030", "联通🔔"),
        ("application/json;charset=Big5", "big5", "許功蓋"),
        ("application/json;charset=EUC-KR", "euc-kr", "한국"),
        // Said, and not so.
        ("application/json;charset=ISO-8859-1", "utf-8", "Zoé 🔔"),
        ("application/json;charset=us-ascii", "utf-8", "Zoé"),
        ("application/json;charset=UTF-16", "utf-8", "Zoé"),
        ("application/json;charset=klingon", "utf-8", "Zoé"),
        ("application/json;charset=", "utf-8", "Zoé"),
        ("application/json;charset=utf-7", "utf-8", "Zoé"),
    ] {
        for body in [json_body(name), xml_body(name)] {
            let case = format!("{charset} as {content_type}: {body}");
            assert_eq!(name_in(&case, &encoded(&body, charset), content_type), json!(name), "{case}");
        }
    }
    for (case, body, content_type, name) in [
        ("no charset is as good as UTF-8", encoded(&json_body("Zoé"), "windows-1252"), "application/json", "Zo\u{fffd}"),
        ("an unknown charset is none", encoded(&json_body("Zoé"), "windows-1252"), "text/json;charset=klingon", "Zo\u{fffd}"),
        ("a declaration counts before the header", encoded(&format!("<?xml version='1.0' encoding='windows-1251'?>{}", xml_body("Зоя")), "windows-1251"), "text/xml;charset=koi8-r", "Зоя"),
        ("a declaration that the bytes contradict does not", encoded(&format!("<?xml version='1.0' encoding='UTF-8'?>{}", xml_body("Zoé")), "windows-1252"), "text/xml;charset=ISO-8859-1", "Zoé"),
        ("a mark counts before the header", format!("\u{feff}{}", json_body("Zoé")).into_bytes(), "text/json;charset=koi8-r", "Zoé"),
        ("a character that the charset has not", [json_body("Zo#").replace("#\"}}}", "").as_bytes(), b"\xff\xff\"}}}"].concat(), "text/json;charset=euc-jp", "Zo\u{fffd}\u{fffd}"),
        ("a lead byte before the end of a string", [json_body("Zo#").replace("#\"}}}", "").as_bytes(), b"\x95\"}}}"].concat(), "text/json;charset=shift_jis", "Zo\u{fffd}"),
    ] {
        assert_eq!(name_in(case, &body, content_type), json!(name), "{case}");
    }
}

proptest! {
    /// The short form of the fuzz targets.
    #[test]
    fn no_body_whatever_makes_the_reader_panic(body in r#"[<>&;/="'!\[\]{}:, a-c\-]{0,60}"#, bytes: Vec<u8>) {
        for start in ["", "{", "<", "<a>", "{\"type\":"] {
            let _ = Event::read(format!("{start}{body}").as_bytes(), None);
            let _ = Event::read(&[start.as_bytes(), &bytes].concat(), None);
        }
    }

    #[test]
    fn a_text_survives_in_every_charset_that_has_it(
        name in "[^\\p{C}\\s\"\\\\&<>]([^\\p{C}\"\\\\&<>]{0,20}[^\\p{C}\\s\"\\\\&<>])?", mark: bool, is_xml: bool,
    ) {
        let body = if is_xml { xml(&format!("<company><name>{name}</name></company>")) } else { with(&format!(r#"{{"company":{{"name":"{name}"}}}}"#)) };
        let marked = if mark { format!("\u{feff}{body}") } else { body.clone() };
        let utf_16 = |unit: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let utf_32 = |unit: fn(u32) -> [u8; 4]| marked.chars().map(u32::from).flat_map(unit).collect::<Vec<u8>>();
        for bytes in [
            marked.clone().into_bytes(), utf_16(u16::to_le_bytes), utf_16(u16::to_be_bytes), utf_32(u32::to_le_bytes), utf_32(u32::to_be_bytes),
        ] {
            prop_assert_eq!(name_in(&body, &bytes, ""), json!(name), "{}", body);
        }
        for charset in ["gb18030", "shift_jis", "euc-kr"] {
            let (bytes, _, is_lossy) = Encoding::for_label(charset.as_bytes()).expect("a charset").encode(&body);
            // Their tables read a few characters back as others.
            if !is_lossy && Encoding::for_label(charset.as_bytes()).expect("a charset").decode(&bytes).0 == body {
                prop_assert_eq!(name_in(&body, &bytes, &format!("text/xml;charset={charset}")), json!(name), "{}", body);
            }
        }
    }

    #[test]
    fn texts_and_digits_survive_in_both_formats(
        name in "[^\\p{C}\\s]([^\\p{C}]{0,20}[^\\p{C}\\s])?",
        whole in "(0|[1-9][0-9]{0,30})", fraction in "(\\.[0-9]{1,20})?",
    ) {
        let quantity = format!("{whole}{fraction}");
        let quoted = json!(name);
        let json = format!(
            r#"{{"type":{quoted},"payload":{{"company":{{"name":{quoted}}},"order":{{"items":[{{"quantity":{quantity}}}]}}}}}}"#
        );
        let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let xml = format!(
            "<event><type>{escaped}</type><payload><company><name>{escaped}</name></company>\
             <order><item><quantity>{quantity}</quantity></item></order></payload></event>"
        );
        for body in [json, xml] {
            let event = understood(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
            prop_assert_eq!(&event["type"], &json!(name), "{}", body);
            prop_assert_eq!(&event["payload"]["company"]["name"], &json!(name), "{}", body);
            prop_assert_eq!(&event["payload"]["order"]["items"][0]["quantity"], &json!(quantity), "{}", body);
        }
    }
}

#[test]
fn what_is_no_event_is_refused_by_name_and_nothing_is_expanded_or_fetched() {
    for (case, body, reason) in [
        ("nothing", "", "not well-formed"),
        ("half an object", "{\"type\":\"A\"", "not well-formed"),
        ("something behind the object", "{\"type\":\"A\"} x", "not well-formed"),
        ("no object", "[1]", "is not an object"),
        ("no type", "{\"payload\":{}}", "names no type"),
        ("a page", "<html><body>later</body></html>", "names no type"),
        ("half an element", "<event><type>A</type>", "it ends within <event>"),
        ("an end of something else", "<event><type>A</payload></event>", "not well-formed"),
        ("two outermost elements", "<event><type>A</type></event><event/>", "more than one outermost element"),
        (
            "a billion laughs",
            "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]><event><type>&b;</type></event>",
            "entities of its own",
        ),
        (
            "an external entity",
            "<!DOCTYPE e [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><event><type>&x;</type></event>",
            "entities of its own",
        ),
        (
            "a parameter entity",
            "<!DOCTYPE e [<!ENTITY % x SYSTEM \"http://127.0.0.1/x\"> %x;]><event><type>A</type></event>",
            "entities of its own",
        ),
        ("half a character reference and no end", "<event><type>&#x", "it ends within <type>"),
    ] {
        let error = understood(body).expect_err(case).to_string();
        assert!(error.contains(reason), "{case}: {error}");
    }
}

/// Every text, number and boolean of a JSON body, with the place where the typed event holds it.
fn leaves(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, &format!("{place}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, &format!("{place}/{index}"), found);
            }
        }
        Value::String(text) => found.push((place.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => found.push((place.to_owned(), value.to_string())),
    }
}

/// Asserts that every field of a JSON body is in the typed event, and returns how many there are.
fn assert_nothing_is_lost(name: &str, body: &str) -> usize {
    let event = understood(body).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut fields = Vec::new();
    leaves(&serde_json::from_str(body).expect("JSON"), "", &mut fields);
    for (place, text) in &fields {
        // Three objects with one field each are that field in the typed event.
        let place = place.replace("/addonInstance/id", "/addonInstance").replace("/addonBinding/id", "/addonBinding");
        let place = place.replace("/freeTrial/active", "/freeTrial");
        let held = event.pointer(&place).unwrap_or_else(|| panic!("{name}: {place} is lost"));
        let held = held.as_str().map_or_else(|| held.to_string(), str::to_owned);
        assert_eq!(&held, text, "{name}: {place}");
    }
    fields.len()
}

#[test]
fn no_field_of_any_type_of_event_is_lost_in_either_format() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut types = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy();
        let json = std::fs::read_to_string(&path).expect("readable");
        let fields = assert_nothing_is_lost(&name, &json);
        assert!(fields > 35, "{name} has {fields} fields only");
        let xml = std::fs::read_to_string(path.with_extension("xml")).expect("readable");
        let event = understood(&json).expect("understood");
        assert_eq!(understood(&xml).expect("understood"), event, "{name}");
        types.insert(event["type"].as_str().expect("a type").to_owned());
    }
    assert_eq!(types.len(), 17, "every type has a body of its own: {types:?}");
}
