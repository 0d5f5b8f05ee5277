//! The document of the export route.

use serde::{Deserialize, Serialize};

use crate::store::{Exported, Sequence, StoredEvent};

/// `GET /api/v1/export?from=`: some events as they are kept, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExportPage {
    pub(crate) events: Vec<StoredEvent>,
    /// Events that cannot be read, by number, and why not.
    pub(crate) unreadable: Vec<(Sequence, String)>,
    /// The `from` of the page after this one, if there are more.
    pub(crate) next: Option<Sequence>,
}

impl From<Exported> for ExportPage {
    fn from(Exported { events, unreadable, next }: Exported) -> Self {
        Self { events, unreadable, next }
    }
}
