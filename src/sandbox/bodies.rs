//! Events as a marketplace writes them.

use quick_xml::escape::escape;
use serde_json::{Value, json};

/// What can be simulated: its path, its event type, and the receiver's route for it.
pub(super) struct Kind {
    pub(super) path: &'static str,
    pub(super) event_type: &'static str,
    pub(super) route: &'static str,
}

const fn kind(path: &'static str, event_type: &'static str, route: &'static str) -> Kind {
    Kind { path, event_type, route }
}

/// Every kind of event there is.
pub(super) const KINDS: [Kind; 13] = [
    kind("subscription-order", "SUBSCRIPTION_ORDER", "create"),
    kind("subscription-change", "SUBSCRIPTION_CHANGE", "upgrade"),
    kind("subscription-cancel", "SUBSCRIPTION_CANCEL", "cancel"),
    kind("subscription-notice", "SUBSCRIPTION_NOTICE", "notify"),
    kind("subscription-status", "SUBSCRIPTION_STATUS", "event-status"),
    kind("user-assignment", "USER_ASSIGNMENT", "assign"),
    kind("user-unassignment", "USER_UNASSIGNMENT", "unassign"),
    kind("user-updated", "USER_UPDATED", "user-updated"),
    kind("addon-order", "ADDON_ORDER", "addon"),
    kind("addon-change", "ADDON_CHANGE", "addon"),
    kind("addon-cancel", "ADDON_CANCEL", "addon"),
    kind("addon-bind", "ADDON_BIND", "addon"),
    kind("addon-unbind", "ADDON_UNBIND", "addon"),
];

/// The body of a new event of `kind` for `account`, the account most recently ordered.
pub(super) fn generate(kind: &Kind, base_url: &str, account: &str) -> Value {
    let mut event = json!({
        "type": kind.event_type,
        "marketplace": { "partner": "SANDBOX", "baseUrl": base_url },
        "applicationUuid": null,
        "flag": null,
        "creator": user("4b1c7f0e-6f3d-4f0c-9a51-0d8e2f6a7c11", "Grace", "Hopper"),
        "payload": {
            "user": null,
            "company": null,
            "account": null,
            "addonInstance": null,
            "addonBinding": null,
            "order": null,
            "notice": null,
            "configuration": {},
        },
        "returnUrl": null,
        "links": [],
    });
    let payload = &mut event["payload"];
    if kind.event_type != "SUBSCRIPTION_ORDER" {
        payload["account"] =
            json!({ "accountIdentifier": account, "status": "ACTIVE", "parentAccountIdentifier": null });
    }
    match kind.event_type {
        "SUBSCRIPTION_ORDER" => {
            payload["company"] = json!({
                "uuid": "b8a1c6a2-52a7-4f44-8a54-2f0b8f7c9e21",
                "externalId": null,
                "name": "Eckert-Mauchly Computing",
                "email": "office@emcc.example",
                "phoneNumber": null,
                "website": "https://emcc.example",
                "country": "US",
            });
            payload["order"] = order("BASIC", 5);
        }
        "SUBSCRIPTION_CHANGE" => payload["order"] = order("PREMIUM", 25),
        "SUBSCRIPTION_NOTICE" => {
            payload["account"]["status"] = json!("SUSPENDED");
            payload["notice"] = json!({ "type": "DEACTIVATED", "message": null });
        }
        "USER_ASSIGNMENT" | "USER_UNASSIGNMENT" | "USER_UPDATED" => {
            payload["user"] = user("9d3b0a7c-1e7e-4c38-bb1a-6a0f5c2d8e42", "Jean", "Bartik");
        }
        "ADDON_ORDER" => {
            payload["order"] = order("ADDON", 1);
            payload["order"]["addonOfferingCode"] = json!("STORAGE");
            payload["account"] =
                json!({ "accountIdentifier": null, "status": "INITIALIZED", "parentAccountIdentifier": account });
        }
        "ADDON_CHANGE" | "ADDON_CANCEL" => {
            payload["addonInstance"] = json!({ "id": "addon-1" });
            if kind.event_type == "ADDON_CHANGE" {
                payload["order"] = order("ADDON", 2);
            }
        }
        "ADDON_BIND" | "ADDON_UNBIND" => {
            payload["addonInstance"] = json!({ "id": "addon-1" });
            payload["addonBinding"] = json!({ "id": "binding-1" });
            payload["user"] = user("9d3b0a7c-1e7e-4c38-bb1a-6a0f5c2d8e42", "Jean", "Bartik");
        }
        _ => {}
    }
    event
}

fn order(edition: &str, users: u32) -> Value {
    json!({
        "editionCode": edition,
        "addonOfferingCode": null,
        "pricingDuration": "MONTHLY",
        "items": [{ "unit": "USER", "quantity": users.to_string() }],
    })
}

fn user(uuid: &str, first_name: &str, last_name: &str) -> Value {
    json!({
        "uuid": uuid,
        "openId": null,
        "email": format!("{}.{}@emcc.example", first_name.to_lowercase(), last_name.to_lowercase()),
        "firstName": first_name,
        "lastName": last_name,
        "language": "en",
        "locale": "en-US",
        "address": null,
        "attributes": null,
    })
}

/// An event as XML, as a marketplace writes it: lists repeat an element, maps are `entry` elements, what is `null` is
/// left out.
pub(super) fn to_xml(event: &Value) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>");
    write_element(&mut xml, "event", event);
    xml
}

fn write_element(xml: &mut String, name: &str, value: &Value) {
    match (name, value) {
        (_, Value::Null) => {}
        // A list repeats the name of a single value; `items` stand in the order itself, the others in an element.
        ("items", Value::Array(items)) => items.iter().for_each(|item| write_element(xml, "item", item)),
        (_, Value::Array(items)) => {
            let single = name.strip_suffix('s').unwrap_or(name);
            write_tagged(xml, name, |xml| items.iter().for_each(|item| write_element(xml, single, item)));
        }
        ("configuration" | "attributes", Value::Object(entries)) => write_tagged(xml, name, |xml| {
            for (key, value) in entries {
                let entry = json!({ "key": key, "value": value });
                write_element(xml, "entry", &entry);
            }
        }),
        (_, Value::Object(fields)) => write_tagged(xml, name, |xml| {
            for (field, value) in fields {
                write_element(xml, field, value);
            }
        }),
        (_, Value::String(text)) => write_tagged(xml, name, |xml| xml.push_str(&escape(text.as_str()))),
        (_, Value::Bool(_) | Value::Number(_)) => write_tagged(xml, name, |xml| xml.push_str(&value.to_string())),
    }
}

fn write_tagged(xml: &mut String, name: &str, content: impl FnOnce(&mut String)) {
    // A name of an override may be anything; one that XML cannot say is left out.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(is_name) {
        return;
    }
    for piece in ["<", name, ">"] {
        xml.push_str(piece);
    }
    content(xml);
    for piece in ["</", name, ">"] {
        xml.push_str(piece);
    }
}

/// Lays `over` over `base`: objects merge, anything else replaces.
pub(super) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn every_kind_of_event_says_the_same_in_xml_as_in_json() {
        for kind in &KINDS {
            let mut event = generate(kind, "https://market.example", "acct-1");
            let over = json!({
                "flag": "DEVELOPMENT",
                "links": [{ "rel": "oidcClient", "href": "https://market.example/oidc?a=1&b=2" }],
                "creator": { "attributes": { "department": "R & D" } },
                "payload": { "configuration": { "domain": "<emcc>", "a key": "b" } },
            });
            merge(&mut event, over);
            let read =
                |body: &str| Event::read(body.as_bytes(), None).unwrap_or_else(|error| panic!("{error}: {body}"));
            assert_eq!(read(&to_xml(&event)), read(&event.to_string()), "{}", kind.path);
        }
    }
}
