//! The body of an event: what the marketplace says has happened.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::kind::open_enum;
use super::{EventType, Flag};

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

impl Event {
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
pub struct Quantity(pub(super) String);

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

#[cfg(test)]
mod tests {
    use crate::event::Event;

    #[test]
    fn personal_data_does_not_show_in_debug() {
        let json = br#"{"type":"USER_ASSIGNMENT","payload":{"user":{"uuid":"u-1","email":"ada@example.org","address":{"city":"London"}}}}"#;
        let event = Event::read(json, None).expect("an event");
        let debug = format!("{event:?}");
        assert!(debug.contains("u-1") && !debug.contains("ada@") && !debug.contains("London"), "{debug}");
    }
}
