//! What was recorded: looked up, listed, watched, and removed when it is old.

use async_trait::async_trait;

use super::error::StoreError;
use super::local::subscriptions::Subscription;
use super::retention::Retention;
use super::stored_event::{Sequence, StoredEvent};
use crate::clock::Timestamp;
use crate::event::{EventId, EventRecord, State};

/// Shows the events there are, finished ones included, until they are old.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// An event, with its body or without.
    async fn load(&self, id: EventId, with_body: bool) -> Result<Option<StoredEvent>, StoreError>;

    /// Up to `limit` events that `filter` shows, newest first, of those that were received before the event at `before`.
    ///
    /// The work of one call is bounded, so a page may be short, or empty, and there may be more all the same: what says so
    /// is [`Page::next`]. Events that cannot be read count, and are told apart, so that one of them does not hide others.
    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError>;

    /// How many events there are, by state.
    ///
    /// A store keeps them, so that this takes no longer however many there are; the first time in a process it may.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Removes up to `limit` events that were done and last changed before `moment`, bodies and all, and says whether there is
    /// nothing more to look at for now.
    ///
    /// The work of one call is bounded, and the next goes on from there. Events that are dated after `now`, or cannot be
    /// read, are passed over. Dead and deferred events stay, since they wait for somebody. A store may keep single events
    /// for longer, and gives no place in the order of receipt twice.
    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError>;

    /// How far retention has come, if that was ever noted.
    async fn retention(&self) -> Result<Option<Retention>, StoreError>;

    /// Notes, durably, how far retention has come.
    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError>;

    /// Begins to watch an event: the subscription tells when a change of its record has become durable.
    ///
    /// It may tell of a change that was none. Whoever must not wait for ever bounds the wait.
    fn subscribe(&self, id: EventId) -> Subscription;
}

/// Which events a listing shows; an absent field shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only events in this state.
    pub state: Option<State>,
    /// Only events of this type, by its wire name.
    pub kind: Option<String>,
    /// Only events of this account, and those whose result has named it: the purchase that made it.
    pub account: Option<String>,
    /// Only events of this integration.
    pub integration: Option<String>,
    /// Only events recorded at or after this moment.
    pub from: Option<Timestamp>,
    /// Only events recorded before this moment.
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Whether `event` is shown.
    #[must_use]
    pub fn shows(&self, event: &EventRecord) -> bool {
        // A purchase names no account: its result does.
        fn account_made(event: &EventRecord) -> Option<&str> {
            event.result.as_ref().filter(|result| result.success)?.account_identifier.as_deref()
        }
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none() || wanted == found
        }
        let kind = event.presumed_kind();
        self.state.is_none_or(|state| state == event.state)
            && is(self.kind.as_deref(), kind.map(crate::event::EventType::as_str))
            && (is(self.account.as_deref(), event.account.as_deref())
                || is(self.account.as_deref(), account_made(event)))
            && is(self.integration.as_deref(), Some(event.integration.as_str()))
            && self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
    }
}

/// A page of a listing, newest event first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The events.
    pub events: Vec<EventRecord>,
    /// Events that cannot be read, by place, and why not.
    pub unreadable: Vec<(Sequence, String)>,
    /// Where the next page begins, if there is one.
    pub next: Option<Sequence>,
}

/// How many events there are, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recorded, and not read yet.
    pub received: u64,
    /// Read, and without an outcome.
    pub fetched: u64,
    /// With an outcome that is not confirmed yet.
    pub handled: u64,
    /// Nothing is left to do.
    pub done: u64,
    /// The product answers later.
    pub deferred: u64,
    /// Given up, and waiting for an operator.
    pub dead: u64,
    /// Nobody can tell.
    pub unreadable: u64,
}

impl Counts {
    /// Notes that an event has gone from one state to another; nothing stands for an event that was not, or is not any more.
    pub(super) fn note(&mut self, before: Option<State>, after: Option<State>) {
        if let Some(before) = before {
            let count = self.count_of(before);
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            *self.count_of(after) += 1;
        }
    }

    const fn count_of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Received => &mut self.received,
            State::Fetched => &mut self.fetched,
            State::Handled => &mut self.handled,
            State::Done => &mut self.done,
            State::Deferred => &mut self.deferred,
            State::Dead => &mut self.dead,
        }
    }
}

/// What one call of [`History::prune`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Events that are gone.
    pub removed: usize,
    /// Whether there is nothing more to look at for now.
    pub is_through: bool,
}
