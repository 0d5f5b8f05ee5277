//! Who works on what, for stores that live in one process.
//!
//! Holds the unfinished events only, so neither start-up nor an idle worker pays for history. Holds live in memory: a
//! directory has one process at a time, and the hold of a process that is gone binds nobody. A hold ends with its lease and
//! not by any clock, so an event whose holder is alive is never handed out again, however long that takes and whatever
//! happens to the clocks (G12).

mod account_queue;
mod holds;
mod marketplace_queue;
mod take_over;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::account_queue::{AccountKey, AccountQueues, account_of};
pub(in crate::store) use self::holds::HoldState;
use self::holds::{Dropped, Hold};
use self::marketplace_queue::{MarketplaceQueue, Stage};
use crate::clock::{Moment, Now};
use crate::event::{EventId, EventRecord};
use crate::store::lease::Lease;
use crate::store::queue::LONGEST_PAUSE;
use crate::store::stored_event::Sequence;

/// Unfinished events for which room is always kept.
const ROOM: usize = 4096;
/// The pause before an event that was lost twice in a row is handed out again; it doubles with each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The unfinished events, and who holds which.
#[derive(Debug, Default)]
pub(in crate::store) struct Scheduler {
    entries: HashMap<Sequence, Entry>,
    sequences: HashMap<EventId, Sequence>,
    /// There are few of them.
    marketplaces: Vec<MarketplaceQueue>,
    accounts: AccountQueues,
    dropped: Arc<Dropped>,
    /// When the latest event that was restored and never tried is due.
    untried_to: Option<Moment>,
    last_fence: u64,
}

#[derive(Debug)]
struct Entry {
    id: EventId,
    /// Place of its marketplace's queue.
    marketplace: usize,
    due: Moment,
    account: Option<AccountKey>,
    hold: Option<Hold>,
    /// Whether its last holder let go of it without a word.
    was_lost: bool,
    /// How often in a row that happened, without a step that was made durable in between.
    losses: u32,
    stage: Stage,
}

/// An event that was taken for work.
#[derive(Debug)]
pub(in crate::store) struct Claimed {
    pub(in crate::store) lease: Lease,
    pub(in crate::store) was_lost: bool,
}

impl Scheduler {
    /// An empty one, whose fences begin after `fence`; `wakeup` is told of every event that becomes free by itself.
    pub(in crate::store) fn new(fence: u64, wakeup: Arc<Notify>) -> Self {
        Self { last_fence: fence, dropped: Dropped::new(wakeup), ..Self::default() }
    }

    /// Puts an unfinished event up for claiming.
    pub(in crate::store) fn add(&mut self, sequence: Sequence, event: &EventRecord, now: Now) {
        self.put_up(sequence, event, event.due_from(now));
    }

    /// The same for an event that the last process left, in the order of receipt.
    ///
    /// One that was never tried is due no earlier than those before it: the clock may have been set back between them,
    /// and what was received later must not be read first (G5).
    pub(in crate::store) fn restore(&mut self, sequence: Sequence, event: &EventRecord, now: Now) {
        let mut due = event.due_from(now);
        if Stage::of(event) == Stage::FirstReading {
            due = due.max(self.untried_to.unwrap_or(due));
            self.untried_to = Some(due);
        }
        self.put_up(sequence, event, due);
    }

    fn put_up(&mut self, sequence: Sequence, event: &EventRecord, due: Moment) {
        self.sequences.insert(event.id, sequence);
        let marketplace = self.marketplace(&event.marketplace);
        let stage = Stage::of(event);
        let entry =
            Entry { id: event.id, marketplace, due, account: None, hold: None, was_lost: false, losses: 0, stage };
        self.entries.insert(sequence, entry);
        if let Some(account) = account_of(event) {
            self.join(sequence, account);
        }
        self.offer(sequence);
    }

    /// Where the unfinished event with this id stands in the order of receipt.
    pub(in crate::store) fn sequence(&self, id: EventId) -> Option<Sequence> {
        self.sequences.get(&id).copied()
    }

    /// Takes the event that has been due longest, leaving those of `saturated` marketplaces alone.
    pub(in crate::store) fn claim(&mut self, saturated: &[String], now: Moment) -> Option<Claimed> {
        self.catch_up(now);
        let sequence = loop {
            let &(due, sequence) = self.open_marketplaces(saturated).filter_map(|queue| queue.ready.first()).min()?;
            if due > now {
                return None;
            }
            self.withdraw(sequence);
            let entry = self.entries.get_mut(&sequence)?;
            let queue = &mut self.marketplaces[entry.marketplace];
            if entry.stage == Stage::FirstReading {
                entry.stage = Stage::Reading;
                queue.begin_reading(sequence, now);
            } else if entry.stage == Stage::Handling && entry.account.is_some() && queue.is_behind(sequence) {
                queue.wait(sequence);
                continue;
            }
            break sequence;
        };
        let fence = self.hold(sequence, now);
        let was_lost = self.entries.get_mut(&sequence).is_some_and(|entry| std::mem::take(&mut entry.was_lost));
        Some(Claimed { lease: Lease::new(sequence, fence, Arc::clone(&self.dropped) as _), was_lost })
    }

    /// When there may be something to claim next that is not of a `saturated` marketplace.
    pub(in crate::store) fn idle_until(&self, saturated: &[String]) -> Option<Moment> {
        self.open_marketplaces(saturated).filter_map(MarketplaceQueue::idle_until).min()
    }

    /// Makes an event due now, unless somebody holds it.
    pub(in crate::store) fn make_due(&mut self, sequence: Sequence, now: Moment) {
        self.catch_up(now);
        let early = self.entries.get(&sequence).filter(|entry| entry.hold.is_none() && entry.due > now);
        let Some(losses) = early.map(|entry| entry.losses) else { return };
        self.withdraw(sequence);
        self.release(sequence, now);
        // To be asked for an event says nothing of whether its outcome can be made durable.
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.losses = losses;
        }
    }

    /// Takes an event that nobody holds out of every worker's reach, until it is released or removed.
    pub(in crate::store) fn lock(&mut self, sequence: Sequence) -> bool {
        if self.entries.get(&sequence).is_none_or(|entry| entry.hold.is_some()) {
            return false;
        }
        self.withdraw(sequence);
        self.hold(sequence, Moment::default());
        if let Some(hold) = self.entries.get_mut(&sequence).and_then(|entry| entry.hold.as_mut()) {
            hold.is_leased = false;
        }
        true
    }

    /// Whether the event is held by this lease, so that it holds on.
    pub(in crate::store) fn extend(&self, lease: &Lease) -> bool {
        self.hold_of(lease).is_some()
    }

    /// How the event stands to the holder with this lease, who has taken `step` steps.
    pub(in crate::store) fn hold_state(&self, lease: &Lease, step: u32) -> HoldState {
        match self.hold_of(lease) {
            None => HoldState::Lost,
            Some(hold) if hold.is_restored => HoldState::Restored,
            Some(hold) if hold.step == step => HoldState::Current,
            Some(_) => HoldState::Ahead,
        }
    }

    fn hold_of(&self, lease: &Lease) -> Option<&Hold> {
        self.entries.get(&lease.sequence())?.hold.as_ref().filter(|hold| hold.fence == lease.fence())
    }

    /// Notes progress of a held event, by step number `step`: its holder keeps it, unless another event of its account is held or comes first. It is released
    /// too if the account is known only now, and events are still being read that were received before and may be of the
    /// same one.
    ///
    /// Returns whether the holder may go on.
    pub(in crate::store) fn advanced(&mut self, lease: &Lease, step: u32, event: &EventRecord, now: Now) -> bool {
        // Nobody is to wait for a holder that is gone, or for a reading that takes long.
        self.catch_up(now.monotonic);
        let sequence = lease.sequence();
        let Some(entry) = self.entries.get_mut(&sequence) else { return false };
        let Some(hold) = entry.hold.as_mut().filter(|hold| hold.fence == lease.fence()) else { return false };
        (hold.step, hold.is_restored) = (step, false);
        entry.due = event.due_from(now);
        entry.losses = 0;
        entry.stage = Stage::of(event);
        let is_behind = entry.stage == Stage::Handling && self.marketplaces[entry.marketplace].is_behind(sequence);
        let joins = if entry.account.is_none() { account_of(event) } else { None };
        if let Some(account) = joins {
            self.join(sequence, account);
            if is_behind || !self.accounts.is_next(self.account(sequence), sequence) {
                self.release(sequence, event.due_from(now));
                return false;
            }
            self.hold_account(sequence);
        }
        self.is_read(sequence);
        true
    }

    /// Notes that nobody is to wait for an event's first reading: those that waited for it are on offer.
    fn is_read(&mut self, sequence: Sequence) {
        let Some(marketplace) = self.entries.get(&sequence).map(|entry| entry.marketplace) else { return };
        if self.marketplaces[marketplace].end_reading(sequence) {
            self.offer_waiting(marketplace);
        }
    }

    fn offer_waiting(&mut self, marketplace: usize) {
        while let Some(next) = self.marketplaces[marketplace].next_turn() {
            self.offer(next);
        }
    }

    /// Releases an event that is held, or locked, to be claimed again from `due` on.
    pub(in crate::store) fn release(&mut self, sequence: Sequence, due: Moment) {
        self.end_hold(sequence);
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.due = due;
            entry.losses = 0;
        }
        self.offer(sequence);
        self.offer_next_of_its_account(sequence);
        self.is_read(sequence);
    }

    /// Gives a held event back as it was claimed.
    pub(in crate::store) fn give_back(&mut self, lease: &Lease) {
        if self.extend(lease)
            && let Some(due) = self.entries.get(&lease.sequence()).map(|entry| entry.due)
        {
            self.release(lease.sequence(), due);
        }
    }

    /// Notes the end of a claim: the event is to be claimed again, or nothing is left to do for it.
    pub(in crate::store) fn settled(&mut self, lease: &Lease, event: &EventRecord, now: Now) {
        if !self.extend(lease) {
            return;
        }
        if event.state.is_unfinished() {
            self.release(lease.sequence(), event.due_from(now));
        } else {
            self.remove(lease.sequence());
        }
    }

    /// Notes a change from outside: of an event that was locked before, or of one that had ended.
    pub(in crate::store) fn amended(
        &mut self,
        sequence: Sequence,
        event: &EventRecord,
        was_unfinished: bool,
        now: Now,
    ) {
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
                self.release(sequence, event.due_from(now));
            }
            (true, false) => self.remove(sequence),
            (false, false) => {}
        }
    }

    /// Takes an event off: nothing is left to do for it.
    pub(in crate::store) fn remove(&mut self, sequence: Sequence) {
        self.end_hold(sequence);
        self.withdraw(sequence);
        let Some(entry) = self.entries.remove(&sequence) else { return };
        self.sequences.remove(&entry.id);
        self.shrink();
        if let Some(account) = entry.account {
            self.leave(sequence, &account);
        }
        self.marketplaces[entry.marketplace].end_reading(sequence);
        self.offer_waiting(entry.marketplace);
    }

    fn leave(&mut self, sequence: Sequence, account: &AccountKey) {
        if let Some(next) = self.accounts.leave(account, sequence) {
            self.offer(next);
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

    fn open_marketplaces<'a>(&'a self, saturated: &'a [String]) -> impl Iterator<Item = &'a MarketplaceQueue> {
        self.marketplaces.iter().filter(|queue| !saturated.contains(&queue.marketplace))
    }

    /// The place of a marketplace's queue.
    fn marketplace(&mut self, marketplace: &str) -> usize {
        self.marketplaces.iter().position(|queue| queue.marketplace == marketplace).unwrap_or_else(|| {
            self.marketplaces.push(MarketplaceQueue::of(marketplace));
            self.marketplaces.len() - 1
        })
    }

    /// Takes an event off the queue of its marketplace.
    fn withdraw(&mut self, sequence: Sequence) {
        if let Some(entry) = self.entries.get(&sequence) {
            self.marketplaces[entry.marketplace].ready.remove(&(entry.due, sequence));
        }
    }

    /// Does what has come due by itself: ends the readings that take long, and releases what was dropped.
    fn catch_up(&mut self, now: Moment) {
        for marketplace in 0..self.marketplaces.len() {
            if self.marketplaces[marketplace].end_long_readings(now) {
                self.offer_waiting(marketplace);
            }
        }
        self.release_dropped();
    }

    /// Releases the events whose leases were dropped: the first time at once, and ever later after they were claimed if that
    /// happens again and again, so that what cannot be made durable is not tried without a pause.
    fn release_dropped(&mut self) {
        for (sequence, fence) in self.dropped.take() {
            let Some(entry) = self.entries.get_mut(&sequence) else { continue };
            let Some(since) = entry.hold.as_ref().filter(|hold| hold.fence == fence).map(|hold| hold.since) else {
                continue;
            };
            entry.was_lost = true;
            entry.losses = entry.losses.saturating_add(1);
            let pause =
                FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(entry.losses.saturating_sub(2))).min(LONGEST_PAUSE);
            let (due, losses) = (if entry.losses > 1 { since.plus(pause) } else { entry.due }, entry.losses);
            self.release(sequence, due);
            if let Some(entry) = self.entries.get_mut(&sequence) {
                entry.losses = losses;
            }
        }
    }

    fn join(&mut self, sequence: Sequence, account: AccountKey) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.account = Some(Arc::clone(&account));
        // An earlier event overtakes the one that was on offer.
        if let Some(later) = self.accounts.join(account, sequence) {
            self.withdraw(later);
        }
    }

    fn account(&self, sequence: Sequence) -> Option<&AccountKey> {
        self.entries.get(&sequence)?.account.as_ref()
    }

    /// Puts a free event on offer if nothing holds it up.
    fn offer(&mut self, sequence: Sequence) {
        if self.accounts.is_next(self.account(sequence), sequence)
            && let Some(entry) = self.entries.get(&sequence)
            && entry.hold.is_none()
        {
            self.marketplaces[entry.marketplace].ready.insert((entry.due, sequence));
        }
    }

    fn offer_next_of_its_account(&mut self, sequence: Sequence) {
        if let Some(next) = self.accounts.first(self.account(sequence)) {
            self.offer(next);
        }
    }

    /// Has an event held under a new fence.
    fn hold(&mut self, sequence: Sequence, now: Moment) -> u64 {
        self.last_fence += 1;
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.hold = Some(Hold::new(self.last_fence, now));
            self.hold_account(sequence);
        }
        self.last_fence
    }

    fn hold_account(&mut self, sequence: Sequence) {
        let account = self.entries.get(&sequence).and_then(|entry| entry.account.as_ref());
        self.accounts.hold(account, sequence);
    }

    fn end_hold(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        if entry.hold.take().is_some() {
            self.accounts.end_hold(entry.account.as_ref(), sequence);
        }
    }
}
