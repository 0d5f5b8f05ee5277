//! Who works on what, for stores that live in one process.
//!
//! Holds the unfinished events only, so neither start-up nor an idle worker pays for history. Leases live in
//! memory: a directory has one process at a time, and a lease of a process that is gone binds nobody.

mod lane;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::lane::Tell;
use self::lane::{Lane, Stage, Turn};
use super::{Advanced, Claim, Sequence};
use crate::clock::Timestamp;
use crate::event::{EventId, EventRecord};

/// Unfinished events for which room is always kept.
const ROOM: usize = 4096;

/// The account an event belongs to: integration and account identifier.
type AccountKey = Arc<(String, String)>;

#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: HashMap<Sequence, Entry>,
    sequences: HashMap<EventId, Sequence>,
    lanes: Vec<Lane>,
    /// Held events, by when their lease ends.
    held: BTreeSet<(Timestamp, Sequence)>,
    accounts: HashMap<AccountKey, Queue>,
    last_fence: u64,
}

#[derive(Debug)]
struct Entry {
    id: EventId,
    /// Place of its marketplace among the lanes.
    lane: usize,
    due: Timestamp,
    account: Option<AccountKey>,
    hold: Option<Hold>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    fence: u64,
    until: Timestamp,
}

/// The unfinished events of one account, in order of receipt, and the one that is held.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<Sequence>,
    held: Option<Sequence>,
}

fn account_of(event: &EventRecord) -> Option<AccountKey> {
    event.account.as_ref().map(|account| Arc::new((event.integration.clone(), account.clone())))
}

impl Agenda {
    /// An empty one, whose fences begin after `fence`.
    pub(super) fn with_fences_after(fence: u64) -> Self {
        Self { last_fence: fence, ..Self::default() }
    }

    /// Puts an unfinished event up for claiming.
    pub(super) fn add(&mut self, sequence: Sequence, event: &EventRecord) {
        self.sequences.insert(event.id, sequence);
        let lane = self.lane(&event.marketplace);
        let stage = Stage::of(event);
        self.entries.insert(sequence, Entry { id: event.id, lane, due: event.due, account: None, hold: None, stage });
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
    pub(super) fn claim(&mut self, lease: Duration, now: Timestamp, busy: &[String]) -> Option<(Sequence, u64)> {
        self.end_leases(now);
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
                lane.wait(sequence, None);
                continue;
            }
            break sequence;
        };
        self.last_fence += 1;
        self.hold(sequence, Hold { fence: self.last_fence, until: now.plus(lease) });
        Some((sequence, self.last_fence))
    }

    /// Makes an event due now, unless somebody holds it.
    pub(super) fn hasten(&mut self, sequence: Sequence, now: Timestamp) {
        let is_early = self.entries.get(&sequence).is_some_and(|entry| entry.hold.is_none() && entry.due > now);
        if is_early {
            self.withdraw(sequence);
            self.free(sequence, now);
        }
    }

    /// Takes an event that nobody holds out of every worker's reach, until it is freed or removed.
    pub(super) fn seize(&mut self, sequence: Sequence) -> bool {
        if self.entries.get(&sequence).is_none_or(|entry| entry.hold.is_some()) {
            return false;
        }
        self.withdraw(sequence);
        self.last_fence += 1;
        self.hold(sequence, Hold { fence: self.last_fence, until: Timestamp::MAX });
        true
    }

    /// Whether the holder with `fence` still holds the event.
    pub(super) fn is_held(&self, sequence: Sequence, fence: u64, now: Timestamp) -> bool {
        let hold = self.entries.get(&sequence).and_then(|entry| entry.hold);
        hold.is_some_and(|hold| hold.fence == fence && hold.until > now)
    }

    /// Like [`Agenda::is_held`], and keeps the lease from ending until the holder's write is settled one way or
    /// the other: between the check and the moment the write is durable nobody else may read the old record.
    pub(super) fn pin(&mut self, sequence: Sequence, fence: u64, now: Timestamp) -> bool {
        let is_held = self.is_held(sequence, fence, now);
        if is_held {
            self.release(sequence);
            self.hold(sequence, Hold { fence, until: Timestamp::MAX });
        }
        is_held
    }

    /// Notes progress of a held event: renews its lease, or frees it if its account is busy. If its account is known
    /// only now, and earlier events are still being read that may be of the same one, that waits for them.
    pub(super) fn advanced(&mut self, claim: Claim, until: Timestamp, now: Timestamp, tell: Tell) {
        // Nobody is to wait for a holder whose time is over.
        self.end_leases(now);
        let sequence = claim.sequence;
        let Some((entry, fence)) = self.entries.get_mut(&sequence).and_then(|entry| {
            let fence = entry.hold?.fence;
            Some((entry, fence))
        }) else {
            return tell(Advanced::Waiting);
        };
        entry.due = claim.record.due;
        entry.stage = Stage::of(&claim.record);
        let joins = entry.account.is_none() && claim.record.account.is_some();
        let (stage, lane) = (entry.stage, entry.lane);
        let turn = Turn { claim, until, tell };
        if joins && stage == Stage::Handling && self.lanes[lane].is_behind(sequence) {
            self.release(sequence);
            self.hold(sequence, Hold { fence, until: Timestamp::MAX });
            self.lanes[lane].wait(sequence, Some(turn));
        } else {
            self.take_turn(turn);
        }
        self.is_read(sequence);
    }

    /// Lets a holder go on, unless another event of its account comes first.
    fn take_turn(&mut self, Turn { claim, until, tell }: Turn) {
        let sequence = claim.sequence;
        let Some(entry) = self.entries.get(&sequence) else { return tell(Advanced::Waiting) };
        let Some(hold) = entry.hold else { return tell(Advanced::Waiting) };
        let joins = if entry.account.is_none() { account_of(&claim.record) } else { None };
        if let Some(account) = joins {
            self.join(sequence, account);
            if !self.is_next_of_its_account(sequence) {
                self.let_go(sequence, claim.record.due);
                return tell(Advanced::Waiting);
            }
        }
        self.release(sequence);
        self.hold(sequence, Hold { fence: hold.fence, until });
        tell(Advanced::Proceed(claim));
    }

    /// Lets nobody wait any longer until the body of a held event has been read.
    pub(super) fn give_way(&mut self, sequence: Sequence, fence: u64) {
        if self.entries.get(&sequence).and_then(|entry| entry.hold).is_some_and(|hold| hold.fence == fence) {
            self.is_read(sequence);
        }
    }

    /// Lets go of every holder who waits to go on, without a word.
    pub(super) fn send_home(&mut self) {
        self.lanes.iter_mut().for_each(Lane::send_home);
    }

    /// Notes that nobody is to wait for an event's first reading: those that waited for it take their turns, in order.
    fn is_read(&mut self, sequence: Sequence) {
        let Some(lane) = self.entries.get(&sequence).map(|entry| entry.lane) else { return };
        if self.lanes[lane].end_reading(sequence) {
            self.go_on(lane);
        }
    }

    fn go_on(&mut self, lane: usize) {
        while let Some((next, holder)) = self.lanes[lane].next_turn() {
            match holder {
                Some(turn) => self.take_turn(turn),
                None => self.offer(next),
            }
        }
    }

    /// Frees a held event, to be claimed again from `due` on.
    pub(super) fn free(&mut self, sequence: Sequence, due: Timestamp) {
        self.let_go(sequence, due);
        self.is_read(sequence);
    }

    fn let_go(&mut self, sequence: Sequence, due: Timestamp) {
        self.release(sequence);
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.due = due;
        }
        self.offer(sequence);
        self.offer_next_of_its_account(sequence);
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

    /// When the next free event is due that is not of a `busy` marketplace, or the next lease ends.
    pub(super) fn next_due(&self, busy: &[String]) -> Option<Timestamp> {
        let due = self.lanes_but(busy).filter_map(|lane| lane.ready.first()).map(|&(due, _)| due).min();
        let lease_end = self.held.first().map(|&(until, _)| until);
        [due, lease_end].into_iter().flatten().min()
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

    fn end_leases(&mut self, now: Timestamp) {
        let mut ended = Vec::new();
        while let Some(&(until, sequence)) = self.held.first()
            && until <= now
        {
            let due = self.entries.get(&sequence).map_or(until, |entry| entry.due);
            self.let_go(sequence, due);
            ended.push(sequence);
        }
        // Whoever goes on now finds all of them let go.
        for sequence in ended {
            self.is_read(sequence);
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

    fn hold(&mut self, sequence: Sequence, hold: Hold) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.hold = Some(hold);
        self.held.insert((hold.until, sequence));
        if let Some(queue) = entry.account.as_ref().and_then(|account| self.accounts.get_mut(account)) {
            queue.held = Some(sequence);
        }
    }

    fn release(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        let Some(hold) = entry.hold.take() else { return };
        self.held.remove(&(hold.until, sequence));
        if let Some(queue) = entry.account.as_ref().and_then(|account| self.accounts.get_mut(account))
            && queue.held == Some(sequence)
        {
            queue.held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::event::State;
    use crate::store::conformance::{LEASE, at, notification};

    /// One event as the guarantees speak of it, without any index.
    #[derive(Debug, Clone)]
    struct Known {
        record: EventRecord,
        held: Option<Hold>,
        is_over: bool,
        /// Nobody has begun to read it.
        is_fresh: bool,
        /// It is being read for the first time.
        is_being_read: bool,
        /// It has been read before earlier ones: its account, and its holder's lease once it goes on.
        behind: Option<(Option<String>, Timestamp)>,
    }

    #[derive(Debug, Clone)]
    enum Action {
        Receive,
        Claim,
        /// The body is read: it is of this account, or of none.
        Read(usize, Option<u8>),
        GiveWay(usize),
        Retry(usize, u8),
        End(usize),
        Hasten(usize),
        Pass(u8),
        /// The process ends, and the next one finds what is unfinished.
        Restart,
    }

    fn any_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            3 => Just(Action::Receive),
            5 => Just(Action::Claim),
            4 => (any::<usize>(), prop::option::weighted(0.9, 0_u8..3)).prop_map(|(held, account)| Action::Read(held, account)),
            1 => any::<usize>().prop_map(Action::GiveWay),
            2 => (any::<usize>(), 0_u8..90).prop_map(|(held, wait)| Action::Retry(held, wait)),
            3 => any::<usize>().prop_map(Action::End),
            1 => any::<usize>().prop_map(Action::Hasten),
            2 => (0_u8..40).prop_map(Action::Pass),
            1 => Just(Action::Restart),
        ]
    }

    #[derive(Default)]
    struct Model {
        events: Vec<Known>,
        now: i64,
    }

    impl Model {
        fn is_held(&self, event: &Known) -> bool {
            event.held.is_some_and(|hold| hold.until > at(self.now))
        }

        fn of_the_same_account(&self, index: usize) -> impl Iterator<Item = (usize, &Known)> {
            let account = self.events[index].record.account.clone();
            self.events.iter().enumerate().filter(move |(other, event)| {
                *other != index && !event.is_over && account.is_some() && event.record.account == account
            })
        }

        /// Whether another event of its account runs, or comes before it (G5).
        fn is_held_up(&self, index: usize) -> bool {
            self.of_the_same_account(index).any(|(other, event)| other < index || event.held.is_some())
        }

        /// Whether an earlier event is being read that may be of any account.
        fn is_behind(&self, index: usize) -> bool {
            self.events[..index].iter().any(|event| event.is_being_read)
        }

        /// What must be claimed next: of all that is due and not held up, what has been due longest.
        fn next(&self) -> Option<usize> {
            let free = self.events.iter().enumerate().filter(|(index, event)| {
                let is_free = !event.is_over && event.held.is_none() && event.record.due <= at(self.now);
                let waits = event.record.state == State::Fetched && event.record.account.is_some();
                is_free && !self.is_held_up(*index) && !(waits && self.is_behind(*index))
            });
            free.min_by_key(|(index, event)| (event.record.due, *index)).map(|(index, _)| index)
        }

        /// One of those whose holders are at work.
        fn pick(&self, choice: usize) -> Option<usize> {
            let at_work = |event: &Known| self.is_held(event) && event.behind.is_none();
            let held: Vec<_> = (0..self.events.len()).filter(|index| at_work(&self.events[*index])).collect();
            (!held.is_empty()).then(|| held[choice % held.len()])
        }

        /// Leases that are over are noticed.
        fn end_leases(&mut self) {
            for index in 0..self.events.len() {
                if !self.is_held(&self.events[index]) {
                    self.events[index].held = None;
                    self.events[index].is_being_read = false;
                }
            }
        }

        /// An event is read: it goes on, if no other of its account is to come first.
        fn join(&mut self, index: usize, account: Option<String>, until: Timestamp) -> (usize, bool) {
            self.events[index].record.account = account;
            let proceeds = !self.is_held_up(index);
            let event = &mut self.events[index];
            event.held = event.held.map(|hold| Hold { until, ..hold }).filter(|_| proceeds);
            (index, proceeds)
        }

        /// Those that nothing is in the way of any more go on, in order.
        fn go_on(&mut self) -> Vec<(usize, bool)> {
            let mut told = Vec::new();
            for index in 0..self.events.len() {
                if !self.is_behind(index)
                    && let Some((account, until)) = self.events[index].behind.take()
                {
                    told.push(self.join(index, account, until));
                }
            }
            told
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn of_one_account_one_event_runs_at_a_time_in_order_and_no_other_account_waits_for_it(
            actions in prop::collection::vec(any_action(), 1..120)
        ) {
            let (mut agenda, mut model) = (Agenda::default(), Model::default());
            let told: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
            for action in actions {
                let now = at(model.now);
                let mut expected_told = Vec::new();
                match action {
                    Action::Receive => {
                        let record = EventRecord::new(&notification(&model.events.len().to_string()), now);
                        agenda.add(model.events.len() as Sequence, &record);
                        model.events.push(Known {
                            record, held: None, is_over: false, is_fresh: true, is_being_read: false, behind: None,
                        });
                    }
                    Action::Claim => {
                        let claimed = agenda.claim(LEASE, now, &[]);
                        model.end_leases();
                        expected_told = model.go_on();
                        let expected = model.next();
                        prop_assert_eq!(claimed.map(|(sequence, _)| sequence), expected.map(|index| index as Sequence));
                        if let (Some((_, fence)), Some(index)) = (claimed, expected) {
                            let event = &mut model.events[index];
                            event.held = Some(Hold { fence, until: now.plus(LEASE) });
                            event.is_being_read = std::mem::take(&mut event.is_fresh);
                        }
                    }
                    Action::Read(choice, account) => {
                        let Some(index) = model.pick(choice) else { continue };
                        let event = &mut model.events[index];
                        // Another step of one that is read already: it goes on, and so does one of no account.
                        let joins = event.record.account.is_none() && account.is_some();
                        event.record.state = State::Fetched;
                        event.record.due = now;
                        let mut record = event.record.clone();
                        if joins {
                            record.account = account.map(|account| account.to_string());
                        }
                        let fence = event.held.expect("held").fence;
                        let tell = {
                            let told = Arc::clone(&told);
                            move |advanced| {
                                let proceeds = matches!(advanced, Advanced::Proceed(_));
                                told.lock().expect("not poisoned").push((index, proceeds));
                            }
                        };
                        let claim = Claim { record: record.clone(), sequence: index as Sequence, fence };
                        agenda.advanced(claim, now.plus(LEASE), now, Box::new(tell));
                        model.end_leases();
                        if joins && model.is_behind(index) {
                            model.events[index].behind = Some((record.account, now.plus(LEASE)));
                            model.events[index].held = Some(Hold { fence, until: Timestamp::MAX });
                        } else {
                            expected_told.extend(model.go_on());
                            let until = now.plus(LEASE);
                            expected_told.push(if joins {
                                model.join(index, record.account, until)
                            } else {
                                model.events[index].held = Some(Hold { fence, until });
                                (index, true)
                            });
                        }
                        model.events[index].is_being_read = false;
                    }
                    Action::GiveWay(choice) => {
                        let Some(index) = model.pick(choice) else { continue };
                        agenda.give_way(index as Sequence, model.events[index].held.expect("held").fence);
                        model.events[index].is_being_read = false;
                    }
                    Action::Retry(choice, wait) => {
                        let Some(index) = model.pick(choice) else { continue };
                        let due = now.plus(Duration::from_secs(wait.into()));
                        model.events[index].record.due = due;
                        model.events[index].held = None;
                        model.events[index].is_being_read = false;
                        agenda.free(index as Sequence, due);
                    }
                    Action::End(choice) => {
                        let Some(index) = model.pick(choice) else { continue };
                        model.events[index].is_over = true;
                        model.events[index].held = None;
                        model.events[index].is_being_read = false;
                        agenda.remove(index as Sequence);
                    }
                    Action::Hasten(choice) => {
                        let Some(index) = choice.checked_rem(model.events.len()) else { continue };
                        agenda.hasten(index as Sequence, now);
                        // A lease that is over and that nobody has noticed yet counts as a hold here.
                        let event = &mut model.events[index];
                        if !event.is_over && event.held.is_none() {
                            event.record.due = event.record.due.min(now);
                        }
                    }
                    Action::Pass(seconds) => model.now += i64::from(seconds),
                    Action::Restart => {
                        agenda = Agenda::with_fences_after(agenda.last_fence);
                        for (sequence, event) in (0..).zip(&mut model.events) {
                            if let Some((account, _)) = event.behind.take() {
                                event.record.account = account;
                            }
                            event.held = None;
                            event.is_being_read = false;
                            event.is_fresh = event.record.state == State::Received;
                            if !event.is_over {
                                agenda.add(sequence, &event.record);
                            }
                        }
                    }
                }
                expected_told.extend(model.go_on());
                prop_assert_eq!(std::mem::take(&mut *told.lock().expect("not poisoned")), expected_told);
                for index in 0..model.events.len() {
                    let event = &model.events[index];
                    let believed = event.held.is_some_and(|hold| agenda.is_held(index as Sequence, hold.fence, at(model.now)));
                    prop_assert_eq!(believed, model.is_held(event));
                }
            }
        }
    }
}
