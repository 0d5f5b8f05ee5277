//! What sled's store keeps beyond the contract: damage, crashes, layouts, and that it agrees with memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::OpenError;
use super::directory::{DATABASE, MARKER};
use super::index::{Name, Sizes};
use super::layout::{CHUNK, ENDED, IN_PROGRESS, LAYOUT_KEY, account_key, key};
use super::store::{Kept, SledStore};
use super::writer::Write;
use crate::clock::{ManualClock, Now};
use crate::event::{AccountStatus, BaseUrl, EventRecord, EventResult, EventUrl, Notification, State};
use crate::store::conformance::{at, claim as take, dead, fetched, notification, record, retry, wall};
use crate::store::memory::MemoryStore;
use crate::store::{
    Accounts, Advanced, Backup, Claim, Completion, Durability, EventStore, Filter, History, Inbox, OperatorAction,
    Progress, Pruned, Queue, QueueError, Recorded, Sequence, StoreError, StoredEvent, codec, prune_from_time_to_time,
};

crate::store::conformance::conformance!(
    48,
    {
        let directory = tempfile::tempdir().expect("a directory");
        let store = crate::store::sled::SledStore::open(directory.path(), false, crate::store::conformance::at(0));
        (store.expect("opens"), directory)
    },
    Some(|directory: &tempfile::TempDir, now| {
        let store = crate::store::sled::SledStore::open(directory.path(), false, now).expect("opens");
        crate::store::conformance::both_handles(store)
    })
);

/// A store whose index does sooner what it does otherwise after many thousand events.
fn open(directory: &Path) -> SledStore {
    open_at(directory, at(0))
}

fn open_at(directory: &Path, now: Now) -> SledStore {
    SledStore::open_with(directory, false, now, Sizes { memtable: 2, merged: 2 }, Kept::default()).expect("opens")
}

/// Records an event and works it off.
async fn finish(store: &SledStore, token: &str, seconds: u32) {
    store.record(&notification(token), at(seconds)).await.expect("recorded");
    let claim = take(store, at(seconds)).await.expect("the event");
    let advanced = store.advance(claim, &fetched(None, b"{}"), at(seconds)).await.expect("fetched");
    let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
    store.settle(claim, &Completion::Done(None), at(seconds)).await.expect("settled");
}

#[tokio::test]
async fn events_are_known_for_as_long_as_they_are_kept_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for number in 0..100 {
        finish(&store, &format!("old-{number}"), number).await;
    }
    while !store.prune(wall(90), wall(100), 64).await.expect("pruned").is_through {}
    // An entry goes when it is merged, and it is merged as others come.
    for number in 100..400 {
        finish(&store, &format!("new-{number}"), number).await;
    }
    for number in 0..400 {
        let token = if number < 100 { format!("old-{number}") } else { format!("new-{number}") };
        let event = record(&store, notification(&token).id()).await;
        assert_eq!(event.is_some(), number >= 90, "{token}");
    }
    let left = |name: &str| store.lookup.index.get(Name::of_event(notification(name).id())).expect("read").is_some();
    let (old, kept) = (0..90, 90..100);
    assert_eq!(old.filter(|number| left(&format!("old-{number}"))).count(), 0);
    assert_eq!(kept.filter(|number| left(&format!("old-{number}"))).count(), 10);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_is_worked_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for token in ["done", "handled", "received"] {
        store.record(&notification(token), at(0)).await.expect("recorded");
    }
    for token in ["done", "handled"] {
        let claim = take(&store, at(1)).await.expect(token);
        let Advanced::Proceed(claim) = store.advance(claim, &fetched(None, b"{}"), at(1)).await.expect("fetched")
        else {
            panic!()
        };
        let step = Progress::Handled(EventResult::success(token));
        let Advanced::Proceed(claim) = store.advance(claim, &step, at(1)).await.expect("handled") else { panic!() };
        if token == "done" {
            store.settle(claim, &Completion::Done(None), at(1)).await.expect("settled");
        }
    }
    drop(store);

    let store = open_at(directory.path(), at(2));
    let mut held = Vec::new();
    while let Some(claim) = take(&store, at(2)).await {
        held.push(claim);
    }
    let states: Vec<_> = held.iter().map(|claim| claim.event().state).collect();
    assert_eq!(states, [State::Received, State::Handled]);
    let Ok(Recorded::Duplicate(done)) = store.record(&notification("done"), at(3)).await else { panic!("known") };
    assert_eq!(done.state, State::Done);
}

#[tokio::test]
async fn after_a_failure_to_make_writes_durable_nothing_is_acknowledged_and_the_store_is_not_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    store.record(&notification("before"), at(0)).await.expect("recorded");
    store.ready().await.expect("ready");
    let failure = StoreError::Unavailable("the disk is full".to_owned());
    store.failure.set(failure.clone()).expect("the first one");
    assert_eq!(store.record(&notification("after"), at(1)).await, Err(failure.clone()));
    assert_eq!(store.record(&notification("before"), at(1)).await, Err(failure.clone()));
    assert_eq!(store.ready().await, Err(failure));
    drop(store);
    let store = open(directory.path());
    assert_eq!(record(&store, notification("after").id()).await, None);
    assert!(record(&store, notification("before").id()).await.is_some());
}

#[test]
fn a_directory_that_is_in_use_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let _held = open(directory.path());
    let error = SledStore::open(directory.path(), false, at(0)).expect_err("in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("stop that one"), "{error}");
}

#[test]
fn a_store_that_held_events_and_opens_empty_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    std::fs::remove_dir_all(directory.path().join(DATABASE)).expect("removed");
    let error = SledStore::open(directory.path(), false, at(0)).expect_err("emptied");
    assert!(error.to_string().contains("it held events before and is empty now"), "{error}");
}

#[test]
fn a_damaged_store_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    let config = directory.path().join(DATABASE).join("conf");
    std::fs::write(config, b"this is no sled configuration").expect("overwritten");
    let error = SledStore::open(directory.path(), false, at(0)).expect_err("damaged");
    assert!(error.to_string().contains("doorbell events import"), "{error}");
}

#[test]
fn a_store_of_another_layout_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    store.lookup.tree.insert(LAYOUT_KEY, b"3").expect("written");
    drop(store);
    let error = SledStore::open(directory.path(), false, at(0)).expect_err("another layout").to_string();
    assert!(error.contains("layout 3, and this doorbell reads layout 4; write a copy"), "{error}");
}

#[test]
fn a_store_whose_making_was_cut_off_is_made_anew_and_what_there_was_is_kept_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join(DATABASE);
    std::fs::create_dir(&database).expect("made");
    std::fs::write(database.join("conf"), b"this is half a sled conf").expect("written");
    for _ in 0..2 {
        drop(open(directory.path()));
    }
    assert!(directory.path().join("sled.unfinished").join("conf").exists());
}

#[test]
fn a_snapshot_torn_by_a_crash_does_not_keep_the_store_from_opening() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    std::fs::write(directory.path().join(DATABASE).join("snap.0000.generating"), b"torn").expect("written");
    open(directory.path());
}

#[cfg(target_os = "linux")]
#[test]
fn every_file_is_written_synchronously_where_the_file_system_can() {
    use rustix::fs::{IFlags, ioctl_getflags};
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    if !matches!(store.describe().durability, Durability::Synchronous(_)) {
        eprintln!("skipped: the file system of {:?} has no synchronous-write attributes", directory.path());
        return;
    }
    drop(store);
    for entry in std::fs::read_dir(directory.path().join(DATABASE)).expect("listed") {
        let path = entry.expect("an entry").path();
        let flags = ioctl_getflags(File::open(&path).expect("opened")).expect("flags");
        assert!(flags.contains(IFlags::SYNC), "{path:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_writer_is_a_failed_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    assert!(!store.has_failed());
    let lost = store.write(Write::Panic).await.expect_err("nobody answers");
    assert!(matches!(lost, StoreError::Unavailable(_)), "{lost}");
    assert!(store.has_failed());
    let refused = store.record(&notification("a"), at(0)).await.expect_err("nobody writes");
    assert_eq!((refused, store.ready().await), (lost.clone(), Err(lost)));
}

#[tokio::test]
async fn a_panic_of_the_writer_is_found_by_whoever_asks_whether_the_store_is_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    store.end_writer();
    assert!(store.ready().await.is_err() && store.has_failed());
}

/// Makes the record of an event, wherever it lies, one that cannot be read.
fn tear(store: &SledStore, sequence: Sequence) {
    for kind in [IN_PROGRESS, ENDED] {
        if store.lookup.tree.contains_key(key(kind, sequence)).expect("read") {
            store.lookup.tree.insert(key(kind, sequence), b"\x03torn").expect("written");
        }
    }
}

#[tokio::test]
async fn a_store_whose_newest_record_cannot_be_read_believes_no_clock_that_is_far_ahead() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(directory.path()));
    for token in ["first", "second", "torn"] {
        finish(&store, token, 1).await;
    }
    tear(&store, 2);
    let clock = Arc::new(ManualClock::starting_at(wall(1_000_000)));
    let stop = CancellationToken::new();
    let pruning = prune_from_time_to_time(store.clone(), clock, Duration::from_mins(1), stop.clone());
    let watching = async {
        while store.retention().await.expect("answers").is_none() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(pruning, watching);
    let page = store.list(&Filter::default(), None, 10).await.expect("listed");
    assert_eq!((page.events.len(), page.unreadable.len()), (2, 1));
}

#[tokio::test]
async fn records_that_cannot_be_read_are_shown_as_such_and_hold_up_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    finish(&store, "ended-torn", 1).await;
    finish(&store, "ended", 1).await;
    for token in ["torn", "whole"] {
        store.record(&notification(token), at(2)).await.expect("recorded");
    }
    for torn in [0, 2] {
        tear(&store, torn);
    }
    drop(store);

    let store = open_at(directory.path(), at(3));
    let page = store.list(&Filter::default(), None, 10).await.expect("listed");
    assert_eq!(
        page.events.iter().map(|event| event.id).collect::<Vec<_>>(),
        ["whole", "ended"].map(|token| notification(token).id())
    );
    assert_eq!(page.unreadable.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 0]);
    let first = store.list(&Filter::default(), None, 2).await.expect("listed");
    assert_eq!((first.events.len(), first.unreadable.len(), first.next), (1, 1, Some(2)), "they count");
    let exported = store.export(0, 10).await.expect("exported");
    assert_eq!((exported.events.len(), exported.unreadable.len()), (2, 2));
    let claim = take(&store, at(3)).await.expect("the whole one");
    assert_eq!(claim.event().id, notification("whole").id());
    assert!(take(&store, at(3)).await.is_none());
    let pruned = store.prune(wall(100), wall(100), 10).await.expect("pruned");
    assert_eq!(pruned, Pruned { removed: 1, is_through: true });
}

#[tokio::test]
async fn an_import_that_fails_on_the_way_leaves_none_of_its_events() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    finish(&store, "torn", 1).await;
    tear(&store, 0);
    let event = |token: &str| StoredEvent {
        record: EventRecord::new(&notification(token), wall(2)),
        body: Some(b"{}".to_vec()),
    };
    let failed = store.import(vec![event("before"), event("torn"), event("after")], at(3)).await;
    assert!(matches!(failed, Err(StoreError::Unreadable(_))), "{failed:?}");
    let page = store.list(&Filter::default(), None, 10).await.expect("listed");
    assert_eq!((page.events.len(), page.unreadable.len()), (0, 1));
    assert_eq!(store.import(vec![event("before")], at(3)).await, Ok(1));
    assert!(take(&store, at(4)).await.is_some(), "it is worked on");
    let page = store.list(&Filter::default(), None, 1).await.expect("listed");
    assert_eq!(page.next, Some(1), "no number was lost");
}

#[tokio::test]
async fn what_was_left_of_a_store_that_was_never_finished_is_kept_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join(DATABASE);
    for text in ["first", "second", "third"] {
        std::fs::create_dir_all(&database).expect("made");
        std::fs::write(database.join("snap.0000000000000000"), text).expect("written");
        drop(open(directory.path()));
        std::fs::remove_file(directory.path().join(MARKER)).expect("removed");
        std::fs::remove_dir_all(&database).expect("removed");
    }
    for (name, text) in [("sled.unfinished", "first"), ("sled.unfinished-2", "second"), ("sled.unfinished-3", "third")]
    {
        let kept = std::fs::read_to_string(directory.path().join(name).join("snap.0000000000000000"));
        assert_eq!(kept.expect("kept"), text);
    }
}

#[tokio::test]
async fn a_status_without_a_number_outlives_its_event_until_another_takes_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open(directory.path());
    let dormant = AccountStatus::Other("DORMANT".to_owned());
    let leave = async |store: &SledStore, token: &str, status: &AccountStatus| {
        store.record(&notification(token), at(1)).await.expect("recorded");
        let claim = take(store, at(1)).await.expect("the event");
        let Progress::Fetched { mut fields, body } = fetched(Some("acct"), b"{}") else { panic!("it was fetched") };
        fields.status_on_success = Some(status.clone());
        let advanced = store.advance(claim, &Progress::Fetched { fields, body }, at(1)).await.expect("fetched");
        let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
        store.settle(claim, &Completion::Done(None), at(1)).await.expect("settled");
    };
    leave(&store, "1", &dormant).await;
    finish(&store, "newest", 1).await;
    assert_eq!(store.prune(wall(100), wall(100), 10).await.expect("pruned").removed, 1);
    for _ in 0..2 {
        assert_eq!(store.account_status("default", "acct").await, Ok(Some(dormant.clone())));
        drop(store);
        store = open(directory.path());
    }
    leave(&store, "2", &AccountStatus::Active).await;
    assert_eq!(store.account_status("default", "acct").await, Ok(Some(AccountStatus::Active)));
    assert_eq!(
        store.lookup.tree.get(account_key(Name::of_account("default", "acct").as_bytes())),
        Ok(None),
        "nothing is left of it"
    );
    leave(&store, "3", &dormant).await;
    leave(&store, "4", &AccountStatus::Other("ASLEEP".to_owned())).await;
    finish(&store, "newer", 1).await;
    while !store.prune(wall(100), wall(100), 10).await.expect("pruned").is_through {}
    assert_eq!(
        store.account_status("default", "acct").await,
        Ok(Some(AccountStatus::Other("ASLEEP".to_owned()))),
        "the later of two"
    );
}

#[tokio::test]
async fn what_changes_between_the_search_for_old_events_and_their_removal_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for token in ["rerun", "old", "newest"] {
        finish(&store, token, 1).await;
    }
    store.amend(notification("rerun").id(), OperatorAction::Rerun, at(2)).await.expect("taken up again");
    let removed = store.write(|reply| Write::Prune(vec![0, 1, 2, 7], wall(9), reply)).await.expect("removed");
    assert_eq!((removed.count, removed.left), (1, None));
    for (token, is_there) in [("rerun", true), ("old", false), ("newest", true)] {
        assert_eq!(record(&store, notification(token).id()).await.is_some(), is_there, "{token}");
    }
}

#[tokio::test]
async fn long_bodies_are_removed_a_few_at_a_time_and_none_is_passed_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let body = vec![b'x'; 700 * CHUNK];
    for token in ["a", "b", "c", "newest"] {
        store.record(&notification(token), at(1)).await.expect("recorded");
        let claim = take(&store, at(1)).await.expect("the event");
        let advanced = store.advance(claim, &fetched(None, &body), at(1)).await.expect("fetched");
        let Advanced::Proceed(claim) = advanced else { panic!("nothing is in its way") };
        store.settle(claim, &Completion::Done(None), at(1)).await.expect("settled");
    }
    let mut removed = Vec::new();
    loop {
        let pruned = store.prune(wall(9), wall(9), 10).await.expect("pruned");
        removed.push(pruned.removed);
        if pruned.is_through {
            break;
        }
    }
    assert_eq!(removed, [2, 1]);
}

/// One thing that can happen to a store.
#[derive(Debug, Clone)]
enum Action {
    Record(u8),
    Claim,
    Fetch(u8),
    Handle,
    Settle(Completion),
    Amend(u8, OperatorAction),
    MakeDue(u8),
    Prune(u8, usize),
    Pass(u8),
    Reopen,
}

fn any_action() -> impl Strategy<Value = Action> {
    let completion = prop_oneof![
        Just(Completion::Done(None)),
        Just(Completion::Deferred),
        (0_u32..90).prop_map(|until| Completion::AwaitResponse { until: wall(until) }),
        Just(dead("dead")),
        (0_u32..90).prop_map(|wait| retry(wait, "transient")),
    ];
    let action = prop_oneof![
        Just(OperatorAction::Rerun),
        Just(OperatorAction::Resolve(EventResult::success("outside"))),
        (0_u64..40).prop_map(|wait| OperatorAction::HandedOver { wait: Duration::from_secs(wait) })
    ];
    prop_oneof![
        4 => (0_u8..6).prop_map(Action::Record),
        6 => Just(Action::Claim),
        4 => (0_u8..3).prop_map(Action::Fetch),
        3 => Just(Action::Handle),
        4 => completion.prop_map(Action::Settle),
        1 => (0_u8..6, action).prop_map(|(event, action)| Action::Amend(event, action)),
        1 => (0_u8..6).prop_map(Action::MakeDue),
        1 => (0_u8..40, 1_usize..4).prop_map(|(age, limit)| Action::Prune(age, limit)),
        2 => (0_u8..40).prop_map(Action::Pass),
        1 => Just(Action::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sled_and_memory_agree_whatever_happens_and_whenever_sled_is_reopened(
        actions in prop::collection::vec(any_action(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(agree(actions));
    }
}

/// Does the same to both stores and compares every answer. A reopened sled knows no claims, so before a
/// reopening both sides' holders settle theirs.
async fn agree(actions: Vec<Action>) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut sled = open(directory.path());
    let memory = MemoryStore::new();
    let mut held: Vec<(Claim, Claim)> = Vec::new();
    let (mut clock, mut is_made_due, mut is_lost) = (0, false, false);
    for action in actions {
        let now = at(clock);
        match action {
            Action::Record(event) => {
                let notification = notification(&event.to_string());
                assert_eq!(sled.record(&notification, now).await, memory.record(&notification, now).await);
            }
            Action::Claim => {
                let claims = (take(&sled, now).await, take(&memory, now).await);
                match claims {
                    (Some(a), Some(b)) => {
                        assert_eq!(a.event(), b.event());
                        held.push((a, b));
                    }
                    (a, b) => assert!(a.is_none() && b.is_none(), "{a:?} {b:?}"),
                }
            }
            Action::Fetch(account) => {
                if let Some((a, b)) = held.pop() {
                    let step = fetched(Some(&account.to_string()), b"{}");
                    let advanced = (sled.advance(a, &step, now).await, memory.advance(b, &step, now).await);
                    is_lost |= advanced.0.is_err();
                    keep(&mut held, advanced);
                }
            }
            Action::Handle => {
                if let Some((a, b)) = held.pop() {
                    let step = Progress::Handled(EventResult::success("handled"));
                    let advanced = (sled.advance(a, &step, now).await, memory.advance(b, &step, now).await);
                    is_lost |= advanced.0.is_err();
                    keep(&mut held, advanced);
                }
            }
            Action::Settle(completion) => {
                if let Some((a, b)) = held.pop() {
                    let settled = sled.settle(a, &completion, now).await.map_err(|failed| failed.error);
                    is_lost |= settled.is_err();
                    assert_eq!(settled, memory.settle(b, &completion, now).await.map_err(|failed| failed.error));
                }
            }
            Action::Amend(event, action) => {
                let id = notification(&event.to_string()).id();
                assert_eq!(sled.amend(id, action.clone(), now).await, memory.amend(id, action, now).await);
            }
            Action::MakeDue(event) => {
                let id = notification(&event.to_string()).id();
                assert_eq!(sled.make_due(id, now).await, memory.make_due(id, now).await);
                is_made_due = true;
            }
            Action::Prune(age, limit) => {
                let moment = wall(clock.saturating_sub(age.into()));
                let mut gone = (0, 0);
                loop {
                    let pruned = (
                        sled.prune(moment, now.wall, limit).await.expect("pruned"),
                        memory.prune(moment, now.wall, limit).await.expect("pruned"),
                    );
                    gone = (gone.0 + pruned.0.removed, gone.1 + pruned.1.removed);
                    if pruned.0.is_through && pruned.1.is_through {
                        break;
                    }
                }
                assert_eq!(gone.0, gone.1);
            }
            Action::Pass(seconds) => clock += u32::from(seconds),
            // A hint, and a pause after a claim was lost, which a reopened sled does not remember, and memory does.
            Action::Reopen if is_made_due || is_lost => {}
            Action::Reopen => {
                for (a, b) in held.drain(..) {
                    sled.settle(a, &retry(0, "stopped"), now).await.expect("settled");
                    memory.settle(b, &retry(0, "stopped"), now).await.expect("settled");
                }
                drop(sled);
                sled = open_at(directory.path(), now);
            }
        }
        let shown = (sled.list(&Filter::default(), None, 100).await, memory.list(&Filter::default(), None, 100).await);
        assert_eq!(shown.0, shown.1);
        assert_eq!(sled.counts().await, memory.counts().await);
    }
}

fn keep(held: &mut Vec<(Claim, Claim)>, advanced: (Result<Advanced, QueueError>, Result<Advanced, QueueError>)) {
    match advanced {
        (Ok(Advanced::Proceed(a)), Ok(Advanced::Proceed(b))) => held.push((a, b)),
        (Ok(Advanced::Blocked), Ok(Advanced::Blocked)) => {}
        (Err(a), Err(b)) => assert_eq!(a.error, b.error),
        (a, b) => panic!("{a:?} is not {b:?}"),
    }
}

/// sled puts a page that is larger than a quarter of its segments into a file of its own, which it never syncs.
#[tokio::test]
async fn the_longest_records_there_can_be_never_reach_a_file_that_sled_does_not_sync() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SledStore::open(directory.path(), false, at(0)).expect("opens");
    let base = BaseUrl::parse("https://market.example").expect("a base URL");
    for number in 0..64 {
        let url = format!("https://market.example/events/{number}-{}", "u".repeat(2000));
        let url = EventUrl::parse(&url, [&base]).expect("an event URL");
        let notification = Notification::new("default".into(), url, None, format!("more={}", "p".repeat(2000)));
        store.record(&notification, at(0)).await.expect("recorded");
    }
    let reason = "\"\\".repeat(1000);
    let mut longest = 0;
    for round in 0..30 {
        for _ in 0..64 {
            let claim = take(&store, at(round)).await.expect("an event");
            longest = longest.max(codec::encode(claim.event()).expect("short enough").len());
            store.settle(claim, &retry(1, &reason), at(round)).await.expect("settled");
        }
    }
    assert!(longest > 5000, "{longest} bytes: these are not the longest records");
    drop(store);
    let unsynced = std::fs::read_dir(directory.path().join(DATABASE).join("blobs")).expect("listed").count();
    assert_eq!(unsynced, 0);
}

#[cfg(unix)]
#[test]
fn a_data_directory_is_made_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("data");
    drop(SledStore::open(&directory, false, at(0)).expect("opens"));
    let mode = std::fs::metadata(&directory).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_record_that_becomes_unreadable_while_the_store_is_open_holds_up_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for token in ["torn", "whole"] {
        store.record(&notification(token), at(2)).await.expect("recorded");
    }
    tear(&store, 0);
    let claim = take(&store, at(3)).await.expect("the whole one");
    assert_eq!(claim.event().id, notification("whole").id());
    let advanced = store.advance(claim, &fetched(Some("acct"), b"{}"), at(3)).await.expect("fetched");
    let waiting = matches!(advanced, Advanced::Blocked);
    let again = take(&store, at(4000)).await;
    assert!(!waiting || again.is_some(), "it waits for ever for one that cannot be read");
}

#[tokio::test]
async fn a_status_that_a_result_left_at_another_account_outlives_its_event() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let dormant = AccountStatus::Other("DORMANT".to_owned());
    store.record(&notification("1"), at(1)).await.expect("recorded");
    let claim = take(&store, at(1)).await.expect("the event");
    let Progress::Fetched { mut fields, body } = fetched(None, b"{}") else { panic!("it was fetched") };
    fields.status_on_success = Some(dormant.clone());
    let Advanced::Proceed(claim) =
        store.advance(claim, &Progress::Fetched { fields, body }, at(1)).await.expect("fetched")
    else {
        panic!()
    };
    let mut result = crate::event::EventResult::success("x");
    result.account_identifier = Some("acct".into());
    let Advanced::Proceed(claim) = store.advance(claim, &Progress::Handled(result), at(1)).await.expect("handled")
    else {
        panic!()
    };
    store.settle(claim, &Completion::Done(None), at(1)).await.expect("settled");
    finish(&store, "newest", 1).await;
    assert_eq!(store.account_status("default", "acct").await, Ok(Some(dormant.clone())));
    assert_eq!(store.prune(wall(100), wall(100), 10).await.expect("pruned").removed, 1);
    assert_eq!(store.account_status("default", "acct").await, Ok(Some(dormant)));
}
