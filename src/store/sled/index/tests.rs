//! The index against a map, wherever a crash cuts its writes.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sled::{Db, IVec};

use super::*;

const SMALL: Sizes = Sizes { memtable: 5, merged: 3 };

fn name(number: u64) -> Name {
    Name::of_account("default", &number.to_string())
}

fn entries(numbers: impl IntoIterator<Item = (u64, u64)>) -> Vec<Entry> {
    numbers.into_iter().map(|(of, number)| Entry { name: name(of), number }).collect()
}

/// Writes a group's entries as the store's writer does, until `left` keys have been written; entries go once they are
/// `gone`.
fn add(
    index: &mut IndexWriter,
    entries: &[Entry],
    mut left: usize,
    gone: &dyn Fn(u64) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let tree = index.reader().tree.clone();
    let mut write = |key: IVec, value: Option<IVec>| {
        left = left.checked_sub(1).ok_or(StoreError::Overloaded)?;
        match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(key),
        }
        .expect("written");
        Ok(())
    };
    index.log_ahead(entries, &mut write)?;
    index.show(entries);
    index.compact(entries.len(), gone, &mut write)
}

/// An index on a disk with room, whose names lead to numbers of their own.
struct Grown {
    db: Db,
    index: IndexWriter,
    next: u64,
}

impl Grown {
    fn new(sizes: Sizes) -> Self {
        let db = sled::Config::new().temporary(true).open().expect("opens");
        let index = IndexWriter::open(&db, sizes).expect("opens");
        Self { db, index, next: 0 }
    }

    fn grow(&mut self, count: u64) {
        self.grow_without(count, |_| false);
    }

    fn grow_without(&mut self, count: u64, gone: impl Fn(u64) -> bool) {
        for _ in 0..count {
            let entry = entries([(self.next, self.next)]);
            add(&mut self.index, &entry, usize::MAX, &|number| Ok(gone(number))).expect("written");
            self.next += 1;
        }
    }

    fn reopen(&mut self) {
        self.index = IndexWriter::open(&self.db, SMALL).expect("opens");
    }

    fn has(&self, number: u64) -> bool {
        let found = self.index.reader().get(name(number)).expect("read");
        assert!(found.is_none_or(|found| found == number), "{found:?} is not {number}");
        found.is_some()
    }

    fn keys(&self, kind: u8) -> usize {
        self.db.scan_prefix([kind]).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_number_that_was_written_last_is_found_wherever_a_crash_cuts_the_writes(
        groups in prop::collection::vec(
            (prop::collection::vec((0_u64..40, any::<u64>()), 0..12), prop::option::weighted(0.2, 0_usize..40)),
            1..60,
        )
    ) {
        let mut grown = Grown::new(SMALL);
        let mut known: HashMap<Name, u64> = HashMap::new();
        for (group, cut) in groups {
            let group = entries(group);
            let whole = add(&mut grown.index, &group, cut.unwrap_or(usize::MAX), &|_| Ok(false)).is_ok();
            let mut after = known.clone();
            after.extend(group.iter().map(|entry| (entry.name, entry.number)));
            if cut.is_some() {
                grown.reopen();
            }
            // Of a group that was cut off each of its keys may or may not be there, and nobody was told that it is.
            for name in (0..40).map(name) {
                let found = grown.index.reader().get(name).expect("read");
                let may_be = [known.get(&name).copied(), after.get(&name).copied()];
                prop_assert!(found == may_be[1] || (!whole && found == may_be[0]), "{found:?} is none of {may_be:?}");
                if let Some(found) = found {
                    known.insert(name, found);
                }
            }
        }
    }
}

#[test]
fn what_is_in_the_way_is_removed_and_runs_do_not_gather() {
    let mut grown = Grown::new(SMALL);
    for number in 0..2000 {
        grown.grow(1);
        let mut levels_of_runs = [0; 8];
        grown
            .index
            .index
            .look(|levels| levels.runs.iter().for_each(|run| levels_of_runs[usize::from(run.header.level)] += 1));
        assert!(levels_of_runs.iter().all(|runs| *runs < 2 * SMALL.merged), "after {number}: {levels_of_runs:?}");
        let (runs, headers) = (levels_of_runs.iter().sum::<usize>(), grown.keys(HEADER));
        assert!(headers <= runs + 3 * SMALL.merged, "after {number}: {headers} of {runs}");
        assert!(grown.keys(WAL) <= 4 * SMALL.memtable, "after {number}: {}", grown.keys(WAL));
    }
}

#[test]
fn what_a_crash_has_left_of_a_merge_is_removed_as_more_comes() {
    let mut grown = Grown::new(SMALL);
    while grown.index.merges.len() < 2 {
        grown.grow(1);
    }
    let stray = grown.index.next_run + 7;
    grown.db.insert(key(FILTER, stray), &[0; 8]).expect("written");
    grown.reopen();
    assert!(grown.index.next_run > stray);
    grown.grow(50);
    assert!(!grown.db.contains_key(key(FILTER, stray)).expect("read"));
}

#[test]
fn an_entry_whose_number_is_gone_goes_when_it_is_merged() {
    let mut grown = Grown::new(SMALL);
    for number in 0..400 {
        grown.grow_without(1, |found| found + 20 < number);
    }
    let left = (0..400).filter(|number| grown.has(*number)).count();
    assert!((20..200).contains(&left), "{left}");
    assert!((380..400).all(|number| grown.has(number)));
}

#[test]
fn a_run_stays_for_as_long_as_somebody_reads_it() {
    let mut grown = Grown::new(SMALL);
    grown.grow(SMALL.memtable as u64);
    let held = grown.index.index.look(|levels| Arc::clone(&levels.runs[0]));
    grown.grow(200);
    assert!(grown.index.index.look(|levels| levels.runs.iter().all(|run| run.number != held.number)), "it was merged");
    assert!((0..5).all(|number| held.get(&grown.db, name(number)).expect("read") == Some(number)));
    let number = held.number;
    drop(held);
    grown.grow(200);
    assert!(!grown.db.contains_key(key(HEADER, number)).expect("read"));
    assert_ne!(next_run_with(&grown.db, ENTRIES, number).expect("read"), Some(number));
}

#[test]
fn a_filter_lets_one_in_a_thousand_names_through_that_are_not_in_its_run() {
    const NAMES: u64 = 5000;
    let mut grown = Grown::new(Sizes { memtable: 5000, merged: 16 });
    grown.grow(NAMES);
    let run = grown.index.index.look(|levels| Arc::clone(&levels.runs[0]));
    assert!((0..NAMES).all(|number| run.may_have(name(number))));
    let let_through = (NAMES..21 * NAMES).filter(|number| run.may_have(name(*number))).count();
    assert!(let_through < 100, "{let_through} of {}", 20 * NAMES);
}

#[test]
fn a_filter_that_another_version_made_denies_nothing() {
    let mut grown = Grown::new(SMALL);
    grown.grow(SMALL.memtable as u64);
    let filters: Vec<_> = grown.db.scan_prefix([FILTER]).keys().map(|key| key.expect("read")).collect();
    assert_eq!(filters.len(), 1);
    for damage in [Some([0; 24]), None] {
        match damage {
            Some(bits) => grown.db.insert(&filters[0], &bits),
            None => grown.db.remove(&filters[0]),
        }
        .expect("written");
        grown.reopen();
        assert!(grown.index.index.look(|levels| levels.memtable.is_empty()));
        assert!((0..5).all(|number| grown.has(number)));
    }
}

#[test]
fn what_was_found_once_is_found_by_readers_at_any_moment() {
    let mut grown = Grown::new(Sizes { memtable: 50, merged: 4 });
    let reader = grown.index.reader().clone();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while grown.next < 20_000 {
                grown.grow(10);
                written.store(grown.next, Ordering::SeqCst);
            }
        });
        let mut number = 0;
        while !writer.is_finished() {
            let count = written.load(Ordering::SeqCst);
            if count > 0 {
                number = (number + 7919) % count;
                assert_eq!(reader.get(name(number)).expect("read"), Some(number), "of {count}");
            }
        }
    });
}
