//! Sorted runs: entries that were written once, in order of their names, and are never changed.

use std::ops::Bound;

use fastbloom::BloomFilter;
use serde::{Deserialize, Serialize};
use sled::{IVec, Tree};

use super::super::error::failed;
use super::super::layout::{CHUNK, key};
use super::entry::{Entry, NAME, Name};
use super::keys::{ENTRIES, FILTER, HEADER, Sink};
use crate::store::error::StoreError;

/// Entries under one key.
const PER_CHUNK: usize = CHUNK / Entry::SIZE;
/// Bits of a filter for each entry: one in two thousand names that are not in a run is looked for there.
const BITS: usize = 16;
/// Bits that an entry sets: what is best for so many.
const HASHES: u32 = 11;

/// What is known of a run: written last, so that a run that has one is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// How often its entries have been merged.
    #[serde(rename = "tier")]
    pub(super) level: u8,
    /// The first and the last of the runs of level 0 that went into it, in order of writing. Of two runs the one with the
    /// later last one is the newer, and one whose span lies in another's has been merged into that.
    pub(super) span: (u64, u64),
    /// Its entries, at most.
    pub(super) entries: usize,
    /// Where the write-ahead log goes on that is not in this run nor in an older one.
    #[serde(rename = "journal")]
    pub(super) wal: u64,
}

/// A run that can be read.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) header: Header,
    filter: BloomFilter,
}

impl Run {
    /// Opens a run that has been written.
    pub(super) fn open(tree: &Tree, number: u64, header: &[u8]) -> Result<Self, StoreError> {
        let header: Header = serde_json::from_slice(header).map_err(|error| {
            StoreError::Unreadable(format!("the header of part {number} of the index cannot be read: {error}"))
        })?;
        let mut bits = Vec::new();
        for piece in tree.scan_prefix(key(FILTER, number)).values() {
            let piece = piece.map_err(failed)?;
            bits.extend(
                piece.chunks_exact(8).filter_map(|bits| bits.first_chunk().map(|bits| u64::from_be_bytes(*bits))),
            );
        }
        let filter = if bits.is_empty() { empty_filter(0) } else { BloomFilter::from_vec(bits).hashes(HASHES) };
        let mut run = Self { number, header, filter };
        // The bits are a library's: a filter that another version made must not deny what is there.
        let first = run.chunk_after(tree, None)?;
        if first.is_some_and(|(_, chunk)| Entry::all(&chunk).any(|entry| !run.filter.contains_hash(entry.name.hash())))
        {
            run.filter = run.filter_made_anew(tree)?;
        }
        Ok(run)
    }

    fn filter_made_anew(&self, tree: &Tree) -> Result<BloomFilter, StoreError> {
        let mut filter = empty_filter(self.header.entries);
        let mut last = None;
        while let Some((first, chunk)) = self.chunk_after(tree, last)? {
            for entry in Entry::all(&chunk) {
                filter.insert_hash(entry.name.hash());
            }
            last = Some(first);
        }
        Ok(filter)
    }

    /// The number under `name`, if it is in this run.
    pub(super) fn get(&self, tree: &Tree, name: Name) -> Result<Option<u64>, StoreError> {
        let range = entries_key(self.number, &[0; NAME])..=entries_key(self.number, name.as_bytes());
        let Some(chunk) = tree.range(range).next_back() else { return Ok(None) };
        let (_, chunk) = chunk.map_err(failed)?;
        Ok(Entry::search(&chunk, name).map(|entry| entry.number))
    }

    /// Whether `name` may be in this run.
    pub(super) fn may_have(&self, name: Name) -> bool {
        self.filter.contains_hash(name.hash())
    }

    /// The entries under the key that follows that of `last`, and its name.
    pub(super) fn chunk_after(&self, tree: &Tree, last: Option<Name>) -> Result<Option<(Name, IVec)>, StoreError> {
        let start = match last {
            Some(last) => Bound::Excluded(entries_key(self.number, last.as_bytes())),
            None => Bound::Included(entries_key(self.number, &[0; NAME])),
        };
        let end = Bound::Included(entries_key(self.number, &[u8::MAX; NAME]));
        let Some(chunk) = tree.range((start, end)).next() else { return Ok(None) };
        let (_, chunk) = chunk.map_err(failed)?;
        Ok(Entry::at(&chunk, 0).map(|first| (first.name, chunk)))
    }

    /// Whether this run's entries are all in `other`, too, which was made of it.
    pub(super) fn is_merged_into(&self, other: &Run) -> bool {
        let (own, others) = (self.header.span, other.header.span);
        self.header.level < other.header.level && others.0 <= own.0 && own.1 <= others.1
    }
}

/// A run that is being written.
#[derive(Debug)]
pub(super) struct RunWriter {
    number: u64,
    /// Room in the filter.
    capacity: usize,
    filter: BloomFilter,
    chunk: Vec<u8>,
}

impl RunWriter {
    /// Begins the run of this number, for so many entries at most.
    pub(super) fn new(number: u64, capacity: usize) -> Self {
        Self { number, capacity, filter: empty_filter(capacity), chunk: Vec::with_capacity(CHUNK) }
    }

    /// Adds an entry, whose name comes after that of the last one.
    pub(super) fn push(&mut self, entry: Entry, write: Sink<'_>) -> Result<(), StoreError> {
        self.filter.insert_hash(entry.name.hash());
        self.chunk.extend_from_slice(&entry.to_bytes());
        if self.chunk.len() == PER_CHUNK * Entry::SIZE { self.write_chunk(write) } else { Ok(()) }
    }

    fn write_chunk(&mut self, write: Sink<'_>) -> Result<(), StoreError> {
        if let Some(first) = Entry::at(&self.chunk, 0) {
            write(entries_key(self.number, first.name.as_bytes()).into(), Some(self.chunk.as_slice().into()))?;
            self.chunk.clear();
        }
        Ok(())
    }

    /// Ends the run: what is left, the filter, and last the header.
    pub(super) fn finish(mut self, level: u8, span: (u64, u64), wal: u64, write: Sink<'_>) -> Result<Run, StoreError> {
        self.write_chunk(write)?;
        let pieces = self.filter.as_slice().chunks(CHUNK / 8);
        for (piece, bits) in (0_u32..).zip(pieces) {
            let piece_key = [key(FILTER, self.number).as_slice(), &piece.to_be_bytes()].concat();
            let bits: Vec<_> = bits.iter().flat_map(|bits| bits.to_be_bytes()).collect();
            write(piece_key.into(), Some(bits.into()))?;
        }
        let header = Header { level, span, entries: self.capacity, wal };
        let encoded = serde_json::to_vec(&header).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        write(key(HEADER, self.number).as_slice().into(), Some(encoded.into()))?;
        Ok(Run { number: self.number, header, filter: self.filter })
    }
}

fn empty_filter(entries: usize) -> BloomFilter {
    BloomFilter::with_num_bits(BITS * entries.max(1)).hashes(HASHES)
}

/// The key of the entries from the one of this name on.
fn entries_key(number: u64, name: &[u8; NAME]) -> Vec<u8> {
    [key(ENTRIES, number).as_slice(), name].concat()
}

/// The first run at or after `number` that has something under keys that begin with `kind`.
pub(super) fn next_run_with(tree: &Tree, kind: u8, number: u64) -> Result<Option<u64>, StoreError> {
    let Some(next) = tree.range(key(kind, number).as_slice()..&[kind + 1]).keys().next() else { return Ok(None) };
    let next = next.map_err(failed)?;
    Ok(next.get(1..).and_then(|rest| rest.first_chunk()).map(|number| u64::from_be_bytes(*number)))
}
