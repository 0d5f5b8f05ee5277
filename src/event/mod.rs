//! The vocabulary: what an event is, where its body lies, what it came to and how far it got.
//!
//! Pure: nothing here does I/O, asks the time or knows who calls it.

mod account_status;
mod body;
mod body_error;
mod charset;
mod credential;
mod extracted;
mod id;
mod json;
mod kind;
mod node;
mod notification;
mod outcome;
mod query;
mod read;
mod record;
mod spelling;
mod state;
mod timeline;
mod url;
mod xml;

pub use body::{
    Account, AccountStatus, Address, Company, CustomAttribute, Event, Item, Link, MarketplaceInfo, Notice, NoticeType,
    Order, Payload, PricingDuration, Quantity, User,
};
pub use id::EventId;
pub use kind::{EventType, Flag};
pub use outcome::{AccountIdentifier, ErrorCode, EventResult, IdentifierError, MAX_IDENTIFIER_BYTES};

pub(crate) use json::object;
pub(crate) use outcome::boolean_or_its_text;
pub(crate) use record::bounds::MAX_RECORD_BYTES;

// A handler meets none of these.
#[doc(hidden)]
pub use self::{
    body_error::{BodyError, MAX_BODY_BYTES},
    charset::charset_of,
    extracted::{ExtractedFields, Understood},
    notification::Notification,
    query::{Hint, NotificationQuery, Oddity, QueryError},
    record::change::{AccountChange, Change, ChangeError, Failure, IllegalChange, UnfitResult, Unreadable},
    record::{Body, EventRecord, Repeated},
    state::State,
    timeline::{Timeline, TimelineStep},
    url::{BaseUrl, BaseUrlError, EventUrl, EventUrlError, MAX_EVENT_URL_BYTES, shown_event_url},
};
