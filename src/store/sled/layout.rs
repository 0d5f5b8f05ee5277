//! The keys of the store's one tree, by prefix:
//!
//! | key | value |
//! |---|---|
//! | `p` sequence | the record (see `codec`) of an event that is in progress |
//! | `e` sequence | the record of an event that has ended: done, deferred or dead |
//! | `b` sequence, chunk | the body as received, in pieces of at most 4 KiB, beside the record so that a change of state does not rewrite it |
//! | `j` number | entries of the index, which says where events that have ended are and how accounts stand (see `index`), as they come |
//! | `r` run | a sorted run of such entries: what is known of it |
//! | `i` run, name | its entries from this name on, 4 KiB at most |
//! | `f` run, piece | its filter |
//! | `s` name | a secret |
//! | `a` name | the status of an account that has no number in the index, once the event that left it so is gone |
//! | `c` | how far retention has come |
//! | `n` moment, key | a secret that is kept until that moment: nothing for a nonce that was used |
//! | `v` | version of this layout |
//!
//! Keys are in order of receipt, so that new events are appended and not scattered over the tree. What is in
//! progress stands apart from what has ended, so that opening the store reads the former only. Its ids are kept in
//! memory and enter the index with the event's end, so that a new event costs a single key: every key that is
//! written has its price in sled, however short it is.

use crate::clock::Timestamp;
use crate::store::stored_event::Sequence;

/// Version of the key layout.
pub(super) const VERSION: &str = "4";
pub(super) const LAYOUT: &[u8] = VERSION.as_bytes();
pub(super) const LAYOUT_KEY: &[u8] = b"v";
/// Prefix of the records of events in progress.
pub(super) const IN_PROGRESS: u8 = b'p';
/// Prefix of the records of events that have ended.
pub(super) const ENDED: u8 = b'e';
/// Prefix of the pieces of bodies.
pub(super) const BODY: u8 = b'b';
/// Prefix of the secrets.
pub(super) const SECRET: u8 = b's';
/// Prefix of the statuses of accounts that stand in no record any more.
const ACCOUNT: u8 = b'a';
pub(super) const RETENTION_KEY: &[u8] = b"c";
/// Prefix of the secrets that are kept for a time, such as nonces.
pub(super) const EXPIRING: u8 = b'n';
/// A secret's name and the moment until which it is kept.
pub(super) type ExpiringKey = [u8; 1 + 8 + 16];
/// Bytes of a body under one key. sled keeps larger values in files of their own, which it never syncs.
pub(super) const CHUNK: usize = 4096;

pub(super) fn key(kind: u8, sequence: Sequence) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

pub(super) fn secret_key(name: &str) -> Vec<u8> {
    [&[SECRET], name.as_bytes()].concat()
}

/// In order of the moments, so that those that may be forgotten lie together.
pub(super) fn expiring_key(until: Timestamp, name: [u8; 16]) -> ExpiringKey {
    let mut key = [EXPIRING; 1 + 8 + 16];
    key[1..9].copy_from_slice(&u64::try_from(until.as_millis()).unwrap_or(0).to_be_bytes());
    key[9..].copy_from_slice(&name);
    key
}

pub(super) fn account_key(name: &[u8; 16]) -> Vec<u8> {
    [&[ACCOUNT], name.as_slice()].concat()
}

/// The sequence in the last eight bytes of a record's key.
pub(super) fn sequence_of(bytes: &[u8]) -> Sequence {
    bytes.last_chunk().map_or(0, |chunk| Sequence::from_be_bytes(*chunk))
}
