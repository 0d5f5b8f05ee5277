//! Loss of power on each file system that the documentation names, as the kernel of this machine has it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use doorbell::clock::{Clock, SystemClock};
use doorbell::store::sled::SledStore;
use doorbell::store::{Durability, EventStore, FileSystem};

use super::disk::{BTRFS, EXT4, Kind, Mounted, RecordedDisk, XFS};
use super::{Chance, faults, load, rounds};
use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};

/// Beyond what the harness keeps to itself of tests that pass.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A store's directory lies in `place`; sled lets go of its files a moment after it was closed.
fn wait_until_released(directory: &Path) {
    if let Ok(log) = std::fs::File::open(directory.join("sled/db")) {
        log.lock().expect("locked");
    }
}

async fn loses_nothing_on(kind: Kind) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = match RecordedDisk::new(kind, directory.path()) {
        Ok(disk) => disk,
        Err(reason) => {
            return say(&format!(
                "NOT TESTED: loss of power on {}, since it cannot be mounted here: {reason}",
                kind.name
            ));
        }
    };
    let marketplace = Arc::new(Marketplace::start().await);
    let (place, file) = (directory.path().join("place"), directory.path().join("doorbell.toml"));
    let data = place.join("data");
    let acknowledged = {
        let (_session, device) = match disk.serve(&directory.path().join("fuse")) {
            Ok(served) => served,
            Err(reason) => return say(&format!("NOT TESTED: loss of power on {}: {reason}", kind.name)),
        };
        let _mounted = Mounted::new(kind, &device, &place).expect("mounted");
        let text = configuration(&marketplace.base_url, &format!("sled:{}", data.display()));
        std::fs::write(&file, text.replacen("[store]", "[store]\nrequire_durable = true", 1)).expect("written");
        let process = Process::serve(&doorbell(), &file, &[]);
        let counted = disk.clone();
        let acknowledged = load(&process, &marketplace, move || counted.length() as u64).await;
        process.kill();
        acknowledged
    };

    let seed = getrandom::u64().expect("randomness");
    let mut chance = Chance(seed);
    let (image, rounds) = (directory.path().join("left"), rounds());
    let last = acknowledged.iter().map(|event| event.settled).max().expect("an event");
    for round in 0..rounds {
        let any = &acknowledged[chance.below(acknowledged.len())];
        let moment = match round % 4 {
            0 if round == 0 => last,
            // Just as a caller has been told.
            0 | 1 => any.taken_on,
            2 => any.settled,
            _ => chance.below(usize::try_from(last).expect("fits") + 1) as u64,
        };
        disk.lose_power(usize::try_from(moment).expect("fits"), &image, &mut chance);
        let mounted = Mounted::new(kind, &image, &place);
        let mounted = mounted.unwrap_or_else(|error| panic!("seed {seed}, round {round}, moment {moment}: {error}"));
        let faults = faults(&acknowledged, moment, &data).await;
        wait_until_released(&data);
        drop(mounted);
        assert!(faults.is_empty(), "{}, seed {seed}, round {round}, moment {moment}: {faults:?}", kind.name);
    }
    say(&format!(
        "{rounds} losses of power on {}, {} events of 1 KB to 1 MB: none lost",
        kind.name,
        acknowledged.len()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_on_ext4_loses_nothing_acknowledged() {
    loses_nothing_on(EXT4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_on_xfs_loses_nothing_acknowledged() {
    loses_nothing_on(XFS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_on_btrfs_loses_nothing_acknowledged() {
    loses_nothing_on(BTRFS).await;
}

/// Runs `test` in a directory of a file system of this kind, if there can be one.
fn with_mounted(kind: Kind, test: impl FnOnce(&RecordedDisk, &Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = RecordedDisk::new(kind, directory.path());
    let served = disk.and_then(|disk| Ok((disk.serve(&directory.path().join("fuse"))?, disk)));
    let ((_session, device), disk) = match served {
        Ok(served) => served,
        Err(reason) => {
            return say(&format!("NOT TESTED: a store on {}, since it cannot be mounted here: {reason}", kind.name));
        }
    };
    let place = directory.path().join("place");
    let _mounted = Mounted::new(kind, &device, &place).expect("mounted");
    test(&disk, &place);
}

#[test]
fn a_store_says_what_makes_its_writes_durable_by_the_flags_of_its_own_log() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    for (kind, file_system) in [(EXT4, FileSystem::Ext4), (XFS, FileSystem::Xfs), (BTRFS, FileSystem::Btrfs)] {
        with_mounted(kind, |_, place| {
            let directory = place.join("new").join("data");
            let store = SledStore::open(&directory, true, SystemClock.read()).expect("opens");
            assert_eq!(store.describe().durability, Durability::Synchronous(file_system));
            drop(store);
            wait_until_released(&directory);
            // As a restored backup has it: the directory carries the attribute, and the log does not.
            let log = std::fs::File::open(directory.join("sled/db")).expect("a log");
            let flags = ioctl_getflags(&log).expect("flags");
            assert!(flags.contains(IFlags::SYNC), "{}", kind.name);
            ioctl_setflags(&log, flags.difference(IFlags::SYNC)).expect("set");
            let store = SledStore::open(&directory, true, SystemClock.read()).expect("opens");
            assert_eq!(store.describe().durability, Durability::Synchronous(file_system));
            assert!(ioctl_getflags(&log).expect("flags").contains(IFlags::SYNC), "{}", kind.name);
            drop(store);
            drop(log);
            wait_until_released(&directory);
        });
    }
}

#[test]
fn a_store_that_is_opened_goes_by_what_the_disk_holds_and_not_by_what_the_kernel_remembers() {
    // After a failed write Linux keeps the page as it was to be, and calls it clean.
    for kind in [EXT4, XFS, BTRFS] {
        with_mounted(kind, |disk, place| {
            let directory = place.join("data");
            drop(SledStore::open(&directory, false, SystemClock.read()).expect("opens"));
            wait_until_released(&directory);
            let path = directory.join("sled").join("a file of sled's");
            // What is replaced is the smallest block that a file system keeps together, and the file too long to lie
            // among its metadata.
            let (remembered, held) = ([b'r'; 1024], [b'h'; 1024]);
            let (all_remembered, all_held) = ([b'r'; 8 * 1024], [b'h'; 8 * 1024]);
            let file = std::fs::File::create(&path).and_then(|mut file| {
                file.write_all(&all_remembered)?;
                file.sync_all()
            });
            file.expect("written");
            if kind.name == BTRFS.name {
                // It has checksums of its own: what differs from them is refused, and never taken for what was written.
                assert!(disk.replace(&remembered, &held) > 0);
                drop(SledStore::open(&directory, false, SystemClock.read()).expect("opens"));
                assert!(std::fs::read(&path).is_err());
            } else {
                assert_eq!(disk.replace(&remembered, &held), 8, "{}", kind.name);
                assert_eq!(std::fs::read(&path).expect("read"), all_remembered, "{}", kind.name);
                drop(SledStore::open(&directory, false, SystemClock.read()).expect("opens"));
                assert_eq!(std::fs::read(&path).expect("read"), all_held, "{}", kind.name);
            }
            wait_until_released(&directory);
        });
    }
}

#[test]
fn a_file_system_that_was_not_tested_is_refused_by_its_name_where_the_store_must_be_durable() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return say("NOT TESTED: a store on tmpfs, since /dev/shm cannot be written");
    };
    let open = |require_durable| SledStore::open(&directory.path().join("data"), require_durable, SystemClock.read());
    let error = open(true).expect_err("refused").to_string();
    assert!(error.contains("log synced after each write on tmpfs"), "{error}");
    assert!(error.contains("put store.url on ext4, xfs or btrfs"), "{error}");
    let store = open(false).expect("opens");
    assert_eq!(store.describe().durability, Durability::SyncedLog(FileSystem::Other("tmpfs")));
    assert!(!store.describe().durability.is_proven());
}
