//! The keys of the index within the store's one tree, by prefix.

use sled::IVec;

use crate::store::error::StoreError;

/// Prefix of the entries that are in no run yet.
pub(super) const WAL: u8 = b'j';
/// Prefix of the runs' headers.
pub(super) const HEADER: u8 = b'r';
/// Prefix of the runs' filters.
pub(super) const FILTER: u8 = b'f';
/// Prefix of the runs' entries.
pub(super) const ENTRIES: u8 = b'i';

/// Writes a key's value, or removes it.
pub(in super::super) type Sink<'a> = &'a mut dyn FnMut(IVec, Option<IVec>) -> Result<(), StoreError>;
