//! The vocabulary: what an event is, where its body lies, what it came to and how far it got.
//!
//! Pure: nothing here does I/O, asks the time or knows who calls it.

mod account_status;
mod body;
mod body_error;
mod charset;
mod credential;
mod id;
mod json;
mod kind;
mod node;
mod notification;
mod outcome;
mod progress;
mod query;
mod read;
mod spelling;
mod timeline;
mod url;
mod xml;

pub use body::{
    Account, AccountStatus, Address, Company, CustomAttribute, Event, Item, Link, MarketplaceInfo, Notice, NoticeType,
    Order, Payload, PricingDuration, Quantity, User,
};
pub use body_error::{BodyError, MAX_BODY_BYTES};
pub use charset::charset_of;
pub use id::EventId;
pub(crate) use json::object;
pub use kind::{EventType, Flag};
pub use notification::Notification;
pub(crate) use outcome::boolean_or_its_text;
pub use outcome::{AccountIdentifier, ErrorCode, EventResult, IdentifierError, MAX_IDENTIFIER_BYTES};
pub(crate) use progress::MAX_RECORD_BYTES;
pub use progress::{
    AccountChange, Body, Change, ChangeError, EventRecord, Facts, Failure, IllegalChange, Repeated, State, Understood,
    UnfitResult, Unreadable,
};
pub use query::{Hint, NotificationQuery, Oddity, QueryError};
pub use timeline::{Timeline, TimelineStep};
pub use url::{BaseUrl, BaseUrlError, EventUrl, EventUrlError, MAX_EVENT_URL_BYTES, shown_event_url};
