//! From names to numbers: from the id of an event that has ended to its place in the order of receipt, and from an
//! account to how it stands.
//!
//! Names are scattered evenly, and a tree that keeps each in its place rewrites a random page for every one of them,
//! soon more than any cache holds and all over sled's log. So they are kept as a log-structured merge tree (O'Neil and
//! others, 1996): what comes is logged, one key for a whole group of writes, and kept in memory; when there is enough
//! of it, it is written as a sorted run; and when there are enough runs of one size, they are merged into one of the next.
//! Each run has a Bloom filter in memory, so that a name that is in none, as that of every new event, is hardly ever
//! looked for elsewhere. All of it lies in the store's one tree: runs are written in stretches, one after the other, and are never
//! changed, which is what sled does best.
//!
//! Of several entries with one name the one that was written last counts. For an event it is a hint: the record it
//! leads to says whether it is the event. So an event that is removed leaves its entry, which goes when it is merged.
//! For an account it is the truth, since nobody but the vendor names accounts.
//!
//! Nothing is done at once that grows with history: every group of writes merges twice as many entries, in every size of
//! runs, as it brings, and removes as many keys that are no longer needed. So a size's runs are merged before as many
//! of them have come again, and no caller waits for a merge.
//!
//! A crash may cut the writes of the index anywhere:
//!
//! - a run counts once it has its header, which is written last. What one without it has left is removed after the
//!   next start;
//! - a run's header says where the write-ahead log goes on, and only then the log before that is removed;
//! - a run whose span lies in that of another has been merged into it, and does not count, whether or not it is still there.

mod entry;
mod keys;
mod merge;
mod run;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use sled::Tree;

pub(super) use self::entry::{AccountState, Entry, Name, event_place};
pub(super) use self::keys::Sink;
use self::keys::{ENTRIES, FILTER, HEADER, WAL};
use self::merge::Merge;
use self::run::{Run, RunWriter, next_run_with};
use super::error::failed;
use super::layout::{CHUNK, key, sequence_of};
use crate::store::error::StoreError;

/// How large things are. One size is right; tests take smaller ones, to see the same happen sooner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Entries that make a run.
    pub(super) memtable: usize,
    /// Runs of one size that are merged.
    pub(super) merged: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { memtable: 16_384, merged: 16 }
    }
}

/// Entries that are merged in each size of runs, and keys that are removed, for each entry that comes.
const COMPACTION_RATIO: usize = 2;

/// The index as anybody may read it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    tree: Tree,
    levels: Arc<RwLock<Levels>>,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Levels {
    /// Entries that are in no run yet.
    memtable: HashMap<Name, u64>,
    /// The newest first.
    runs: Vec<Arc<Run>>,
}

impl Index {
    /// The number under `name`.
    pub(super) fn get(&self, name: Name) -> Result<Option<u64>, StoreError> {
        // A run that is held is not removed.
        let candidates: Vec<_> = {
            let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(number) = levels.memtable.get(&name) {
                return Ok(Some(*number));
            }
            levels.runs.iter().filter(|run| run.may_have(name)).cloned().collect()
        };
        for run in candidates {
            if let Some(number) = run.get(&self.tree, name)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Levels) -> T) -> T {
        change(&mut self.levels.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn look<T>(&self, look: impl FnOnce(&Levels) -> T) -> T {
        look(&self.levels.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keys that are no longer needed.
#[derive(Debug)]
enum Obsolete {
    /// The write-ahead log up to here.
    WalBefore(u64),
    /// A run that has been merged into another, and may still be read.
    Merged(Arc<Run>),
    /// A run that nobody knows: it has no header, or was merged in a process of before.
    Left(u64),
}

impl Obsolete {
    /// Whether somebody reads it still. Nobody begins to.
    fn is_read(&self) -> bool {
        matches!(self, Self::Merged(run) if Arc::strong_count(run) > 1)
    }

    /// Its keys, in the order in which they go: of a run the header first, without which the rest is nothing.
    fn keys(&self) -> Vec<Range<[u8; 9]>> {
        let of_run = |number| [HEADER, FILTER, ENTRIES].map(|kind| key(kind, number)..key(kind, number + 1)).to_vec();
        match self {
            Self::WalBefore(end) => vec![key(WAL, 0)..key(WAL, *end)],
            Self::Merged(run) => of_run(run.number),
            Self::Left(number) => of_run(*number),
        }
    }
}

/// The index as the one thread that writes has it.
#[derive(Debug)]
pub(super) struct IndexWriter {
    index: Index,
    sizes: Sizes,
    next_wal: u64,
    next_run: u64,
    /// Merges under way, by the level of what is merged.
    merges: BTreeMap<u8, Merge>,
    /// Whether runs have come since it was last looked which are to be merged.
    has_new_runs: bool,
    obsolete: VecDeque<Obsolete>,
}

impl IndexWriter {
    /// The index as the last process left it.
    pub(super) fn open(tree: &Tree, sizes: Sizes) -> Result<Self, StoreError> {
        let mut runs = Vec::new();
        for header in tree.scan_prefix([HEADER]) {
            let (key, header) = header.map_err(failed)?;
            runs.push(Run::open(tree, sequence_of(&key), &header)?);
        }
        let merged: Vec<_> = runs.iter().map(|run| runs.iter().any(|other| run.is_merged_into(other))).collect();
        let mut merged = merged.into_iter();
        runs.retain(|_| merged.next() == Some(false));
        runs.sort_by_key(|run| std::cmp::Reverse(run.header.span.1));

        let mut obsolete = VecDeque::new();
        let mut next_run = 0;
        for kind in [HEADER, FILTER, ENTRIES] {
            let mut from = 0;
            while let Some(number) = next_run_with(tree, kind, from)? {
                if runs.iter().all(|run| run.number != number) {
                    obsolete.push_back(Obsolete::Left(number));
                }
                from = number + 1;
            }
            next_run = next_run.max(from);
        }

        let in_runs = runs.iter().map(|run| run.header.wal).max().unwrap_or(0);
        obsolete.push_back(Obsolete::WalBefore(in_runs));
        let mut levels = Levels { memtable: HashMap::new(), runs: runs.into_iter().map(Arc::new).collect() };
        let mut next_wal = in_runs;
        for logged in tree.range(key(WAL, in_runs).as_slice()..&[WAL + 1]) {
            let (key, entries) = logged.map_err(failed)?;
            levels.memtable.extend(Entry::all(&entries).map(|entry| (entry.name, entry.number)));
            next_wal = sequence_of(&key) + 1;
        }
        let index = Index { tree: tree.clone(), levels: Arc::new(RwLock::new(levels)) };
        Ok(Self { index, sizes, next_wal, next_run, merges: BTreeMap::new(), has_new_runs: true, obsolete })
    }

    /// The index to read from.
    pub(super) fn reader(&self) -> &Index {
        &self.index
    }

    /// Writes entries so that they will be found again after a restart.
    pub(super) fn log_ahead(&mut self, entries: &[Entry], write: Sink<'_>) -> Result<(), StoreError> {
        for entries in entries.chunks(CHUNK / Entry::SIZE) {
            let bytes: Vec<_> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
            write(key(WAL, self.next_wal).as_slice().into(), Some(bytes.into()))?;
            self.next_wal += 1;
        }
        Ok(())
    }

    /// Shows entries that have been logged.
    pub(super) fn show(&self, entries: &[Entry]) {
        if !entries.is_empty() {
            self.index.change(|levels| levels.memtable.extend(entries.iter().map(|entry| (entry.name, entry.number))));
        }
    }

    /// Does the share of work that falls to so many entries that have come. An entry goes when it is merged and its
    /// number is `gone`.
    pub(super) fn compact(
        &mut self,
        entries: usize,
        gone: &dyn Fn(u64) -> Result<bool, StoreError>,
        write: Sink<'_>,
    ) -> Result<(), StoreError> {
        if self.index.look(|levels| levels.memtable.len()) >= self.sizes.memtable {
            self.write_memtable(write)?;
        }
        self.merge(entries * COMPACTION_RATIO, gone, write)?;
        self.remove_obsolete(entries * COMPACTION_RATIO, write)
    }

    /// Makes a run of the entries that are in none.
    fn write_memtable(&mut self, write: Sink<'_>) -> Result<(), StoreError> {
        let (mut entries, last) = self.index.look(|levels| {
            let entries = levels.memtable.iter().map(|(name, number)| Entry { name: *name, number: *number });
            (entries.collect::<Vec<_>>(), levels.runs.first().map(|run| run.header.span.1))
        });
        entries.sort_unstable_by_key(|entry| entry.name);
        let mut run = RunWriter::new(self.take_run_number(), entries.len());
        for entry in entries {
            run.push(entry, write)?;
        }
        let place = last.map_or(0, |last| last + 1);
        let run = run.finish(0, (place, place), self.next_wal, write)?;
        self.index.change(|levels| {
            levels.runs.insert(0, Arc::new(run));
            levels.memtable.clear();
        });
        self.obsolete.push_back(Obsolete::WalBefore(self.next_wal));
        self.has_new_runs = true;
        Ok(())
    }

    fn take_run_number(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run - 1
    }

    /// Goes on with the merges under way, and begins those that are due.
    fn merge(
        &mut self,
        count: usize,
        gone: &dyn Fn(u64) -> Result<bool, StoreError>,
        write: Sink<'_>,
    ) -> Result<(), StoreError> {
        for (level, mut merge) in std::mem::take(&mut self.merges) {
            if merge.step(&self.index.tree, count, gone, write)? {
                let (merged, inputs) = merge.finish(write)?;
                self.index.change(|levels| {
                    levels.runs.retain(|run| inputs.iter().all(|input| input.number != run.number));
                    levels.runs.push(Arc::new(merged));
                    levels.runs.sort_by_key(|run| std::cmp::Reverse(run.header.span.1));
                });
                self.obsolete.extend(inputs.into_iter().map(Obsolete::Merged));
                self.has_new_runs = true;
            } else {
                self.merges.insert(level, merge);
            }
        }
        if std::mem::take(&mut self.has_new_runs) { self.begin_merges() } else { Ok(()) }
    }

    fn begin_merges(&mut self) -> Result<(), StoreError> {
        let mut levels_of_runs: BTreeMap<u8, Vec<Arc<Run>>> = BTreeMap::new();
        self.index.look(|levels| {
            for run in &levels.runs {
                levels_of_runs.entry(run.header.level).or_default().push(Arc::clone(run));
            }
        });
        for (level, mut runs) in levels_of_runs {
            if runs.len() >= self.sizes.merged && !self.merges.contains_key(&level) {
                let oldest = runs.split_off(runs.len() - self.sizes.merged);
                let number = self.take_run_number();
                self.merges.insert(level, Merge::begin(&self.index.tree, oldest, number)?);
            }
        }
        Ok(())
    }

    /// Removes so many of the keys that are no longer needed.
    fn remove_obsolete(&mut self, mut count: usize, write: Sink<'_>) -> Result<(), StoreError> {
        while count > 0
            && let Some(obsolete) = self.obsolete.front()
            && !obsolete.is_read()
        {
            let before = count;
            for range in obsolete.keys() {
                for unneeded in self.index.tree.range(range).keys().take(count) {
                    write(unneeded.map_err(failed)?, None)?;
                    count -= 1;
                }
            }
            if count == before {
                self.obsolete.pop_front();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
