//! Claims, order and leases against a model that knows the rules and no index, with two handles to one store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::{at, dead, fetched, id, notification, record, retry, wall};
use crate::clock::{Moment, Now};
use crate::event::State;
use crate::store::memory::MemoryStore;
use crate::store::{
    Advanced, Claim, Completion, EventStore, LEASE, LONGEST_PAUSE, QueueError, READ_IN_ORDER, StoreError,
};

/// Two handles to one store, as two replicas have them.
pub(in crate::store) type Handles = [Arc<dyn EventStore>; 2];

/// One event as the guarantees speak of it.
#[expect(clippy::struct_excessive_bools, reason = "a model says each fact by itself")]
struct Known {
    account: Option<u8>,
    is_read: bool,
    held: Option<Claim>,
    due: Moment,
    is_over: bool,
    /// Since when its last holder is gone, if nobody was told yet.
    lost_since: Option<Moment>,
    /// It was lost since it last changed, so a store may have put it behind others that are due.
    is_put_off: bool,
    /// Nobody has begun to read it.
    is_fresh: bool,
    /// Until when others wait for its first reading.
    reads_until: Option<Moment>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, is_read, held, due, is_over, lost_since, reads_until, .. } = self;
        let held = held.is_some();
        write!(f, "{{account {account:?}, read {is_read}, held {held}, due {due:?}, over {is_over}, ")?;
        write!(f, "lost {lost_since:?}, reads until {reads_until:?}}}")
    }
}

#[derive(Debug, Clone)]
enum Action {
    Receive,
    Claim(usize),
    /// The body is read: it is of this account, or of none.
    Read(usize, Option<u8>),
    Retry(usize, u8),
    End(usize),
    MakeDue(usize),
    /// A holder gives its event back.
    Release(usize),
    /// A holder vanishes without a word.
    Vanish(usize),
    /// Somebody who held an event once writes.
    Late(usize),
    Renew(usize),
    Pass(u8),
    /// The clock on the wall is set.
    Set(u16),
    /// The processes end, and the next ones find what is unfinished.
    Restart,
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Receive),
        6 => (1_usize..4).prop_map(Action::Claim),
        5 => (any::<usize>(), prop::option::weighted(0.9, 0_u8..3)).prop_map(|(held, account)| Action::Read(held, account)),
        2 => (any::<usize>(), 0_u8..90).prop_map(|(held, wait)| Action::Retry(held, wait)),
        3 => any::<usize>().prop_map(Action::End),
        1 => any::<usize>().prop_map(Action::MakeDue),
        1 => any::<usize>().prop_map(Action::Release),
        1 => any::<usize>().prop_map(Action::Vanish),
        2 => any::<usize>().prop_map(Action::Late),
        1 => any::<usize>().prop_map(Action::Renew),
        2 => (0_u8..3).prop_map(Action::Pass),
        1 => (0_u8..120).prop_map(Action::Pass),
        1 => any::<u16>().prop_map(Action::Set),
        1 => Just(Action::Restart),
    ]
}

/// How sure it is that an event can be claimed, or must wait: a store may notice late that a holder is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sureness {
    /// If the store has noticed everything.
    Possibly,
    /// Whatever the store has noticed.
    Surely,
}

struct Model {
    handles: Handles,
    /// Which of the handles is used next.
    turn: usize,
    events: Vec<Known>,
    /// Claims that their holders have let go of.
    former: Vec<(usize, Claim)>,
    seconds: u32,
    /// What the clock on the wall shows, which has no say in anything.
    set_to: Option<u16>,
}

impl Model {
    fn new(handles: Handles) -> Self {
        Self { handles, turn: 0, events: Vec::new(), former: Vec::new(), seconds: 0, set_to: None }
    }

    fn now(&self) -> Now {
        self.set_to.map_or(at(self.seconds), |set_to| Now { wall: wall(set_to.into()), ..at(self.seconds) })
    }

    /// One handle and then the other.
    fn store(&mut self) -> Arc<dyn EventStore> {
        self.turn += 1;
        Arc::clone(&self.handles[self.turn % 2])
    }

    /// Whether a holder that is gone may count as one still, since the store need not have noticed.
    fn may_be_held(&self, event: &Known) -> bool {
        let latest = LEASE + LONGEST_PAUSE;
        event.held.is_some() || event.lost_since.is_some_and(|since| self.now().monotonic < since.plus(latest))
    }

    fn is_held(&self, event: &Known, sureness: Sureness) -> bool {
        match sureness {
            Sureness::Surely => self.may_be_held(event),
            Sureness::Possibly => event.held.is_some(),
        }
    }

    /// Whether another event of its account runs, or comes before it (G5); `sureness` is that of its not being so.
    fn is_held_up(&self, index: usize, sureness: Sureness) -> bool {
        let account = self.events[index].account;
        account.is_some()
            && self.events.iter().enumerate().any(|(other, event)| {
                let is_of_it = other != index && !event.is_over && event.account == account;
                is_of_it && (other < index || self.is_held(event, sureness))
            })
    }

    /// Until when an earlier event is being read that may be of any account, if one is.
    fn is_behind_until(&self, index: usize, sureness: Sureness) -> Option<Moment> {
        let now = self.now().monotonic;
        let reading = self.events[..index].iter().filter(|event| self.is_held(event, sureness));
        reading.filter_map(|event| event.reads_until).filter(|until| *until > now).max()
    }

    /// From when on an event can be claimed, as it looks now.
    fn claimable_from(&self, index: usize, sureness: Sureness) -> Option<Moment> {
        let event = &self.events[index];
        if event.is_over || self.is_held(event, sureness) || self.is_held_up(index, sureness) {
            return None;
        }
        let waits = event.is_read && event.account.is_some();
        let turn = self.is_behind_until(index, sureness).filter(|_| waits);
        Some(turn.map_or(event.due, |turn| turn.max(event.due)))
    }

    fn is_claimable(&self, index: usize, sureness: Sureness) -> bool {
        self.claimable_from(index, sureness).is_some_and(|from| from <= self.now().monotonic)
    }

    /// What must be claimed next: of all that can be, what has been due longest.
    fn next(&self) -> Option<usize> {
        let claimable = (0..self.events.len()).filter(|index| self.is_claimable(*index, Sureness::Surely));
        claimable.min_by_key(|index| (self.events[*index].due, *index))
    }

    /// One of those that are held.
    fn pick(&self, choice: usize) -> Option<usize> {
        let held: Vec<_> = (0..self.events.len()).filter(|index| self.events[*index].held.is_some()).collect();
        (!held.is_empty()).then(|| held[choice % held.len()])
    }

    /// Its holder lets go of an event.
    fn let_go(&mut self, index: usize) -> Claim {
        self.events[index].reads_until = None;
        self.events[index].held.take().expect("held")
    }

    async fn take(&mut self, action: Action) -> Result<(), TestCaseError> {
        let now = self.now();
        match action {
            Action::Receive => {
                let store = self.store();
                store.record(&notification(&self.events.len().to_string()), now).await.expect("recorded");
                self.events.push(Known {
                    account: None,
                    is_read: false,
                    held: None,
                    due: now.monotonic,
                    is_over: false,
                    lost_since: None,
                    is_put_off: false,
                    is_fresh: true,
                    reads_until: None,
                });
            }
            Action::Claim(limit) => self.claim(limit).await?,
            Action::Read(choice, account) => {
                if let Some(index) = self.pick(choice).filter(|index| !self.events[*index].is_read) {
                    self.read(index, account).await?;
                }
            }
            Action::Retry(choice, wait) => {
                let Some(index) = self.pick(choice) else { return Ok(()) };
                self.settle(index, &retry(wait.into(), "down")).await?;
                self.events[index].due = now.monotonic.plus(Duration::from_secs(wait.into()));
                self.events[index].is_put_off = false;
            }
            Action::End(choice) => {
                let Some(index) = self.pick(choice) else { return Ok(()) };
                self.settle(index, &dead("over")).await?;
                self.events[index].is_over = true;
            }
            Action::MakeDue(choice) => {
                let Some(index) = choice.checked_rem(self.events.len()) else { return Ok(()) };
                self.store().make_due(id(&index.to_string()), now).await.expect("made due");
                let event = &mut self.events[index];
                if !event.is_over && event.held.is_none() {
                    event.due = event.due.min(now.monotonic);
                }
            }
            Action::Release(choice) => {
                let Some(index) = self.pick(choice) else { return Ok(()) };
                let claim = self.let_go(index);
                self.store().release(claim.lease(), now).await.expect("released");
                self.former.push((index, claim));
            }
            Action::Vanish(choice) => {
                let Some(index) = self.pick(choice) else { return Ok(()) };
                let reads_until = self.events[index].reads_until;
                drop(self.let_go(index));
                let event = &mut self.events[index];
                (event.lost_since, event.is_put_off, event.reads_until) = (Some(now.monotonic), true, reads_until);
            }
            Action::Late(choice) => {
                let Some(place) = choice.checked_rem(self.former.len()) else { return Ok(()) };
                let (index, claim) = self.former.swap_remove(place);
                self.refuse(index, claim).await?;
            }
            Action::Renew(choice) => {
                let Some(index) = self.pick(choice) else { return Ok(()) };
                let lease = self.events[index].held.as_ref().expect("held").lease();
                prop_assert_eq!(self.store().renew(&lease, now).await, Ok(()), "its holder is alive");
            }
            Action::Pass(seconds) => self.seconds += u32::from(seconds),
            Action::Set(seconds) => self.set_to = Some(seconds),
            Action::Restart => {}
        }
        Ok(())
    }

    async fn claim(&mut self, limit: usize) -> Result<(), TestCaseError> {
        let now = self.now();
        let claimed = self.store().claim(limit, &[], now).await.expect("claimed");
        let are_all = claimed.claims.len() < limit;
        prop_assert!(claimed.claims.len() <= limit);
        for claim in claimed.claims {
            let index = (0..self.events.len()).find(|index| id(&index.to_string()) == claim.event().id);
            let index = index.expect("one of the events");
            let must = self.next();
            // What a store may have noticed or not, or put off, is claimed in any order.
            let is_in_order = self.is_claimable(index, Sureness::Surely) && !self.events[index].is_put_off;
            let is_first = must.is_none_or(|must| must == index || self.events[must].is_put_off);
            prop_assert!(self.is_claimable(index, Sureness::Possibly), "{index} is claimed: {:?}", self.events);
            let event = &mut self.events[index];
            let was_lost = event.lost_since.take().is_some();
            prop_assert_eq!(claim.was_lost(), was_lost, "{} was lost or not", index);
            prop_assert!(is_first || !is_in_order, "{index} is claimed before {must:?}");
            event.reads_until = std::mem::take(&mut event.is_fresh).then(|| now.monotonic.plus(READ_IN_ORDER));
            event.held = Some(claim);
        }
        if are_all {
            prop_assert_eq!(self.next(), None, "it is not claimed");
            let events = 0..self.events.len();
            let next = events.filter_map(|index| self.claimable_from(index, Sureness::Surely)).min();
            let is_told = next.is_none_or(|next| claimed.idle_until.is_some_and(|until| until <= next));
            prop_assert!(is_told, "asked again at {:?}, and not at {next:?}", claimed.idle_until);
        }
        Ok(())
    }

    async fn read(&mut self, index: usize, account: Option<u8>) -> Result<(), TestCaseError> {
        let now = self.now();
        let claim = self.events[index].held.take().expect("held");
        let (again, repeated) = (claim.again(), claim.again());
        let name = account.map(|account| account.to_string());
        let progress = fetched(name.as_deref(), b"{}");
        // What is decided by: the event is of the account by then, and its own reading is over.
        let event = &mut self.events[index];
        (event.is_read, event.account, event.due) = (true, account, now.monotonic);
        event.is_put_off = false;
        let waits = |model: &Self, sureness| {
            account.is_some() && (model.is_held_up(index, sureness) || model.is_behind_until(index, sureness).is_some())
        };
        let (surely, possibly) = (waits(self, Sureness::Possibly), waits(self, Sureness::Surely));
        let advanced = self.store().advance(claim, &progress, now).await.expect("advanced");
        let once = record(&*self.handles[0], id(&index.to_string())).await;
        self.events[index].reads_until = None;
        // The answer is lost, so the same is asked again, of the other replica.
        let second = self.store().advance(again, &progress, now).await.expect("advanced");
        prop_assert_eq!(record(&*self.handles[0], id(&index.to_string())).await, once);
        match (advanced, second) {
            (Advanced::Proceed(_), Advanced::Proceed(claim)) => {
                prop_assert!(!surely, "{index} goes on: {:?}", self.events);
                self.events[index].held = Some(claim);
            }
            (Advanced::Blocked, Advanced::Blocked) => {
                prop_assert!(possibly, "{index} waits: {:?}", self.events);
                self.former.push((index, repeated));
            }
            different => prop_assert!(false, "the same is answered differently: {different:?}"),
        }
        Ok(())
    }

    async fn settle(&mut self, index: usize, completion: &Completion) -> Result<(), TestCaseError> {
        let now = self.now();
        let claim = self.let_go(index);
        let (again, former) = (claim.again(), claim.again());
        self.store().settle(claim, completion, now).await.expect("settled");
        let once = record(&*self.handles[0], id(&index.to_string())).await;
        self.store().settle(again, completion, now).await.expect("it is so already");
        prop_assert_eq!(record(&*self.handles[0], id(&index.to_string())).await, once);
        self.former.push((index, former));
        Ok(())
    }

    /// Whoever has lost an event changes nothing of it, and takes it from nobody.
    async fn refuse(&mut self, index: usize, claim: Claim) -> Result<(), TestCaseError> {
        let now = self.now();
        let before = record(&*self.handles[0], id(&index.to_string())).await;
        prop_assert_eq!(self.store().renew(&claim.lease(), now).await, Err(StoreError::ClaimLost));
        let late = self.store().settle(claim, &retry(7, "late"), now).await;
        let Err(QueueError { claim, error }) = late else {
            return Err(TestCaseError::fail(format!("a late write to {index} was taken: {:?}", self.events)));
        };
        prop_assert_eq!(error, StoreError::ClaimLost);
        drop(claim);
        prop_assert_eq!(record(&*self.handles[0], id(&index.to_string())).await, before);
        Ok(())
    }

    /// Nobody holds anything, and what is unfinished is due as its records say.
    async fn restarted(&mut self, handles: Handles) {
        self.handles = handles;
        let now = self.now();
        self.former.clear();
        let mut untried_to = None;
        for (index, event) in self.events.iter_mut().enumerate() {
            let record = record(&*self.handles[0], id(&index.to_string())).await.expect("it is kept");
            (event.held, event.lost_since, event.reads_until) = (None, None, None);
            event.is_put_off = false;
            event.is_fresh = record.state == State::Received && record.attempts == 0;
            // What was waited by the clock on the wall, as far as that can be: never longer than was to be.
            event.due = record.due_from(now);
            if !event.is_over && event.is_fresh {
                event.due = event.due.max(untried_to.unwrap_or(event.due));
                untried_to = Some(event.due);
            }
        }
    }
}

/// Opens a store again as another process would.
pub(in crate::store) type Restart<K> = fn(&K, Now) -> Handles;

/// Runs the model `cases` times beside stores that `open` makes, and that `restart` opens again, if that can be done.
pub(in crate::store) fn holds<K>(cases: u32, open: impl Fn() -> (Handles, K), restart: Option<Restart<K>>) {
    let is_asked_for_more = std::env::var_os("PROPTEST_CASES").is_some();
    let config = if is_asked_for_more { ProptestConfig::default() } else { ProptestConfig::with_cases(cases) };
    let config = ProptestConfig { failure_persistence: None, ..config };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ran = TestRunner::new(config).run(&prop::collection::vec(any_action(), 1..100), |actions| {
        runtime.block_on(async {
            let (handles, kept) = open();
            let mut model = Model::new(handles);
            for action in actions {
                match (action, restart) {
                    (Action::Restart, Some(restart)) => {
                        // Whoever has the store lets go of it first.
                        model.handles = [(); 2].map(|()| Arc::new(MemoryStore::new()) as _);
                        model.restarted(restart(&kept, model.now())).await;
                    }
                    (action, _) => model.take(action).await?,
                }
            }
            Ok(())
        })
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}
