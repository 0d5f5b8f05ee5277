use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::event::State;
use crate::store::conformance::{at, notification, wall};

/// One event as the guarantees speak of it, without any index.
#[expect(clippy::struct_excessive_bools, reason = "a model says each fact by itself")]
#[derive(Debug)]
struct Known {
    record: EventRecord,
    held: Option<Lease>,
    due: Moment,
    is_over: bool,
    /// Its last holder vanished, and nobody was told yet.
    is_lost: bool,
    /// Its last holder vanished, and nobody has noticed.
    is_lapsed: bool,
    losses: u32,
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
    /// A holder vanishes without a word.
    Vanish(usize),
    Pass(u8),
    /// The clock on the wall is set.
    Set(u16),
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
        1 => any::<usize>().prop_map(Action::Vanish),
        2 => (0_u8..40).prop_map(Action::Pass),
        1 => any::<u16>().prop_map(Action::Set),
        1 => Just(Action::Restart),
    ]
}

#[derive(Default)]
struct Model {
    events: Vec<Known>,
    now: u32,
    /// What the clock on the wall shows, which has no say in anything.
    set_to: Option<u16>,
}

impl Model {
    fn now(&self) -> Now {
        self.set_to.map_or(at(self.now), |set_to| Now { wall: wall(set_to.into()), ..at(self.now) })
    }

    fn of_the_same_account(&self, index: usize) -> impl Iterator<Item = (usize, &Known)> {
        let account = self.events[index].record.account.clone();
        self.events.iter().enumerate().filter(move |(other, event)| {
            *other != index && !event.is_over && account.is_some() && event.record.account == account
        })
    }

    /// Whether another event of its account runs, or comes before it (G5).
    fn is_held_up(&self, index: usize) -> bool {
        self.of_the_same_account(index).any(|(other, event)| other < index || event.held.is_some() || event.is_lapsed)
    }

    /// Whether an earlier event is being read that may be of any account.
    fn is_behind(&self, index: usize) -> bool {
        self.events[..index].iter().any(|event| event.is_being_read)
    }

    /// What must be claimed next: of all that is due and not held up, what has been due longest.
    fn next(&self) -> Option<usize> {
        let free = self.events.iter().enumerate().filter(|(index, event)| {
            let is_free =
                !event.is_over && event.held.is_none() && !event.is_lapsed && event.due <= at(self.now).monotonic;
            let waits = event.record.state == State::Fetched && event.record.account.is_some();
            is_free && !self.is_held_up(*index) && !(waits && self.is_behind(*index))
        });
        free.min_by_key(|(index, event)| (event.due, *index)).map(|(index, _)| index)
    }

    /// One of those that are held.
    fn pick(&self, choice: usize) -> Option<usize> {
        let held: Vec<_> = (0..self.events.len()).filter(|index| self.events[*index].held.is_some()).collect();
        (!held.is_empty()).then(|| held[choice % held.len()])
    }

    /// What was let go of without a word is noticed: free at once the first time, and ever later if it happens again.
    fn notice_lapsed(&mut self) {
        let now = at(self.now).monotonic;
        for event in self.events.iter_mut().filter(|event| event.is_lapsed) {
            event.is_lapsed = false;
            event.is_lost = true;
            event.is_being_read = false;
            event.losses += 1;
            if event.losses > 1 {
                event.due = now.plus(Duration::from_secs(1 << (event.losses - 2).min(6)));
            }
        }
    }

    /// Its holder lets go of an event.
    fn let_go(&mut self, index: usize) -> Lease {
        let event = &mut self.events[index];
        event.is_being_read = false;
        event.held.take().expect("held")
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
            let now = model.now();
            match action {
                Action::Receive => {
                    let record = EventRecord::new(&notification(&model.events.len().to_string()), now.wall);
                    agenda.add(model.events.len() as Sequence, &record, now);
                    model.events.push(Known {
                        record, held: None, due: now.monotonic, is_over: false, is_fresh: true, is_being_read: false,
                        is_lost: false, is_lapsed: false, losses: 0,
                    });
                }
                Action::Claim => {
                    model.notice_lapsed();
                    let claimed = agenda.claim(now.monotonic, &[]);
                    let expected = model.next();
                    let sequence = claimed.as_ref().map(|claimed| claimed.sequence);
                    prop_assert_eq!(sequence, expected.map(|index| index as Sequence));
                    if let (Some(claimed), Some(index)) = (claimed, expected) {
                        let event = &mut model.events[index];
                        prop_assert_eq!(claimed.was_lost, std::mem::take(&mut event.is_lost));
                        event.held = Some(claimed.lease);
                        event.is_being_read = std::mem::take(&mut event.is_fresh);
                    }
                }
                Action::Read(choice, account) => {
                    let Some(index) = model.pick(choice) else { continue };
                    model.notice_lapsed();
                    let event = &mut model.events[index];
                    event.losses = 0;
                    // Another step of one that is read already: it goes on, and so does one of no account.
                    let joins = event.record.account.is_none() && account.is_some();
                    event.record.state = State::Fetched;
                    (event.record.due, event.record.updated_at) = (now.wall, now.wall);
                    event.due = now.monotonic;
                    if joins {
                        event.record.account = account.map(|account| account.to_string());
                    }
                    let proceeds = agenda.advanced(index as Sequence, &event.record, now);
                    let waits = joins && (model.is_held_up(index) || model.is_behind(index));
                    prop_assert_eq!(proceeds, !waits);
                    model.events[index].is_being_read = false;
                    if !proceeds {
                        model.let_go(index).end();
                    }
                }
                Action::GiveWay(choice) => {
                    let Some(index) = model.pick(choice) else { continue };
                    agenda.give_way(index as Sequence, model.events[index].held.as_ref().expect("held"));
                    model.events[index].is_being_read = false;
                }
                Action::Retry(choice, wait) => {
                    let Some(index) = model.pick(choice) else { continue };
                    let event = &mut model.events[index];
                    event.losses = 0;
                    let wait = Duration::from_secs(wait.into());
                    (event.record.updated_at, event.record.due) = (now.wall, now.wall.plus(wait));
                    event.record.attempts += 1;
                    event.due = now.monotonic.plus(wait);
                    agenda.free(index as Sequence, event.record.due_from(now));
                    model.let_go(index).end();
                }
                Action::End(choice) => {
                    let Some(index) = model.pick(choice) else { continue };
                    model.events[index].is_over = true;
                    agenda.remove(index as Sequence);
                    model.let_go(index).end();
                }
                Action::Vanish(choice) => {
                    let Some(index) = model.pick(choice) else { continue };
                    let is_being_read = model.events[index].is_being_read;
                    drop(model.let_go(index));
                    model.events[index].is_lapsed = true;
                    model.events[index].is_being_read = is_being_read;
                }
                Action::Hasten(choice) => {
                    let Some(index) = choice.checked_rem(model.events.len()) else { continue };
                    model.notice_lapsed();
                    agenda.hasten(index as Sequence, now.monotonic);
                    let event = &mut model.events[index];
                    if !event.is_over && event.held.is_none() {
                        event.due = event.due.min(now.monotonic);
                    }
                }
                Action::Pass(seconds) => model.now += u32::from(seconds),
                Action::Set(seconds) => model.set_to = Some(seconds),
                Action::Restart => {
                    agenda = Agenda::new(agenda.last_fence, Arc::default());
                    let mut untried_to = None;
                    for (sequence, event) in (0..).zip(&mut model.events) {
                        event.held = None;
                        event.is_being_read = false;
                        (event.is_lost, event.is_lapsed, event.losses) = (false, false, 0);
                        event.is_fresh = event.record.state == State::Received && event.record.attempts == 0;
                        // What was waited by the clock on the wall, as far as that can be: never longer than was to be.
                        event.due = event.record.due_from(now);
                        if !event.is_over {
                            if event.record.state == State::Received && event.record.attempts == 0 {
                                event.due = event.due.max(untried_to.unwrap_or(event.due));
                                untried_to = Some(event.due);
                            }
                            agenda.restore(sequence, &event.record, now);
                        }
                    }
                }
            }
            for index in 0..model.events.len() {
                if let Some(lease) = &model.events[index].held {
                    prop_assert!(agenda.is_held(index as Sequence, lease));
                }
            }
        }
    }
}
