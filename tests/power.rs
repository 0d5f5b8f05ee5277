//! Loss of power at any moment loses nothing that was acknowledged (G1, G4), and what that rests on.
//!
//! The real program runs under load with `power/shim.c` preloaded, which writes down every write, sync and rename that
//! it makes. From that record the disk is put together as a loss of power may have left it at many moments: with all
//! that was durable by then, and of the rest whatever a cache that reorders happened to have written, down to single
//! sectors of one write. The store must open there, and know everything that had been acknowledged.
//!
//! That needs no rights, and takes the kernel's word for what is durable. [`file_systems`] does not: there the program
//! runs on a real ext4, xfs and btrfs, on a disk that writes down what reaches it ([`disk`]).
//!
//! `DOORBELL_POWER_ROUNDS` is the number of moments, on each file system (default 16; the long form is 200).

#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod file_systems;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use doorbell::clock::{Clock, SystemClock};
use doorbell::event::{BaseUrl, EventId, EventUrl, State};
use doorbell::store::sled::SledStore;
use doorbell::store::{Durability, EventStore, History, StoredEvent};
use reqwest::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::configuration;
use crate::support::marketplace::Marketplace;
use crate::support::process::{Process, doorbell};
use crate::support::receiver::{notify, token};
use crate::support::shim::shim;

const EVENTS: usize = 154;
const CALLERS: usize = 12;
/// More or less what it takes to make a store.
const FIRST_DEEDS: usize = 40;
/// What a disk writes in one piece, or not at all.
const SECTOR: usize = 512;

/// One thing the program did to its files.
#[derive(Debug)]
struct Deed {
    kind: Kind,
    /// Whether it was durable once the call had returned, by the attributes of the file or directory.
    is_synchronous: bool,
    call: u64,
    file: u64,
    offset: u64,
    name: String,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Returned,
    Sync,
    Truncate,
    Create,
    Rename,
    Unlink,
    MakeDirectory,
}

/// What can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// Files and directories with the synchronous-write attributes are synchronous.
    HonoursAttributes,
    /// Only what was synced explicitly is durable, as if there were no such attributes.
    IgnoresAttributes,
}

/// An event, and the moments at which the program gave its word: how much had been written down by then.
#[derive(Debug)]
struct Acknowledged {
    id: EventId,
    taken_on: u64,
    /// Its result had been taken.
    settled: u64,
    body: Vec<u8>,
}

/// Everything the program did, and the moments at which it gave its word.
struct Record {
    deeds: Vec<Deed>,
    /// Where each deed's record ends in the file.
    ends: Vec<u64>,
    returned_at: HashMap<u64, usize>,
    acknowledged: Vec<Acknowledged>,
}

impl Record {
    fn read(path: &Path, acknowledged: Vec<Acknowledged>) -> Self {
        let bytes = std::fs::read(path).expect("a record");
        let (mut deeds, mut ends, mut returned_at, mut at) = (Vec::new(), Vec::new(), HashMap::new(), 0);
        while bytes.len() - at >= 32 {
            let number = |from: usize, length: usize| {
                let mut number = [0; 8];
                number[..length].copy_from_slice(&bytes[at + from..at + from + length]);
                usize::try_from(u64::from_ne_bytes(number)).expect("fits")
            };
            let (name_length, data_length) = (number(2, 2), number(4, 4));
            let kind = match bytes[at] {
                1 => Kind::Write,
                2 => Kind::Returned,
                3 => Kind::Sync,
                4 => Kind::Truncate,
                5 => Kind::Create,
                6 => Kind::Rename,
                7 => Kind::Unlink,
                8 => Kind::MakeDirectory,
                other => panic!("{other} is no kind of deed"),
            };
            let name = at + 32..at + 32 + name_length;
            let data = name.end..name.end + data_length;
            at = data.end;
            if at > bytes.len() {
                break;
            }
            let start = name.start - 32;
            let field =
                |from: usize| u64::from_ne_bytes(bytes[start + from..start + from + 8].try_into().expect("eight"));
            let deed = Deed {
                kind,
                is_synchronous: bytes[start + 1] != 0,
                call: field(8),
                file: field(16),
                offset: field(24),
                name: String::from_utf8(bytes[name].to_vec()).expect("UTF-8"),
                data: bytes[data].to_vec(),
            };
            if kind == Kind::Returned {
                returned_at.insert(deed.call, deeds.len());
            }
            deeds.push(deed);
            ends.push(at as u64);
        }
        Self { deeds, ends, returned_at, acknowledged }
    }

    fn has_returned(&self, deed: &Deed, moment: usize) -> bool {
        self.returned_at.get(&deed.call).is_some_and(|returned| *returned < moment)
    }

    /// Puts the disk together in `directory` as it may be when power is lost before the deed at `moment`.
    fn lose_power(&self, moment: usize, disk: Disk, directory: &Path, chance: &mut Chance) {
        let deeds = &self.deeds[..moment];
        let honours = disk == Disk::HonoursAttributes;
        // A file's number is used again once it is gone: what counts is the latest file of that number.
        let mut file_of_number: HashMap<u64, usize> = HashMap::new();
        let mut file_of_deed = vec![usize::MAX; moment];
        let mut last_sync: HashMap<usize, usize> = HashMap::new();
        // Entries of directories become durable in their order, as a journal keeps them.
        let mut durable_entries = 0;
        for (index, deed) in deeds.iter().enumerate() {
            if matches!(deed.kind, Kind::Create | Kind::MakeDirectory) {
                file_of_number.insert(deed.file, index);
            }
            file_of_deed[index] = file_of_number.get(&deed.file).copied().unwrap_or(usize::MAX);
            match deed.kind {
                Kind::Sync if self.has_returned(deed, moment) => {
                    last_sync.insert(file_of_deed[index], index);
                    durable_entries = durable_entries.max(index);
                }
                Kind::Create | Kind::Rename | Kind::Unlink | Kind::MakeDirectory if deed.is_synchronous && honours => {
                    durable_entries = durable_entries.max(index + 1);
                }
                _ => {}
            }
        }

        let mut contents: HashMap<usize, Vec<u8>> = HashMap::new();
        for (index, deed) in deeds.iter().enumerate() {
            if !matches!(deed.kind, Kind::Write | Kind::Truncate) {
                continue;
            }
            let file = file_of_deed[index];
            let returned = self.has_returned(deed, moment);
            let synced_since =
                returned && last_sync.get(&file).is_some_and(|sync| self.returned_at[&deed.call] < *sync);
            let is_durable = synced_since || (returned && deed.is_synchronous && honours);
            let content = contents.entry(file).or_default();
            let offset = usize::try_from(deed.offset).expect("fits");
            if deed.kind == Kind::Truncate {
                if is_durable || chance.is_met() {
                    content.resize(offset, 0);
                }
                continue;
            }
            let (whole, torn) = if is_durable { (true, false) } else { (chance.is_met(), chance.is_met()) };
            for (number, sector) in deed.data.chunks(SECTOR).enumerate() {
                if (torn && chance.is_met()) || (!torn && whole) {
                    let start = offset + number * SECTOR;
                    if content.len() < start + sector.len() {
                        content.resize(start + sector.len(), 0);
                    }
                    content[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }

        let entries = durable_entries + chance.below(moment - durable_entries + 1);
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, deed) in deeds[..entries].iter().enumerate() {
            match deed.kind {
                Kind::Create | Kind::MakeDirectory => {
                    names.insert(&deed.name, index);
                }
                Kind::Rename => {
                    let file = names.remove(deed.name.as_str()).expect("what is renamed is there");
                    names.insert(std::str::from_utf8(&deed.data).expect("UTF-8"), file);
                }
                Kind::Unlink => {
                    names.remove(deed.name.as_str());
                }
                Kind::Write | Kind::Returned | Kind::Sync | Kind::Truncate => {}
            }
        }
        for (name, file) in names {
            let path = directory.join(name);
            if self.deeds[file].kind == Kind::MakeDirectory {
                std::fs::create_dir_all(path).expect("made");
            } else {
                std::fs::write(path, contents.get(&file).map_or(&[][..], Vec::as_slice)).expect("written");
            }
        }
    }
}

/// Draws that can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("fits")
    }

    fn is_met(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// Runs the program under load and returns all that it did.
async fn recorded(directory: &TempDir) -> Option<Record> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: what the program writes is recorded on Linux only");
        return None;
    }
    let probe = SledStore::open(&directory.path().join("probe"), false, SystemClock.read()).expect("opens");
    if !matches!(probe.describe().durability, Durability::Synchronous(_)) {
        eprintln!("skipped: the file system of {:?} has no synchronous-write attributes", directory.path());
        return None;
    }
    drop(probe);
    let Some(shim) = shim(directory.path()) else {
        eprintln!("skipped: no C compiler that can make a shared library");
        return None;
    };
    let marketplace = Arc::new(Marketplace::start().await);
    let (data, record) = (directory.path().join("data"), directory.path().join("record"));
    let file = directory.path().join("doorbell.toml");
    std::fs::write(&file, configuration(&marketplace.base_url, &format!("sled:{}", data.display()))).expect("written");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let variables = [("LD_PRELOAD", text(&shim)), ("POWER_DIRECTORY", text(&data)), ("POWER_RECORD", text(&record))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let process = Process::serve(&doorbell(), &file, &variables);

    let length = record.clone();
    let length = move || std::fs::metadata(&length).expect("a record").len();
    let acknowledged = load(&process, &marketplace, length).await;
    process.kill();
    Some(Record::read(&record, acknowledged))
}

/// Has the program take on and settle events of all sizes, and notes by `length` when it said so.
async fn load(
    process: &Process,
    marketplace: &Arc<Marketplace>,
    length: impl Fn() -> u64 + Clone + Send + 'static,
) -> Vec<Acknowledged> {
    let client = Client::new();
    let bearer = token(&client, &process.public, "marketplace", "outbound-secret").await;
    let base = BaseUrl::parse(&marketplace.base_url).expect("a base URL");
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (marketplace, client, bearer) = (Arc::clone(marketplace), client.clone(), bearer.clone());
        let (public, base, length) = (process.public.clone(), base.clone(), length.clone());
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in (caller..EVENTS).step_by(CALLERS) {
                // 1 KB to 1 MB.
                let padding = "x".repeat((1 << (10 + number % 11)) - 200);
                let body = json!({"type": "SUBSCRIPTION_ORDER", "payload": {"order": {"editionCode": padding}}});
                let id = number.to_string();
                let url = marketplace.event(&id, &body);
                let answer = notify(&client, &public, &bearer, "/create", &url).await;
                assert!(answer.status().is_success(), "{}", answer.status());
                let taken_on = length();
                marketplace.until_settled(&id).await;
                let settled = length();
                let url = EventUrl::parse(&url, [&base]).expect("an event URL");
                let (id, body) = (EventId::of("default", &url), body.to_string().into_bytes());
                acknowledged.push(Acknowledged { id, taken_on, settled, body });
            }
            acknowledged
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

fn rounds() -> usize {
    std::env::var("DOORBELL_POWER_ROUNDS").map_or(16, |text| text.parse().expect("a number"))
}

/// What is wrong with the store that a loss of power left behind.
async fn faults(acknowledged: &[Acknowledged], reached: u64, directory: &Path) -> Vec<String> {
    let store = match SledStore::open(directory, false, SystemClock.read()) {
        Ok(store) => store,
        Err(error) => return vec![format!("it does not open: {error}")],
    };
    let mut faults = Vec::new();
    for Acknowledged { id, taken_on, settled, body } in acknowledged {
        let event = match store.load(*id, true).await {
            Ok(event) => event,
            Err(error) => {
                faults.push(format!("{id}: {error}"));
                continue;
            }
        };
        let Some(StoredEvent { record: event, body: stored }) = event else {
            if *taken_on <= reached {
                faults.push(format!("{id} was acknowledged and is gone"));
            }
            continue;
        };
        if *settled <= reached && !matches!(event.state, State::Handled | State::Done) {
            faults.push(format!("{id} was reported and is {}", event.state));
        }
        if event.state != State::Received && stored.as_ref() != Some(body) {
            faults.push(format!("{id} is {} and its body is not as it was received", event.state));
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_at_any_moment_loses_nothing_acknowledged_by_the_attributes_and_does_without_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(record) = recorded(&directory).await else { return };
    let rounds = rounds();
    let seed = getrandom::u64().expect("randomness");
    let mut chance = Chance(seed);
    let mut lost_without = 0;
    for round in 0..rounds {
        let moment = match round % 4 {
            // Everything is acknowledged by then.
            0 if round == 0 => record.deeds.len(),
            // The store is only just being made.
            1 => chance.below(FIRST_DEEDS),
            _ => chance.below(record.deeds.len() + 1),
        };
        for disk in [Disk::HonoursAttributes, Disk::IgnoresAttributes] {
            let left = directory.path().join("left");
            std::fs::create_dir(&left).expect("made");
            record.lose_power(moment, disk, &left, &mut chance);
            let reached = if moment == 0 { 0 } else { record.ends[moment - 1] };
            let faults = faults(&record.acknowledged, reached, &left).await;
            match disk {
                Disk::HonoursAttributes => assert!(faults.is_empty(), "seed {seed}, moment {moment}: {faults:?}"),
                Disk::IgnoresAttributes => lost_without += usize::from(!faults.is_empty()),
            }
            std::fs::remove_dir_all(&left).expect("removed");
        }
    }
    eprintln!(
        "{rounds} losses of power over {} deeds, {} events of 1 KB to 1 MB: none lost; without the attributes {lost_without} would have lost some",
        record.deeds.len(),
        record.acknowledged.len()
    );
    assert!(lost_without > 0, "the rig found nothing that the attributes are needed for");
}
