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

    /// One of those that are held.
    fn pick(&self, choice: usize) -> Option<usize> {
        let held: Vec<_> = (0..self.events.len()).filter(|index| self.is_held(&self.events[*index])).collect();
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
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn of_one_account_one_event_runs_at_a_time_in_order_and_no_other_account_waits_for_it(
        actions in prop::collection::vec(any_action(), 1..120)
    ) {
        let (mut agenda, mut model) = (Agenda::default(), Model::default());
        for action in actions {
            let now = at(model.now);
            match action {
                Action::Receive => {
                    let record = EventRecord::new(&notification(&model.events.len().to_string()), now);
                    agenda.add(model.events.len() as Sequence, &record);
                    model.events.push(Known {
                        record, held: None, is_over: false, is_fresh: true, is_being_read: false,
                    });
                }
                Action::Claim => {
                    let claimed = agenda.claim(LEASE, now, &[]);
                    model.end_leases();
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
                    model.end_leases();
                    let event = &mut model.events[index];
                    // Another step of one that is read already: it goes on, and so does one of no account.
                    let joins = event.record.account.is_none() && account.is_some();
                    event.record.state = State::Fetched;
                    event.record.due = now;
                    if joins {
                        event.record.account = account.map(|account| account.to_string());
                    }
                    let proceeds = agenda.advanced(index as Sequence, &event.record, now.plus(LEASE), now);
                    let waits = joins && (model.is_held_up(index) || model.is_behind(index));
                    prop_assert_eq!(proceeds, !waits);
                    let event = &mut model.events[index];
                    event.held = event.held.map(|hold| Hold { until: now.plus(LEASE), ..hold }).filter(|_| proceeds);
                    event.is_being_read = false;
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
                        event.held = None;
                        event.is_being_read = false;
                        event.is_fresh = event.record.state == State::Received;
                        if !event.is_over {
                            agenda.add(sequence, &event.record);
                        }
                    }
                }
            }
            for index in 0..model.events.len() {
                let event = &model.events[index];
                let believed = event.held.is_some_and(|hold| agenda.is_held(index as Sequence, hold.fence, at(model.now)));
                prop_assert_eq!(believed, model.is_held(event));
            }
        }
    }
}
