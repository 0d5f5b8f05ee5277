//! From a body's bytes to an event: as far as its shape goes, in JSON or XML.

use std::collections::BTreeMap;

use super::body_error::{BodyError, MAX_BODY_BYTES};
use super::node::Node;
use super::{
    Account, AccountStatus, Address, Company, CustomAttribute, Event, EventType, Flag, Item, Link, MarketplaceInfo,
    Notice, NoticeType, Order, Payload, PricingDuration, Quantity, User, charset, json, xml,
};

impl Event {
    /// Reads a body that the marketplace gave with this `charset`, as [`charset_of`](super::charset_of) its
    /// `Content-Type`.
    ///
    /// # Errors
    /// Only if the bytes are no document of a known format, break a limit, or name no type: an odd shape
    /// inside is read as far as it goes.
    pub fn read(bytes: &[u8], charset: Option<&str>) -> Result<Self, BodyError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge(bytes.len()));
        }
        let text = charset::decode(bytes, charset);
        // By looking and not by `Content-Type`: no JSON document begins like an XML one, and marketplaces mislabel both.
        let tree = if text.trim_ascii_start().starts_with('<') { xml::read(&text)? } else { json::read(&text)? };
        Self::from_tree(&tree)
    }

    fn from_tree(tree: &Node) -> Result<Self, BodyError> {
        if tree.fields().is_empty() {
            return Err(BodyError::NotAnObject);
        }
        let kind = tree.text_of("type").ok_or(BodyError::NoType)?;
        let marketplace = tree.get("marketplace");
        Ok(Self {
            kind: EventType::from(kind.as_str()),
            marketplace: MarketplaceInfo {
                partner: marketplace.text_of("partner"),
                base_url: marketplace.text_of("baseUrl"),
            },
            application_uuid: tree.text_of("applicationUuid"),
            flag: tree.text_of("flag").map(|flag| Flag::from(flag.as_str())),
            creator: tree.get("creator").object(User::from_tree),
            payload: Payload::from_tree(tree.get("payload")),
            return_url: tree.text_of("returnUrl"),
            links: tree
                .list("links", "link")
                .filter_map(|link| link.object(|link| Link { rel: link.text_of("rel"), href: link.text_of("href") }))
                .collect(),
        })
    }
}

impl Payload {
    fn from_tree(tree: &Node) -> Self {
        Self {
            user: tree.get("user").object(User::from_tree),
            company: tree.get("company").object(Company::from_tree),
            account: tree.get("account").object(Account::from_tree),
            order: tree.get("order").object(Order::from_tree),
            notice: tree.get("notice").object(|notice| Notice {
                kind: notice.text_of("type").map(|kind| NoticeType::from(kind.as_str())),
                message: notice.text_of("message"),
            }),
            configuration: text_map(tree.get("configuration")),
            addon_instance: tree.get("addonInstance").text_of("id"),
            addon_binding: tree.get("addonBinding").text_of("id"),
        }
    }
}

impl User {
    fn from_tree(tree: &Node) -> Self {
        Self {
            uuid: tree.text_of("uuid"),
            open_id: tree.text_of("openId"),
            email: tree.text_of("email"),
            first_name: tree.text_of("firstName"),
            last_name: tree.text_of("lastName"),
            language: tree.text_of("language"),
            locale: tree.text_of("locale"),
            address: tree.get("address").object(Address::from_tree),
            attributes: text_map(tree.get("attributes")),
        }
    }
}

impl Address {
    fn from_tree(tree: &Node) -> Self {
        Self {
            salutation: tree.text_of("salutation"),
            first_name: tree.text_of("firstName"),
            full_name: tree.text_of("fullName"),
            last_name: tree.text_of("lastName"),
            company_name: tree.text_of("companyName"),
            phone: tree.text_of("phone"),
            phone_extension: tree.text_of("phoneExtension"),
            fax: tree.text_of("fax"),
            fax_extension: tree.text_of("faxExtension"),
            street1: tree.text_of("street1"),
            street2: tree.text_of("street2"),
            city: tree.text_of("city"),
            county: tree.text_of("county"),
            state: tree.text_of("state"),
            zip: tree.text_of("zip"),
            country: tree.text_of("country"),
            pobox: tree.text_of("pobox"),
            pozip: tree.text_of("pozip"),
        }
    }
}

impl Company {
    fn from_tree(tree: &Node) -> Self {
        Self {
            uuid: tree.text_of("uuid"),
            external_id: tree.text_of("externalId"),
            name: tree.text_of("name"),
            email: tree.text_of("email"),
            phone_number: tree.text_of("phoneNumber"),
            website: tree.text_of("website"),
            country: tree.text_of("country"),
        }
    }
}

impl Account {
    fn from_tree(tree: &Node) -> Self {
        Self {
            account_identifier: tree.text_of("accountIdentifier"),
            status: tree.text_of("status").map(|status| AccountStatus::from(status.as_str())),
            parent_account_identifier: tree.text_of("parentAccountIdentifier"),
        }
    }
}

impl Order {
    fn from_tree(tree: &Node) -> Self {
        Self {
            edition_code: tree.text_of("editionCode"),
            addon_offering_code: tree.text_of("addonOfferingCode"),
            pricing_duration: tree.text_of("pricingDuration").map(|text| PricingDuration::from(text.as_str())),
            items: tree.list("items", "item").filter_map(|item| item.object(Item::from_tree)).collect(),
            custom_attributes: tree
                .list("customAttributes", "customAttribute")
                .filter_map(|attribute| attribute.object(CustomAttribute::from_tree))
                .collect(),
            discount_code: tree.text_of("discountCode"),
            free_trial: tree.get("freeTrial").text_of("active").map(|active| active.eq_ignore_ascii_case("true")),
        }
    }
}

impl Item {
    fn from_tree(tree: &Node) -> Self {
        Self { unit: tree.text_of("unit"), quantity: tree.text_of("quantity").map(Quantity) }
    }
}

impl CustomAttribute {
    fn from_tree(tree: &Node) -> Self {
        Self { attribute_type: tree.text_of("attributeType"), name: tree.text_of("name"), value: tree.text_of("value") }
    }
}

/// A map of texts; `null`, `[]` and absence are an empty one.
///
/// Its entries are fields, or `entry` elements of a `key` and a `value` each.
fn text_map(tree: &Node) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    let listed = if let Node::List(entries) = tree { entries.as_slice() } else { &[] };
    let entries = tree.list_of("entry").chain(listed);
    let pairs = entries.filter_map(|entry| Some((entry.text_of("key")?, entry.text_of("value").unwrap_or_default())));
    map.extend(pairs);
    let is_entry = |value: &Node| value.items().iter().all(|entry| entry.text_of("key").is_some());
    for (key, value) in tree.fields() {
        if key.eq_ignore_ascii_case("entry") && !value.items().is_empty() && is_entry(value) {
            continue;
        }
        if let Some(text) = value.text() {
            map.insert(key.clone(), text);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Event {
        Event::read(json.as_bytes(), None).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn a_whole_order_is_understood_field_by_field() {
        let event = read(
            r#"{"type":"SUBSCRIPTION_ORDER","flag":"DEVELOPMENT","applicationUuid":"app-1",
                "marketplace":{"partner":"ACME","baseUrl":"https://market.example"},
                "creator":{"uuid":"u-1","openId":"https://market.example/openid/u-1","email":"ada@example.org",
                  "firstName":"Ada","lastName":"Lovelace","language":"en","locale":"en-GB",
                  "address":{"street1":"12 St James's Square","city":"London","country":"GB","zip":"SW1Y 4JH"},
                  "attributes":{"department":"Engines"}},
                "payload":{"company":{"uuid":"c-1","externalId":"x-1","name":"Analytical Engines","country":"GB"},
                  "order":{"editionCode":"PRO","pricingDuration":"WEEKLY","discountCode":"TEN",
                    "items":[{"unit":"USER","quantity":"25"},{"unit":"GIGABYTE","quantity":1.10}],
                    "customAttributes":[{"attributeType":"TEXT","name":"po","value":"77"}],
                    "freeTrial":{"active":true}},
                  "configuration":{"domain":"engines.example"}},
                "returnUrl":"https://market.example/finish",
                "links":[{"rel":"oidcClient","href":"https://market.example/oidc/1"}]}"#,
        );
        assert_eq!(event.kind, EventType::SubscriptionOrder);
        assert_eq!(event.flag, Some(Flag::Development));
        assert_eq!(event.marketplace.partner.as_deref(), Some("ACME"));
        let creator = event.creator.expect("a creator");
        assert_eq!(creator.email.as_deref(), Some("ada@example.org"));
        assert_eq!(creator.attributes["department"], "Engines");
        assert_eq!(creator.address.expect("an address").zip.as_deref(), Some("SW1Y 4JH"));
        let order = event.payload.order.expect("an order");
        assert_eq!(order.pricing_duration, Some(PricingDuration::Other("WEEKLY".into())));
        let quantities: Vec<_> = order.items.iter().map(|item| item.quantity.as_ref().expect("a quantity")).collect();
        assert_eq!(quantities[0].to_whole(), Some(25));
        assert_eq!((quantities[1].as_str(), quantities[1].to_whole()), ("1.10", None));
        assert_eq!(order.free_trial, Some(true));
        assert_eq!(event.payload.configuration["domain"], "engines.example");
        assert_eq!(event.links[0].rel.as_deref(), Some("oidcClient"));
    }

    #[test]
    fn odd_shapes_are_understood_as_far_as_they_go() {
        for configuration in ["{}", "null", "[]", "\"\""] {
            let event =
                read(&format!(r#"{{"type":"SUBSCRIPTION_CANCEL","payload":{{"configuration":{configuration}}}}}"#));
            assert!(event.payload.configuration.is_empty(), "{configuration}");
        }
        for items in [r#""items":{"unit":"USER","quantity":3}"#, r#""item":[{"unit":"USER","quantity":"3"}]"#] {
            let event = read(&format!(r#"{{"type":"SUBSCRIPTION_ORDER","payload":{{"order":{{{items}}}}}}}"#));
            assert_eq!(event.payload.order.expect("an order").items[0].quantity, Some(Quantity("3".into())));
        }
        assert_eq!(
            read(r#"{"type":"SUBSCRIPTION_MOVED","payload":null}"#).kind,
            EventType::Other("SUBSCRIPTION_MOVED".into())
        );
    }

    #[test]
    fn a_body_beyond_the_limits_is_refused_by_name() {
        let deep = "[".repeat(super::super::body_error::MAX_DEPTH + 1);
        assert_eq!(Event::read(deep.as_bytes(), None), Err(BodyError::TooDeep));
        let many = format!("[{}1]", "1,".repeat(super::super::body_error::MAX_NODES));
        assert_eq!(Event::read(many.as_bytes(), None), Err(BodyError::TooMany));
        assert_eq!(Event::read(&vec![b' '; MAX_BODY_BYTES + 1], None), Err(BodyError::TooLarge(MAX_BODY_BYTES + 1)));
        assert_eq!(Event::read(b"[]", None), Err(BodyError::NotAnObject));
        assert_eq!(Event::read(b"{\"payload\":{}}", None), Err(BodyError::NoType));
        assert!(matches!(Event::read(b"<html>", None), Err(BodyError::Malformed(_))));
        let deep = "<a>".repeat(super::super::body_error::MAX_DEPTH + 1);
        assert_eq!(Event::read(deep.as_bytes(), None), Err(BodyError::TooDeep));
        let many = format!("<a>{}</a>", "<b/>".repeat(super::super::body_error::MAX_NODES));
        assert_eq!(Event::read(many.as_bytes(), None), Err(BodyError::TooMany));
    }
}
