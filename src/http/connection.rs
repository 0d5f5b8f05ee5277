//! The deadlines of a connection.
//!
//! A connection is in one phase at any moment, and every phase in which the client has the next move has a deadline:
//! idle, the head, the body, the answer that is not read, the end. Three parts report to one [`Connection`], all on
//! the same thread: [`GuardedStream`](super::stream::GuardedStream) what is read and written, [`Observed`](super::observed::Observed)
//! when a request begins and its answer ends, and [`Guarded`], which drives the protocol, what time it is.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::farewell::{Farewell, Malformed, Wording};
use super::limiter::ConnectionPermit;
use super::limits::{LimitCounters, LimitExceeded};
use crate::clock::{Clock, Moment};
use crate::log_limiter::LogLimiter;

/// How long what a client still sends is read and thrown away after the last answer, so that it gets to read that.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much is read before the protocol looks at it, in bytes. It decodes all that it has, and what it decodes takes some
/// fifty times as much memory as it took bytes; so few requests ever wait behind the one that is worked on.
pub(super) const READ_AT_ONCE: usize = 2048;

/// How much is taken from one connection, and how long.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionTimes {
    /// How long it may be idle.
    pub(crate) keep_alive: Duration,
    /// How long a head may take from its first byte, and a body after it.
    pub(crate) request: Duration,
    /// How long an answer may be left unread.
    pub(crate) answer: Duration,
    /// The largest head, in bytes.
    pub(crate) max_head_bytes: usize,
    /// The largest body, in bytes.
    pub(crate) max_body_bytes: usize,
}

/// What the connections of a listener have in common.
pub(super) struct Policy {
    pub(super) times: ConnectionTimes,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limit_counters: Arc<LimitCounters>,
    pub(super) wording: Wording,
    pub(super) log: LogLimiter,
}

/// How far the body of the present request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// There is none, or it was read to its end.
    Complete,
    /// Not all of it was read.
    Incomplete,
    /// It is not waited for any longer.
    Refused(LimitExceeded),
}

/// One connection, as all that deals with it sees it.
pub(super) struct Connection {
    policy: Arc<Policy>,
    permit: ConnectionPermit,
    /// When the present phase began.
    since: Cell<Moment>,
    /// Bytes of a head that is not complete.
    head_bytes: Cell<usize>,
    /// How many more bytes are read before a request or an answer has to be complete.
    budget: Cell<usize>,
    /// Whether reading has stopped until the present request is answered.
    is_throttled: Cell<bool>,
    /// Whether as much as is read at once was read, and not looked at yet.
    is_full: Cell<bool>,
    /// Whether a request is worked on.
    is_handling: Cell<bool>,
    body: Cell<Body>,
    /// Whether whoever works on the request waits for more of its body.
    awaits_body: Cell<bool>,
    /// Since when the client does not read its answer.
    blocked_since: Cell<Option<Moment>>,
    /// Whether the client will send nothing more.
    is_at_end: Cell<bool>,
    /// Whether an answer said that the connection closes.
    closes: Cell<bool>,
    /// Whether nothing more is read.
    is_ending: Cell<bool>,
    /// Whether nothing more is to be written than what was written so far.
    is_last_written: Cell<bool>,
    /// Whether what is written from now on is thrown away.
    is_muted: Cell<bool>,
    /// What it is that arrived, should it be no request.
    opening: Cell<Malformed>,
    /// Whether the protocol is to be driven once more when what it has written is out.
    is_nudged: Cell<bool>,
    /// What to say before the end, if no request is there to be answered.
    farewell: Cell<Option<Farewell>>,
}

/// What comes of a deadline.
enum Expiry {
    /// The connection is closed.
    Closed,
    /// The protocol goes on, and finds that there is nothing more to wait for.
    Told,
}

impl Connection {
    pub(super) fn new(policy: Arc<Policy>, permit: ConnectionPermit) -> Self {
        Self {
            since: Cell::new(policy.clock.monotonic()),
            budget: Cell::new(policy.times.max_head_bytes),
            policy,
            permit,
            head_bytes: Cell::new(0),
            is_throttled: Cell::new(false),
            is_full: Cell::new(false),
            is_handling: Cell::new(false),
            body: Cell::new(Body::Complete),
            awaits_body: Cell::new(false),
            blocked_since: Cell::new(None),
            is_at_end: Cell::new(false),
            closes: Cell::new(false),
            is_ending: Cell::new(false),
            is_last_written: Cell::new(false),
            is_muted: Cell::new(false),
            opening: Cell::new(Malformed::Other),
            is_nudged: Cell::new(false),
            farewell: Cell::new(None),
        }
    }

    /// Why its requests are turned away, if they are.
    pub(super) fn exceeded(&self) -> Option<LimitExceeded> {
        self.permit.exceeded
    }

    /// What was wrong with the body of the present request, if that is why it ended early.
    pub(super) fn body_limit_exceeded(&self) -> Option<LimitExceeded> {
        match self.body.get() {
            Body::Refused(exceeded) => Some(exceeded),
            Body::Complete | Body::Incomplete => None,
        }
    }

    /// A request's head is complete.
    pub(super) fn begin(&self, has_body: bool) {
        let times = &self.policy.times;
        self.head_bytes.set(0);
        self.is_handling.set(true);
        // Chunks have lengths and line ends of their own.
        let for_body = if has_body { times.max_body_bytes.saturating_mul(2).saturating_add(4096) } else { 0 };
        self.refill(times.max_head_bytes.saturating_add(for_body));
        self.permit.is_busy();
        if has_body {
            self.body.set(Body::Incomplete);
            self.since.set(self.policy.clock.monotonic());
        } else {
            self.body.set(Body::Complete);
        }
    }

    /// The work on the request waits for more of its body, so the client has the next move. It waits from the head on: a
    /// client that sends byte by byte is not the latest to have moved.
    pub(super) fn awaits_body(&self) {
        if !self.awaits_body.replace(true) {
            self.permit.waits(self.since.get());
        }
    }

    /// The work on the request goes on, with more of the body or without.
    pub(super) fn goes_on(&self) {
        if self.awaits_body.replace(false) && self.is_busy() {
            self.permit.is_busy();
        }
    }

    /// The request's body was read to its end.
    pub(super) fn complete_body(&self) {
        self.body.set(Body::Complete);
        self.goes_on();
    }

    /// Whether the next move is ours, so that the connection makes room for nobody.
    fn is_busy(&self) -> bool {
        self.is_handling.get() && !self.awaits_body.get() && self.blocked_since.get().is_none()
    }

    /// Whether the body was left unread, so that nothing can follow it.
    pub(super) fn has_unread_body(&self) -> bool {
        self.body.get() != Body::Complete
    }

    /// The answer is complete, though not necessarily on its way.
    pub(super) fn end(&self) {
        let now = self.policy.clock.monotonic();
        self.is_handling.set(false);
        self.awaits_body.set(false);
        self.since.set(now);
        self.permit.waits(now);
        self.refill(self.policy.times.max_head_bytes);
        if self.has_unread_body() || self.exceeded().is_some() {
            self.is_ending.set(true);
            self.is_nudged.set(true);
        }
    }

    /// The answer says that the connection closes.
    pub(super) fn closes(&self) {
        self.closes.set(true);
    }

    /// Whether an answer was the last, so that a request that is there already gets none.
    pub(super) fn is_over(&self) -> bool {
        self.closes.get() || self.is_ending.get()
    }

    /// Has nothing written after what was written so far. Ready once that is on its way.
    pub(super) fn poll_muted(&self) -> Poll<()> {
        // What the client goes on sending is read to an end, or it would not get to read the answer.
        self.is_ending.set(true);
        if self.is_muted.get() {
            return Poll::Ready(());
        }
        self.is_last_written.set(true);
        Poll::Pending
    }

    /// Whether what is written is thrown away.
    pub(super) fn is_muted(&self) -> bool {
        self.is_muted.get()
    }

    /// What arrived is no request, or has too many headers to be read, and the protocol gives up. Returns what to say,
    /// unless the last answer was given.
    pub(super) fn fails_to_parse(&self, is_too_large: bool) -> Option<Farewell> {
        if self.is_over() {
            return None;
        }
        self.is_ending.set(true);
        if is_too_large {
            self.policy.limit_counters.note(LimitExceeded::Headers);
            return Some(Farewell::LimitExceeded(LimitExceeded::Headers));
        }
        self.policy.limit_counters.note_malformed();
        let malformed = self.opening.get();
        if let Some(times) = self.policy.log.admit(malformed.name()) {
            tracing::warn!(kind = malformed.name(), times, "what arrives is no request: {malformed}");
        }
        Some(Farewell::Malformed(malformed))
    }

    /// How errors are worded here.
    pub(super) fn wording(&self) -> Wording {
        self.policy.wording
    }

    fn refill(&self, budget: usize) {
        self.budget.set(budget);
        if self.is_throttled.take() {
            self.is_nudged.set(true);
        }
    }

    /// How many bytes may be read now.
    pub(super) fn budget(&self) -> Budget {
        if self.is_ending.get() {
            return Budget::End;
        }
        if self.is_full.take() {
            return Budget::Again;
        }
        // What comes now belongs to the next request: it waits in the network.
        if self.is_handling.get() && self.body.get() == Body::Complete {
            self.is_throttled.set(true);
            return Budget::Later;
        }
        match self.budget.get() {
            0 if self.is_handling.get() => {
                if self.body.get() == Body::Incomplete {
                    self.body.set(Body::Refused(LimitExceeded::Body));
                    return Budget::Again;
                }
                self.is_throttled.set(true);
                Budget::Later
            }
            // What was read may hold whole requests that were not looked at yet.
            0 if !self.is_throttled.replace(true) => Budget::Again,
            0 => {
                self.say_farewell(LimitExceeded::Headers);
                Budget::End
            }
            bytes => Budget::Bytes(bytes.min(READ_AT_ONCE)),
        }
    }

    /// Bytes arrived.
    pub(super) fn read(&self, bytes: &[u8]) {
        self.budget.set(self.budget.get().saturating_sub(bytes.len()));
        self.is_full.set(bytes.len() >= READ_AT_ONCE);
        if self.is_handling.get() {
            return;
        }
        let before = self.head_bytes.get();
        if before == 0 {
            // Empty lines before a request belong to none.
            if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                return;
            }
            self.since.set(self.policy.clock.monotonic());
            self.opening.set(Malformed::beginning_with(bytes));
        }
        self.head_bytes.set(before + bytes.len());
    }

    /// The client does not read as fast as we write.
    pub(super) fn is_blocked(&self) {
        if self.blocked_since.get().is_none() {
            let now = self.policy.clock.monotonic();
            self.blocked_since.set(Some(now));
            self.permit.waits(now);
        }
    }

    /// All that was to be written is on its way. Says whether the protocol is to be driven once more.
    pub(super) fn has_written_all(&self) -> bool {
        if self.blocked_since.take().is_some() && self.is_busy() {
            self.permit.is_busy();
        }
        let is_muted_now = self.is_last_written.take();
        if is_muted_now {
            self.is_muted.set(true);
        }
        self.is_nudged.take() || is_muted_now
    }

    fn say_farewell(&self, exceeded: LimitExceeded) {
        self.policy.limit_counters.note(exceeded);
        self.farewell.set(Some(Farewell::LimitExceeded(exceeded)));
        self.is_ending.set(true);
        self.since.set(self.policy.clock.monotonic());
    }

    /// What is to be said before the end, once, and not into an answer that is not out.
    pub(super) fn take_farewell(&self) -> Option<Farewell> {
        self.farewell.take().filter(|_| self.blocked_since.get().is_none())
    }

    /// The client will send nothing more.
    pub(super) fn reached_end(&self) {
        self.is_at_end.set(true);
    }

    /// Whether the client may still be sending, so that closing at once would cost it the answer. The phase of the
    /// end begins.
    pub(super) fn lingers(&self) -> bool {
        let lingers = !self.is_at_end.get() && (self.is_ending.get() || self.head_bytes.get() > 0);
        if lingers && !self.is_ending.replace(true) {
            self.since.set(self.policy.clock.monotonic());
        }
        lingers
    }

    /// Whether it makes room for another. An eviction may come when it has just become busy; it goes once it waits.
    fn has_to_go(&self) -> bool {
        self.permit.is_evicted() && !self.is_busy()
    }

    /// Until when the client has time for its next move, if that is not ours.
    fn deadline(&self) -> Option<Moment> {
        let times = &self.policy.times;
        let since = self.since.get();
        if let Some(blocked) = self.blocked_since.get() {
            return Some(blocked.plus(times.answer));
        }
        if self.is_handling.get() {
            return match self.body.get() {
                Body::Incomplete => Some(since.plus(times.request)),
                Body::Complete | Body::Refused(_) => None,
            };
        }
        if self.is_ending.get() {
            return Some(since.plus(LINGER_TIME));
        }
        let is_idle = self.head_bytes.get() == 0 && self.exceeded().is_none();
        Some(since.plus(if is_idle { times.keep_alive } else { times.request }))
    }

    fn expire(&self) -> Expiry {
        if self.blocked_since.get().is_some() {
            return Expiry::Closed;
        }
        if self.is_handling.get() {
            self.body.set(Body::Refused(LimitExceeded::Slow));
            return Expiry::Told;
        }
        if self.is_ending.get() || self.head_bytes.get() == 0 {
            return Expiry::Closed;
        }
        self.say_farewell(LimitExceeded::Slow);
        Expiry::Told
    }
}

/// What may be read.
pub(super) enum Budget {
    /// So many bytes.
    Bytes(usize),
    /// Nothing before what was read is looked at.
    Again,
    /// Nothing before the present request is answered.
    Later,
    /// Nothing any more.
    End,
}

/// The protocol on one connection, which ends at the connection's deadline if not before.
pub(super) struct Guarded<P> {
    protocol: Pin<Box<P>>,
    connection: Rc<Connection>,
    timer: Option<Timer>,
}

struct Timer {
    at: Moment,
    sleep: Pin<Box<dyn Future<Output = ()>>>,
}

impl<P> Guarded<P> {
    pub(super) fn new(protocol: P, connection: Rc<Connection>) -> Self {
        Self { protocol: Box::pin(protocol), connection, timer: None }
    }

    /// Whether `deadline` may have come. A timer that is set for an earlier moment is left as it is, so that a
    /// connection with many requests sets few.
    fn poll_timer(&mut self, deadline: Moment, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_ref().is_none_or(|timer| timer.at > deadline) {
            let clock = Arc::clone(&self.connection.policy.clock);
            let sleep = Box::pin(async move { clock.sleep_until(deadline).await });
            self.timer = Some(Timer { at: deadline, sleep });
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        timer.sleep.as_mut().poll(cx).map(|()| self.timer = None)
    }
}

impl<P: Future> Future for Guarded<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection.permit.wake(cx.waker());
        loop {
            if this.connection.has_to_go() {
                return Poll::Ready(());
            }
            if this.protocol.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(deadline) = this.connection.deadline() else { return Poll::Pending };
            ready!(this.poll_timer(deadline, cx));
            if this.connection.policy.clock.monotonic() >= deadline
                && let Expiry::Closed = this.connection.expire()
            {
                return Poll::Ready(());
            }
        }
    }
}
