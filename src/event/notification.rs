//! A notification that was checked and can be recorded.

use super::{EventId, EventType, EventUrl};
use crate::clock::Timestamp;

/// A marketplace's word that something happened, checked and ready to be recorded.
///
/// It can only be built from an [`EventUrl`], which can only lie in a configured marketplace, for an
/// integration that authentication named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    id: EventId,
    integration: String,
    url: EventUrl,
    route_type: Option<EventType>,
    parameters: String,
    response_deadline: Option<Timestamp>,
}

impl Notification {
    /// A notification of the event at `url` for `integration`.
    ///
    /// `route_type` is the type its route stands for, if the route stands for one; `parameters` are the
    /// other query parameters, kept as they came.
    #[must_use]
    pub fn new(integration: String, url: EventUrl, route_type: Option<EventType>, parameters: String) -> Self {
        Self { id: EventId::of(&integration, &url), integration, url, route_type, parameters, response_deadline: None }
    }

    /// The same from a caller that waits for the result until `moment`, if its type is one that is waited for.
    #[must_use]
    pub fn with_response_deadline(self, moment: Option<Timestamp>) -> Self {
        Self { response_deadline: moment, ..self }
    }

    /// The same of an event that is known as `id`, the name an earlier release gave it.
    #[must_use]
    pub fn known_as(self, id: EventId) -> Self {
        Self { id, ..self }
    }

    /// Until when its caller waits for the result.
    #[must_use]
    pub const fn response_deadline(&self) -> Option<Timestamp> {
        self.response_deadline
    }

    /// The event's id.
    #[must_use]
    pub const fn id(&self) -> EventId {
        self.id
    }

    /// Name of the integration the caller authenticated for.
    #[must_use]
    pub fn integration(&self) -> &str {
        &self.integration
    }

    /// Where the event lies.
    #[must_use]
    pub const fn url(&self) -> &EventUrl {
        &self.url
    }

    /// The type the route stands for.
    #[must_use]
    pub const fn route_type(&self) -> Option<&EventType> {
        self.route_type.as_ref()
    }

    /// Query parameters beside the event URL, as they came.
    #[must_use]
    pub fn parameters(&self) -> &str {
        &self.parameters
    }
}
