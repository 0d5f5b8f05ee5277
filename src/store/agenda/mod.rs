//! Who works on what, for stores that live in one process.
//!
//! Holds the unfinished events only, so neither start-up nor an idle worker pays for history. Leases live in
//! memory: a directory has one process at a time, and a lease of a process that is gone binds nobody. A lease ends with
//! its holder and not by any clock, so an event whose holder is alive is never handed out again, however long that takes
//! and whatever happens to the clocks (G12).

mod lane;
mod lease;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::lane::{Lane, Stage};
use self::lease::Lapsed;
pub(super) use self::lease::Lease;
use super::Sequence;
use crate::clock::{Moment, Now};
use crate::event::{EventId, EventRecord};

/// Unfinished events for which room is always kept.
const ROOM: usize = 4096;
/// The pause before an event that was lost twice in a row is handed out again; it doubles with each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses, in first ones.
const LONGEST_PAUSE: u32 = 64;

/// The account an event belongs to: integration and account identifier.
type AccountKey = Arc<(String, String)>;

#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: HashMap<Sequence, Entry>,
    sequences: HashMap<EventId, Sequence>,
    lanes: Vec<Lane>,
    lapsed: Arc<Lapsed>,
    /// When the latest event that was restored and never tried is due.
    untried_to: Option<Moment>,
    accounts: HashMap<AccountKey, Queue>,
    last_fence: u64,
}

#[derive(Debug)]
struct Entry {
    id: EventId,
    /// Place of its marketplace among the lanes.
    lane: usize,
    due: Moment,
    account: Option<AccountKey>,
    /// The fence of whoever holds it.
    hold: Option<u64>,
    /// Whether its last holder let go of it without a word.
    was_lost: bool,
    /// How often in a row that happened, without a step that was made durable in between.
    losses: u32,
    stage: Stage,
}

/// An event that was taken for work.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) sequence: Sequence,
    pub(super) lease: Lease,
    pub(super) was_lost: bool,
}

/// The unfinished events of one account, in order of receipt, and the one that is held.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<Sequence>,
    held: Option<Sequence>,
}

/// The account whose order an event has a part in. Once its result was handed over all that may be left is to report it,
/// which nobody need wait for.
fn account_of(event: &EventRecord) -> Option<AccountKey> {
    if event.handed_over {
        return None;
    }
    event.account.as_ref().map(|account| Arc::new((event.integration.clone(), account.clone())))
}

impl Agenda {
    /// An empty one, whose fences begin after `fence`; `changed` is told of every event that becomes free by itself.
    pub(super) fn new(fence: u64, changed: Arc<Notify>) -> Self {
        Self { last_fence: fence, lapsed: Lapsed::new(changed), ..Self::default() }
    }

    /// Puts an unfinished event up for claiming.
    pub(super) fn add(&mut self, sequence: Sequence, event: &EventRecord, now: Now) {
        self.put_up(sequence, event, event.due_from(now));
    }

    /// The same for an event that the last process left, in the order of receipt.
    ///
    /// One that was never tried is due no earlier than those before it: the clock may have been set back between them,
    /// and what was received later must not be read first (G5).
    pub(super) fn restore(&mut self, sequence: Sequence, event: &EventRecord, now: Now) {
        let mut due = event.due_from(now);
        if Stage::of(event) == Stage::FirstReading {
            due = due.max(self.untried_to.unwrap_or(due));
            self.untried_to = Some(due);
        }
        self.put_up(sequence, event, due);
    }

    fn put_up(&mut self, sequence: Sequence, event: &EventRecord, due: Moment) {
        self.sequences.insert(event.id, sequence);
        let lane = self.lane(&event.marketplace);
        let stage = Stage::of(event);
        let entry = Entry { id: event.id, lane, due, account: None, hold: None, was_lost: false, losses: 0, stage };
        self.entries.insert(sequence, entry);
        if let Some(account) = account_of(event) {
            self.join(sequence, account);
        }
        self.offer(sequence);
    }

    /// Where the unfinished event with this id stands in the order of receipt.
    pub(super) fn sequence(&self, id: EventId) -> Option<Sequence> {
        self.sequences.get(&id).copied()
    }

    /// Takes the event that has been due longest, leaving those of `busy` marketplaces alone.
    pub(super) fn claim(&mut self, now: Moment, busy: &[String]) -> Option<Claimed> {
        self.free_lapsed(now);
        let sequence = loop {
            let &(due, sequence) = self.lanes_but(busy).filter_map(|lane| lane.ready.first()).min()?;
            if due > now {
                return None;
            }
            self.withdraw(sequence);
            let entry = self.entries.get_mut(&sequence)?;
            let lane = &mut self.lanes[entry.lane];
            if entry.stage == Stage::FirstReading {
                entry.stage = Stage::Reading;
                lane.begin_reading(sequence);
            } else if entry.stage == Stage::Handling && entry.account.is_some() && lane.is_behind(sequence) {
                lane.wait(sequence);
                continue;
            }
            break sequence;
        };
        let fence = self.hold(sequence);
        let was_lost = self.entries.get_mut(&sequence).is_some_and(|entry| std::mem::take(&mut entry.was_lost));
        Some(Claimed { sequence, lease: Lease::new(sequence, fence, &self.lapsed), was_lost })
    }

    /// Makes an event due now, unless somebody holds it.
    pub(super) fn hasten(&mut self, sequence: Sequence, now: Moment) {
        self.free_lapsed(now);
        let early = self.entries.get(&sequence).filter(|entry| entry.hold.is_none() && entry.due > now);
        let Some(losses) = early.map(|entry| entry.losses) else { return };
        self.withdraw(sequence);
        self.free(sequence, now);
        // To be asked for an event says nothing of whether its outcome can be made durable.
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.losses = losses;
        }
    }

    /// Takes an event that nobody holds out of every worker's reach, until it is freed or removed.
    pub(super) fn seize(&mut self, sequence: Sequence) -> bool {
        if self.entries.get(&sequence).is_none_or(|entry| entry.hold.is_some()) {
            return false;
        }
        self.withdraw(sequence);
        self.hold(sequence);
        true
    }

    /// Whether the holder with this lease still holds the event.
    pub(super) fn is_held(&self, sequence: Sequence, lease: &Lease) -> bool {
        self.entries.get(&sequence).and_then(|entry| entry.hold) == Some(lease.fence())
    }

    /// Notes progress of a held event: its holder keeps it, unless its account is busy. It is freed too if the account
    /// is known only now, and events are still being read that were received before and may be of the same one.
    ///
    /// Returns whether the holder may go on.
    pub(super) fn advanced(&mut self, sequence: Sequence, event: &EventRecord, now: Now) -> bool {
        // Nobody is to wait for a holder that is gone.
        self.free_lapsed(now.monotonic);
        let Some(entry) = self.entries.get_mut(&sequence) else { return false };
        if entry.hold.is_none() {
            return false;
        }
        entry.due = event.due_from(now);
        entry.losses = 0;
        entry.stage = Stage::of(event);
        let is_behind = entry.stage == Stage::Handling && self.lanes[entry.lane].is_behind(sequence);
        let joins = if entry.account.is_none() { account_of(event) } else { None };
        if let Some(account) = joins {
            self.join(sequence, account);
            if is_behind || !self.is_next_of_its_account(sequence) {
                self.free(sequence, event.due_from(now));
                return false;
            }
            self.hold_account(sequence);
        }
        self.is_read(sequence);
        true
    }

    /// Lets nobody wait any longer until the body of a held event has been read.
    pub(super) fn give_way(&mut self, sequence: Sequence, lease: &Lease) {
        if self.is_held(sequence, lease) {
            self.is_read(sequence);
        }
    }

    /// Notes that nobody is to wait for an event's first reading: those that waited for it are on offer.
    fn is_read(&mut self, sequence: Sequence) {
        let Some(lane) = self.entries.get(&sequence).map(|entry| entry.lane) else { return };
        if self.lanes[lane].end_reading(sequence) {
            self.go_on(lane);
        }
    }

    fn go_on(&mut self, lane: usize) {
        while let Some(next) = self.lanes[lane].next_turn() {
            self.offer(next);
        }
    }

    /// Frees a held event, to be claimed again from `due` on.
    pub(super) fn free(&mut self, sequence: Sequence, due: Moment) {
        self.release(sequence);
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.due = due;
            entry.losses = 0;
        }
        self.offer(sequence);
        self.offer_next_of_its_account(sequence);
        self.is_read(sequence);
    }

    /// Notes a change from outside: of an event that was taken out of every worker's reach before, or of one that had ended.
    pub(super) fn amended(&mut self, sequence: Sequence, event: &EventRecord, was_unfinished: bool, now: Now) {
        match (was_unfinished, event.state.is_unfinished()) {
            (false, true) => self.add(sequence, event, now),
            (true, true) => {
                let account = if event.handed_over {
                    self.entries.get_mut(&sequence).and_then(|entry| entry.account.take())
                } else {
                    None
                };
                if let Some(account) = account {
                    self.leave(sequence, &account);
                }
                self.free(sequence, event.due_from(now));
            }
            (true, false) => self.remove(sequence),
            (false, false) => {}
        }
    }

    /// Takes an event off: nothing is left to do for it.
    pub(super) fn remove(&mut self, sequence: Sequence) {
        self.release(sequence);
        self.withdraw(sequence);
        let Some(entry) = self.entries.remove(&sequence) else { return };
        self.sequences.remove(&entry.id);
        self.shrink();
        if let Some(account) = entry.account {
            self.leave(sequence, &account);
        }
        self.lanes[entry.lane].end_reading(sequence);
        self.go_on(entry.lane);
    }

    fn leave(&mut self, sequence: Sequence, account: &AccountKey) {
        let Some(queue) = self.accounts.get_mut(account) else { return };
        queue.waiting.remove(&sequence);
        if queue.held == Some(sequence) {
            queue.held = None;
        }
        match queue.waiting.first().copied() {
            Some(next) => self.offer(next),
            None => {
                self.accounts.remove(account);
            }
        }
    }

    /// Gives back what a backlog took, once it is worked off.
    fn shrink(&mut self) {
        let length = self.entries.len();
        if self.entries.capacity() > ROOM && length < self.entries.capacity() / 8 {
            self.entries.shrink_to(2 * length);
            self.sequences.shrink_to(2 * length);
        }
    }

    /// When the next free event is due that is not of a `busy` marketplace.
    pub(super) fn next_due(&self, busy: &[String]) -> Option<Moment> {
        self.lanes_but(busy).filter_map(|lane| lane.ready.first()).map(|&(due, _)| due).min()
    }

    fn lanes_but<'a>(&'a self, busy: &'a [String]) -> impl Iterator<Item = &'a Lane> {
        self.lanes.iter().filter(|lane| !busy.contains(&lane.marketplace))
    }

    /// The lane of a marketplace. There are few of them.
    fn lane(&mut self, marketplace: &str) -> usize {
        self.lanes.iter().position(|lane| lane.marketplace == marketplace).unwrap_or_else(|| {
            self.lanes.push(Lane::of(marketplace));
            self.lanes.len() - 1
        })
    }

    /// Takes an event off its lane.
    fn withdraw(&mut self, sequence: Sequence) {
        if let Some(entry) = self.entries.get(&sequence) {
            self.lanes[entry.lane].ready.remove(&(entry.due, sequence));
        }
    }

    /// Frees the events whose holders let go of them without a word: the first time at once, and ever later if that happens
    /// again and again, so that what cannot be made durable is not tried without a pause.
    fn free_lapsed(&mut self, now: Moment) {
        for (sequence, fence) in self.lapsed.take() {
            let Some(entry) = self.entries.get_mut(&sequence).filter(|entry| entry.hold == Some(fence)) else {
                continue;
            };
            entry.was_lost = true;
            entry.losses = entry.losses.saturating_add(1);
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(entry.losses.saturating_sub(2)).min(LONGEST_PAUSE);
            let (due, losses) = (if entry.losses > 1 { now.plus(pause) } else { entry.due }, entry.losses);
            self.free(sequence, due);
            if let Some(entry) = self.entries.get_mut(&sequence) {
                entry.losses = losses;
            }
        }
    }

    fn join(&mut self, sequence: Sequence, account: AccountKey) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.account = Some(Arc::clone(&account));
        let queue = self.accounts.entry(account).or_default();
        let first_before = queue.waiting.first().copied();
        queue.waiting.insert(sequence);
        // An earlier event overtakes the one that was on offer.
        if let Some(later) = first_before.filter(|&first| first > sequence) {
            self.withdraw(later);
        }
    }

    fn queue_of(&self, sequence: Sequence) -> Option<&Queue> {
        self.accounts.get(self.entries.get(&sequence)?.account.as_ref()?)
    }

    fn is_next_of_its_account(&self, sequence: Sequence) -> bool {
        self.queue_of(sequence).is_none_or(|queue| {
            queue.waiting.first() == Some(&sequence) && queue.held.is_none_or(|held| held == sequence)
        })
    }

    /// Puts a free event on offer if nothing holds it up.
    fn offer(&mut self, sequence: Sequence) {
        if self.is_next_of_its_account(sequence)
            && let Some(entry) = self.entries.get(&sequence)
            && entry.hold.is_none()
        {
            self.lanes[entry.lane].ready.insert((entry.due, sequence));
        }
    }

    fn offer_next_of_its_account(&mut self, sequence: Sequence) {
        if let Some(next) = self.queue_of(sequence).and_then(|queue| queue.waiting.first().copied()) {
            self.offer(next);
        }
    }

    /// Has an event held under a new fence.
    fn hold(&mut self, sequence: Sequence) -> u64 {
        self.last_fence += 1;
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.hold = Some(self.last_fence);
            self.hold_account(sequence);
        }
        self.last_fence
    }

    /// Notes that of an event's account this one is held.
    fn hold_account(&mut self, sequence: Sequence) {
        let account = self.entries.get(&sequence).and_then(|entry| entry.account.as_ref());
        if let Some(queue) = account.and_then(|account| self.accounts.get_mut(account)) {
            queue.held = Some(sequence);
        }
    }

    fn release(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        if entry.hold.take().is_none() {
            return;
        }
        if let Some(queue) = entry.account.as_ref().and_then(|account| self.accounts.get_mut(account))
            && queue.held == Some(sequence)
        {
            queue.held = None;
        }
    }
}

#[cfg(test)]
mod tests;
