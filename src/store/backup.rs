//! Copies of a store, out of it and into it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::stored_event::{Sequence, StoredEvent};
use crate::clock::Now;

/// Bytes of bodies after which an export pauses.
pub const EXPORTED_BYTES: usize = 4 << 20;

/// Writes events out, and takes them in.
#[async_trait]
pub trait Backup: Send + Sync + 'static {
    /// Events in the order of receipt from place `from` on, as they stand, with their bodies: up to `limit` of them,
    /// and not many more than [`EXPORTED_BYTES`] of bodies.
    ///
    /// What was recorded before the first of these calls is in one of them, exactly once.
    async fn export(&self, from: Sequence, limit: usize) -> Result<Exported, StoreError>;

    /// Takes events as an export has them, in that order, behind those that are there. An event whose id is known is
    /// passed over, so that an import that was cut off can be done again. Returns how many were taken, durably.
    async fn import(&self, events: Vec<StoredEvent>, now: Now) -> Result<usize, StoreError>;
}

/// Some events of an export.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// In the order of receipt.
    pub events: Vec<StoredEvent>,
    /// Events that cannot be read, by place, and why not.
    pub unreadable: Vec<(Sequence, String)>,
    /// Where the next ones begin, if there are more.
    pub next: Option<Sequence>,
}
