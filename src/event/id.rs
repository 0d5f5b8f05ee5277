//! The name of an event: a function of integration and event URL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::EventUrl;
use super::url::stored_identity;

/// The name of an event in this receiver: a UUID that is a function of integration and event URL.
///
/// A function, not a random number, so that every replica and every restart gives a repeated notification
/// the same name (G2). Version 5 (RFC 9562 §5.5) under a namespace of Doorbell's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

/// Namespace of all event ids. Changing it would rename every event ever recorded.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0d_81e4_52a9_4c0b_9c35_0f6b_7a1e_d00b);

impl EventId {
    /// The id of the event that lies at `url`, of the integration named `integration`.
    #[must_use]
    pub fn of(integration: &str, url: &EventUrl) -> Self {
        Self::named(integration, &url.identity())
    }

    /// The id that earlier releases gave the event, which told the spellings of one URL apart; nothing if it is the
    /// same. An event of their records is found by it.
    #[must_use]
    pub fn former(integration: &str, url: &EventUrl) -> Option<Self> {
        url.former_identity().map(|former| Self::named(integration, former))
    }

    /// Whether this is the id of the event that is stored as lying at `event_url`, in this release or an earlier one.
    pub(super) fn is_of(self, integration: &str, event_url: &str) -> bool {
        let identity = stored_identity(event_url);
        identity.is_some_and(|identity| self == Self::named(integration, &identity))
            || self == Self::named(integration, event_url)
    }

    pub(super) fn named(integration: &str, event_url: &str) -> Self {
        // An integration's name holds no line break (the configuration refuses it), so no two pairs collide.
        let name = [integration.as_bytes(), b"\n", event_url.as_bytes()].concat();
        Self(Uuid::new_v5(&NAMESPACE, &name))
    }

    /// The sixteen bytes of the UUID, as stores key by them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BaseUrl;

    #[test]
    fn an_id_is_a_function_of_integration_and_event_url() {
        let base = BaseUrl::parse("https://market.example").expect("a base URL");
        let at = |token: &str| {
            let url = format!("https://market.example/api/integration/v1/events/{token}");
            EventUrl::parse(&url, [&base]).expect("an event URL")
        };
        assert_eq!(EventId::of("a", &at("1")), EventId::of("a", &at("1")));
        assert_ne!(EventId::of("a", &at("1")), EventId::of("a", &at("2")));
        assert_ne!(EventId::of("a", &at("1")), EventId::of("b", &at("1")));
    }

    #[test]
    fn an_id_stays_what_it_was_in_every_release() {
        let base = BaseUrl::parse("https://market.example").expect("a base URL");
        let url = EventUrl::parse("https://market.example/events/1", [&base]).expect("an event URL");
        assert_eq!(EventId::of("default", &url).to_string(), "845600b8-275f-5485-b861-df691a7bc2e4");
    }
}
