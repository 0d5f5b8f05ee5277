//! The body of an event: what the marketplace says has happened.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::kind::open_enum;
use super::node::Node;
use super::{EventType, Flag, json, xml};

/// The largest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// An event as far as it was understood.
///
/// Everything but the type may be absent; the body as received is kept beside it, so what is not
/// understood here is not lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The marketplace by its own words.
    pub marketplace: MarketplaceInfo,
    /// The product, by the marketplace's id.
    pub application_uuid: Option<String>,
    /// `STATELESS` for a ping, `DEVELOPMENT` for a test purchase.
    pub flag: Option<Flag>,
    /// Who caused it.
    pub creator: Option<User>,
    /// What it is about.
    pub payload: Payload,
    /// Where a customer's browser goes on after an interactive purchase.
    pub return_url: Option<String>,
    /// Related resources, such as `oidcClient`.
    pub links: Vec<Link>,
}

/// The marketplace an event says it comes from. Not to be trusted for where to call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketplaceInfo {
    /// Name of the marketplace's owner.
    pub partner: Option<String>,
    /// Address of the marketplace.
    pub base_url: Option<String>,
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// The user of an assignment.
    pub user: Option<User>,
    /// The customer's company.
    pub company: Option<Company>,
    /// The customer's account with the vendor.
    pub account: Option<Account>,
    /// What was bought.
    pub order: Option<Order>,
    /// What a notice tells.
    pub notice: Option<Notice>,
    /// Answers to the product's own purchase questions.
    pub configuration: BTreeMap<String, String>,
    /// Id of an add-on that was bought.
    pub addon_instance: Option<String>,
    /// Id of an add-on's binding to a user.
    pub addon_binding: Option<String>,
}

/// A person of the customer's.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The marketplace's id of the user.
    pub uuid: Option<String>,
    /// `OpenID` 2.0 identifier.
    pub open_id: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Language, such as `en`.
    pub language: Option<String>,
    /// Locale, such as `en_US` or `en-US`.
    pub locale: Option<String>,
    /// Postal address.
    pub address: Option<Address>,
    /// Marketplace-defined attributes.
    pub attributes: BTreeMap<String, String>,
}

/// Personal data stays out of whatever prints with `Debug`, logs above all: only the id is shown.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// A postal address.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Form of address.
    pub salutation: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Whole name.
    pub full_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Company.
    pub company_name: Option<String>,
    /// Telephone number.
    pub phone: Option<String>,
    /// Extension of the telephone number.
    pub phone_extension: Option<String>,
    /// Fax number.
    pub fax: Option<String>,
    /// Extension of the fax number.
    pub fax_extension: Option<String>,
    /// First line of the street.
    pub street1: Option<String>,
    /// Second line of the street.
    pub street2: Option<String>,
    /// City.
    pub city: Option<String>,
    /// County.
    pub county: Option<String>,
    /// State or province.
    pub state: Option<String>,
    /// Postal code.
    pub zip: Option<String>,
    /// Country code.
    pub country: Option<String>,
    /// Post-office box.
    pub pobox: Option<String>,
    /// Postal code of the post-office box.
    pub pozip: Option<String>,
}

/// Personal data; see [`User`].
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").finish_non_exhaustive()
    }
}

/// The customer's company.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Company {
    /// The marketplace's id of the company.
    pub uuid: Option<String>,
    /// The marketplace owner's id of the company.
    pub external_id: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Telephone number.
    pub phone_number: Option<String>,
    /// Website.
    pub website: Option<String>,
    /// Country code.
    pub country: Option<String>,
}

/// The customer's account with the vendor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The vendor's own name for the account, as the result of its order gave it.
    pub account_identifier: Option<String>,
    /// The subscription's state in the marketplace.
    pub status: Option<AccountStatus>,
    /// For an add-on: the account of the product it belongs to.
    pub parent_account_identifier: Option<String>,
}

/// What was bought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The edition's code.
    pub edition_code: Option<String>,
    /// The add-on's code.
    pub addon_offering_code: Option<String>,
    /// How often it is billed.
    pub pricing_duration: Option<PricingDuration>,
    /// How much of what.
    pub items: Vec<Item>,
    /// Attributes the marketplace adds.
    pub custom_attributes: Vec<CustomAttribute>,
    /// Code of a discount.
    pub discount_code: Option<String>,
    /// Whether a free trial is active; absent if the order does not speak of one.
    pub free_trial: Option<bool>,
}

/// One position of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// `USER`, `GIGABYTE` and over 240 others.
    pub unit: Option<String>,
    /// How many.
    pub quantity: Option<Quantity>,
}

/// A decimal number exactly as it came.
///
/// Kept as text because marketplaces bill by it: no digit may change by way of a binary fraction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

impl Quantity {
    /// The digits as they came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The quantity as a whole number, if it is one: `25` and `25.00`, not `2.5`.
    #[must_use]
    pub fn to_whole(&self) -> Option<u64> {
        let (whole, fraction) = self.0.split_once('.').unwrap_or((&self.0, ""));
        fraction.bytes().all(|digit| digit == b'0').then(|| whole.parse().ok()).flatten()
    }
}

/// An attribute the marketplace adds to an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomAttribute {
    /// Type of the attribute.
    pub attribute_type: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Value.
    pub value: Option<String>,
}

/// What a notice tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// What happened to the subscription.
    #[serde(rename = "type")]
    pub kind: Option<NoticeType>,
    /// Words to it.
    pub message: Option<String>,
}

/// A related resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// What it is, such as `oidcClient` or `samlIdp`.
    pub rel: Option<String>,
    /// Where it lies.
    pub href: Option<String>,
}

open_enum! {
    /// The subscription's state in the marketplace.
    AccountStatus {
        /// Not paid for yet:
        Initialized = "INITIALIZED",
        /// Could not be created:
        Failed = "FAILED",
        /// In its free trial:
        FreeTrial = "FREE_TRIAL",
        /// The free trial is over:
        FreeTrialExpired = "FREE_TRIAL_EXPIRED",
        /// In use:
        Active = "ACTIVE",
        /// Not paid:
        Suspended = "SUSPENDED",
        /// Over:
        Cancelled = "CANCELLED",
    }
}

open_enum! {
    /// What a notice tells of the subscription.
    NoticeType {
        /// Suspended, usually for want of payment:
        Deactivated = "DEACTIVATED",
        /// Active again:
        Reactivated = "REACTIVATED",
        /// Gone for good; data may be deleted:
        Closed = "CLOSED",
        /// An invoice is about to be written; usage is due:
        UpcomingInvoice = "UPCOMING_INVOICE",
    }
}

open_enum! {
    /// How often an order is billed.
    PricingDuration {
        /// Once:
        OneTime = "ONE_TIME",
        /// Every day:
        Daily = "DAILY",
        /// Every month:
        Monthly = "MONTHLY",
        /// Every three months:
        Quarterly = "QUARTERLY",
        /// Every six months:
        SixMonths = "SIX_MONTHS",
        /// Every year:
        Yearly = "YEARLY",
        /// Every two years:
        TwoYears = "TWO_YEARS",
        /// Every three years:
        ThreeYears = "THREE_YEARS",
    }
}

/// Why a body could not be understood at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Larger than [`MAX_BODY_BYTES`].
    #[error("the event's body has {0} bytes; at most {MAX_BODY_BYTES} are read")]
    TooLarge(usize),
    /// Not a well-formed document.
    #[error("the event's body is not well-formed: {0}")]
    Malformed(String),
    /// Nested too deep.
    #[error("the event's body is nested more than {} levels deep", super::node::MAX_DEPTH)]
    TooDeep,
    /// Too many values.
    #[error("the event's body holds more than {} values", super::node::MAX_NODES)]
    TooMany,
    /// Well-formed, but not an object.
    #[error("the event's body is not an object")]
    NotAnObject,
    /// No `type`.
    #[error("the event's body names no type")]
    NoType,
}

impl Event {
    /// Reads a body.
    ///
    /// # Errors
    /// Only if the bytes are no document of a known format, break a limit, or name no type: an odd shape
    /// inside is read as far as it goes.
    pub fn read(bytes: &[u8]) -> Result<Self, BodyError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge(bytes.len()));
        }
        // By looking and not by `Content-Type`: no JSON document begins like an XML one, marketplaces mislabel both,
        // and a body that is read again after a restart has no headers.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let tree = match bytes.trim_ascii_start().first() {
            Some(b'<') => xml::read(bytes)?,
            _ => json::read(bytes)?,
        };
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

    /// Whether this is a ping test, which reaches no handler and changes nothing (G7).
    #[must_use]
    pub fn is_ping(&self) -> bool {
        self.flag == Some(Flag::Stateless)
    }

    /// The vendor's name of the account the event is about, if it names one.
    #[must_use]
    pub fn account_identifier(&self) -> Option<&str> {
        self.payload.account.as_ref()?.account_identifier.as_deref()
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
        Event::read(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
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
        let deep = "[".repeat(super::super::node::MAX_DEPTH + 1);
        assert_eq!(Event::read(deep.as_bytes()), Err(BodyError::TooDeep));
        let many = format!("[{}1]", "1,".repeat(super::super::node::MAX_NODES));
        assert_eq!(Event::read(many.as_bytes()), Err(BodyError::TooMany));
        assert_eq!(Event::read(&vec![b' '; MAX_BODY_BYTES + 1]), Err(BodyError::TooLarge(MAX_BODY_BYTES + 1)));
        assert_eq!(Event::read(b"[]"), Err(BodyError::NotAnObject));
        assert_eq!(Event::read(b"{\"payload\":{}}"), Err(BodyError::NoType));
        assert!(matches!(Event::read(b"<html>"), Err(BodyError::Malformed(_))));
        let deep = "<a>".repeat(super::super::node::MAX_DEPTH + 1);
        assert_eq!(Event::read(deep.as_bytes()), Err(BodyError::TooDeep));
        let many = format!("<a>{}</a>", "<b/>".repeat(super::super::node::MAX_NODES));
        assert_eq!(Event::read(many.as_bytes()), Err(BodyError::TooMany));
    }

    #[test]
    fn personal_data_does_not_show_in_debug() {
        let event = read(
            r#"{"type":"USER_ASSIGNMENT","payload":{"user":{"uuid":"u-1","email":"ada@example.org","address":{"city":"London"}}}}"#,
        );
        let debug = format!("{event:?}");
        assert!(debug.contains("u-1") && !debug.contains("ada@") && !debug.contains("London"), "{debug}");
    }
}
