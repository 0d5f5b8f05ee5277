use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sled::Db;

use super::*;

const SMALL: Sizes = Sizes { recent: 5, merged: 3 };

fn database() -> Db {
    sled::Config::new().temporary(true).open().expect("opens")
}

fn name(number: u64) -> Name {
    Name::of_account("default", &number.to_string())
}

fn entries(numbers: impl IntoIterator<Item = (u64, u64)>) -> Vec<Entry> {
    numbers.into_iter().map(|(of, number)| Entry { name: name(of), number }).collect()
}

/// Writes that come to an end after so many.
struct Disk {
    tree: Tree,
    left: usize,
}

impl Disk {
    fn write(&mut self, key: IVec, value: Option<IVec>) -> Result<(), StoreError> {
        self.left = self.left.checked_sub(1).ok_or(StoreError::Overloaded)?;
        match value {
            Some(value) => self.tree.insert(key, value),
            None => self.tree.remove(key),
        }
        .expect("written");
        Ok(())
    }
}

/// What the store's writer does with a group's entries; nothing is gone.
fn add(index: &mut IndexWriter, entries: &[Entry], disk: &mut Disk) -> Result<(), StoreError> {
    index.journal(entries, &mut |key, value| disk.write(key, value))?;
    index.show(entries);
    index.tend(entries.len(), &|_| Ok(false), &mut |key, value| disk.write(key, value))
}

fn keys(tree: &Tree, kind: u8) -> usize {
    tree.scan_prefix([kind]).count()
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
        let db = database();
        let mut index = IndexWriter::open(&db, SMALL).expect("opens");
        let mut known: HashMap<Name, u64> = HashMap::new();
        for (group, cut) in groups {
            let group = entries(group);
            let mut disk = Disk { tree: (*db).clone(), left: cut.unwrap_or(usize::MAX) };
            let whole = add(&mut index, &group, &mut disk).is_ok();
            let mut after = known.clone();
            after.extend(group.iter().map(|entry| (entry.name, entry.number)));
            if cut.is_some() {
                index = IndexWriter::open(&db, SMALL).expect("opens");
            }
            // Of a group that was cut off each of its keys may or may not be there, and nobody was told that it is.
            for name in (0..40).map(name) {
                let found = index.reader().get(name).expect("read");
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
    let db = database();
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
    for number in 0..2000 {
        add(&mut index, &entries([(number, number)]), &mut disk).expect("written");
        let mut tiers = [0; 8];
        index.index.look(|shape| shape.runs.iter().for_each(|run| tiers[usize::from(run.header.tier)] += 1));
        assert!(tiers.iter().all(|runs| *runs < 2 * SMALL.merged), "after {number}: {tiers:?}");
        // A merge under way has written what is no run yet.
        let runs: usize = tiers.iter().sum::<usize>() + index.merges.len();
        assert!(keys(&db, JOURNAL) <= 4 * SMALL.recent, "after {number}: {}", keys(&db, JOURNAL));
        assert!(keys(&db, HEADER) <= runs + 3 * SMALL.merged, "after {number}: {} of {runs}", keys(&db, HEADER));
    }
}

#[test]
fn what_a_crash_has_left_of_a_merge_is_removed_as_more_comes() {
    let db = database();
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
    let mut next = 0;
    let mut add_more = |index: &mut IndexWriter| {
        add(index, &entries([(next, next)]), &mut disk).expect("written");
        next += 1;
    };
    while index.merges.len() < 2 {
        add_more(&mut index);
    }
    let stray = index.next_run;
    db.insert(key(FILTER, stray + 7), &[0; 8]).expect("written");
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    assert!(index.next_run > stray + 7);
    for _ in 0..50 {
        add_more(&mut index);
    }
    assert!(!db.contains_key(key(FILTER, stray + 7)).expect("read"));
}

#[test]
fn an_entry_whose_number_is_gone_goes_when_it_is_merged() {
    let db = database();
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
    for number in 0..400 {
        let group = entries([(number, number)]);
        index.journal(&group, &mut |key, value| disk.write(key, value)).expect("written");
        index.show(&group);
        let gone = |found| Ok(found + 20 < number);
        index.tend(1, &gone, &mut |key, value| disk.write(key, value)).expect("written");
    }
    let left = (0..400).filter(|number| index.reader().get(name(*number)).expect("read").is_some()).count();
    assert!((20..200).contains(&left), "{left}");
    assert!((380..400).all(|number| index.reader().get(name(number)).expect("read") == Some(number)));
}

#[test]
fn a_run_stays_for_as_long_as_somebody_reads_it() {
    let db = database();
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
    let mut next = 0;
    let mut add_some = |index: &mut IndexWriter, count| {
        for _ in 0..count {
            add(index, &entries([(next, next)]), &mut disk).expect("written");
            next += 1;
        }
    };
    add_some(&mut index, SMALL.recent as u64);
    let held = index.index.look(|shape| Arc::clone(&shape.runs[0]));
    add_some(&mut index, 200);
    assert!(index.index.look(|shape| shape.runs.iter().all(|run| run.number != held.number)), "it was merged");
    assert!((0..5).all(|number| held.get(&db, name(number)).expect("read") == Some(number)));
    let number = held.number;
    drop(held);
    add_some(&mut index, 200);
    assert!(!db.contains_key(key(HEADER, number)).expect("read"));
    assert_eq!(next_run_with(&db, ENTRIES, number).expect("read").filter(|next| *next == number), None);
}

#[test]
fn a_filter_that_another_version_made_denies_nothing() {
    let db = database();
    let mut index = IndexWriter::open(&db, SMALL).expect("opens");
    let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
    add(&mut index, &entries((0..5).map(|number| (number, number))), &mut disk).expect("written");
    let filters: Vec<_> = db.scan_prefix([FILTER]).keys().map(|key| key.expect("read")).collect();
    assert_eq!(filters.len(), 1);
    for damage in [Some([0; 24]), None] {
        match damage {
            Some(bits) => db.insert(&filters[0], &bits),
            None => db.remove(&filters[0]),
        }
        .expect("written");
        let index = IndexWriter::open(&db, SMALL).expect("opens");
        assert!(keys(&db, JOURNAL) == 0 || index.index.look(|shape| shape.recent.is_empty()));
        assert!((0..5).all(|number| index.reader().get(name(number)).expect("read") == Some(number)));
    }
}

#[test]
fn what_was_found_once_is_found_by_readers_at_any_moment() {
    const NAMES: u64 = 20_000;
    let db = database();
    let mut index = IndexWriter::open(&db, Sizes { recent: 50, merged: 4 }).expect("opens");
    let reader = index.reader().clone();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut disk = Disk { tree: (*db).clone(), left: usize::MAX };
            for first in (0..NAMES).step_by(10) {
                let group = entries((first..first + 10).map(|number| (number, number)));
                add(&mut index, &group, &mut disk).expect("written");
                written.store(first + 10, Ordering::SeqCst);
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
