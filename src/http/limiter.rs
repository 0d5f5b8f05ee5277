//! Who may hold a connection: so many in all, so many of one network, and whoever waits longest makes room.
//!
//! A connection *waits* while its client has the next move: it sends nothing, or sends slowly, or does not read its
//! answer. It is *busy* while we work on a request of it. Only connections that wait are closed to make room for
//! another, the one that has waited longest first, so a newcomer is turned away only where all are busy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::limits::LimitExceeded;
use crate::clock::Moment;

/// What stands instead of the moment since which a connection waits, while it is busy.
const BUSY: u64 = u64::MAX;
/// How many busy connections are looked at, at most, in search of one that waits.
const MAX_LOOKS: usize = 512;
/// How often the operator is told that connections are closed to make room.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Whose connections are counted together. Whoever has an IPv6 address has a /64 of them, so that is what counts as
/// one.
fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::from(address).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).trunc().into(),
    }
}

/// How many connections there may be.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// In all.
    pub(crate) total: usize,
    /// Of one network.
    pub(crate) of_network: usize,
    /// Beyond that, to be told that they are too many.
    pub(crate) surplus: usize,
    /// Networks that are not limited by themselves.
    pub(crate) exempt: Vec<IpNet>,
}

/// Counts the connections of a listener.
pub(super) struct ConnectionLimiter {
    limits: ConnectionLimits,
    connections: Mutex<Connections>,
}

/// The order in which connections make room: since when each was last seen waiting, then a running number.
type Rank = (u64, u64);

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Open>,
    /// By rank. A rank may be out of date, since no lock is taken when a connection becomes busy: that shows when its
    /// turn comes.
    by_rank: BTreeMap<Rank, u64>,
    of_network: HashMap<IpNet, BTreeSet<(Rank, u64)>>,
    surplus: BTreeMap<u64, Arc<Shared>>,
    last_number: u64,
    warned: Option<Moment>,
}

struct Open {
    network: IpNet,
    rank: Rank,
    shared: Arc<Shared>,
}

/// What the limiter and the connection tell each other.
#[derive(Debug)]
struct Shared {
    waiting_since: AtomicU64,
    is_evicted: AtomicBool,
    task: OnceLock<Waker>,
}

impl Shared {
    fn evict(&self) {
        self.is_evicted.store(true, Ordering::Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

/// The right to hold a connection open, given back when it is dropped.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    shared: Arc<Shared>,
    /// Why it may be told so, and no more.
    pub(super) exceeded: Option<LimitExceeded>,
}

impl ConnectionLimiter {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, connections: Mutex::default() })
    }

    /// Takes a connection in. Somebody who waits has to go for it, if need be.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, now: Moment) -> ConnectionPermit {
        let network = network_of(address);
        let shared =
            Arc::new(Shared { waiting_since: micros(now).into(), is_evicted: false.into(), task: OnceLock::new() });
        let mut connections = self.connections();
        let id = connections.next_number();
        let exceeded = connections.make_room(network, self.share_of(address), self.limits.total, now);
        if exceeded.is_some() {
            if connections.surplus.len() >= self.limits.surplus
                && let Some((_, oldest)) = connections.surplus.pop_first()
            {
                oldest.evict();
            }
            connections.surplus.insert(id, Arc::clone(&shared));
        } else {
            connections.insert(id, network, Arc::clone(&shared), micros(now));
        }
        drop(connections);
        ConnectionPermit { limiter: Arc::clone(self), id, shared, exceeded }
    }

    fn share_of(&self, address: IpAddr) -> usize {
        let address = address.to_canonical();
        let is_exempt = self.limits.exempt.iter().any(|network| network.contains(&address));
        if is_exempt { self.limits.total } else { self.limits.of_network }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn insert(&mut self, id: u64, network: IpNet, shared: Arc<Shared>, since: u64) {
        let rank = (since, self.next_number());
        self.open.insert(id, Open { network, rank, shared });
        self.by_rank.insert(rank, id);
        self.of_network.entry(network).or_default().insert((rank, id));
    }

    fn remove(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.by_rank.remove(&open.rank);
        if let Some(of_network) = self.of_network.get_mut(&open.network) {
            of_network.remove(&(open.rank, id));
            if of_network.is_empty() {
                self.of_network.remove(&open.network);
            }
        }
        Some(open)
    }

    /// Sees to it that one more of `network` fits in, or says of what there are too many.
    fn make_room(&mut self, network: IpNet, share: usize, total: usize, now: Moment) -> Option<LimitExceeded> {
        let (exceeded, only) = if self.of_network.get(&network).map_or(0, BTreeSet::len) >= share {
            (LimitExceeded::ConnectionsOfAddress, Some(network))
        } else if self.open.len() >= total {
            (LimitExceeded::Connections, None)
        } else {
            return None;
        };
        if self.warned.is_none_or(|warned| now.since(warned) >= WARNING_INTERVAL) {
            self.warned = Some(now);
            if let Some(network) = only {
                tracing::warn!(%network, share, "a network holds all the connections it may; its idlest are closed");
            } else {
                tracing::warn!(total, "all connections are taken; the idlest are closed for new ones");
            }
        }
        if self.evict(only, micros(now)) { None } else { Some(exceeded) }
    }

    /// Closes the connection that has waited longest, of all or of one network; says whether there was one.
    fn evict(&mut self, only: Option<IpNet>, now: u64) -> bool {
        for _ in 0..MAX_LOOKS.min(2 * self.open.len()) {
            let first = match only {
                None => self.by_rank.first_key_value().map(|(_, id)| *id),
                Some(network) => {
                    self.of_network.get(&network).and_then(|of_network| of_network.first()).map(|(_, id)| *id)
                }
            };
            let Some(open) = first.and_then(|id| self.remove(id)) else { return false };
            let since = open.shared.waiting_since.load(Ordering::Acquire);
            if since != BUSY && since <= open.rank.0 {
                open.shared.evict();
                return true;
            }
            // Behind all that are known to wait longer.
            let since = if since == BUSY { now } else { since };
            if let Some(id) = first {
                self.insert(id, open.network, open.shared, since);
            }
        }
        false
    }
}

impl ConnectionPermit {
    /// Notes whose task is to be woken at an eviction.
    pub(super) fn wake(&self, task: &Waker) {
        self.shared.task.get_or_init(|| task.clone());
    }

    /// The client has the next move.
    pub(super) fn waits(&self, since: Moment) {
        self.shared.waiting_since.store(micros(since), Ordering::Release);
    }

    /// We have the next move.
    pub(super) fn is_busy(&self) {
        self.shared.waiting_since.store(BUSY, Ordering::Release);
    }

    /// Whether the connection has to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.shared.is_evicted.load(Ordering::Acquire)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.limiter.connections();
        if self.exceeded.is_some() {
            connections.surplus.remove(&self.id);
        } else {
            connections.remove(self.id);
        }
    }
}

fn micros(moment: Moment) -> u64 {
    u64::try_from(moment.since(Moment::default()).as_micros()).unwrap_or(BUSY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(total: usize, of_network: usize) -> Arc<ConnectionLimiter> {
        let exempt = vec!["10.0.0.0/8".parse().expect("a network")];
        ConnectionLimiter::new(ConnectionLimits { total, of_network, surplus: 2, exempt })
    }

    fn at(second: u64) -> Moment {
        Moment::after_start(Duration::from_secs(second))
    }

    fn admit(limiter: &Arc<ConnectionLimiter>, address: &str, second: u64) -> ConnectionPermit {
        limiter.admit(address.parse().expect("an address"), at(second))
    }

    #[test]
    fn a_network_is_an_ipv4_address_or_an_ipv6_slash_64() {
        for (first, second, are_one) in [
            ("203.0.113.9", "203.0.113.9", true),
            ("203.0.113.9", "203.0.113.10", false),
            ("203.0.113.9", "::ffff:203.0.113.9", true),
            ("::ffff:203.0.113.9", "::ffff:203.0.113.10", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let limiter = limiter(100, 1);
            let (first_permit, _second) = (admit(&limiter, first, 1), admit(&limiter, second, 2));
            assert_eq!(first_permit.is_evicted(), are_one, "{first} {second}");
        }
    }

    #[test]
    fn whoever_has_waited_longest_makes_room_and_not_whoever_came_first() {
        let limiter = limiter(3, 3);
        let permits = [1, 2, 3].map(|number| admit(&limiter, &format!("203.0.113.{number}"), number));
        permits[0].is_busy();
        permits[1].waits(at(5));
        let evicted = || permits.each_ref().map(ConnectionPermit::is_evicted);
        let _fourth = admit(&limiter, "203.0.113.4", 6);
        assert_eq!(evicted(), [false, false, true]);
        permits[0].waits(at(7));
        let fifth = admit(&limiter, "203.0.113.5", 8);
        assert_eq!(evicted(), [false, true, true]);
        fifth.is_busy();
        let _sixth = admit(&limiter, "203.0.113.6", 9);
        let _seventh = admit(&limiter, "203.0.113.7", 10);
        assert_eq!((evicted(), fifth.is_evicted()), ([true, true, true], false));
    }

    #[test]
    fn many_networks_together_take_no_place_of_whoever_is_busy() {
        let limiter = limiter(50, 5);
        let busy = [1, 2, 3].map(|number| {
            let permit = admit(&limiter, &format!("203.0.113.{number}"), 1);
            permit.is_busy();
            permit
        });
        let mut strangers = Vec::new();
        for number in 0..2000_u64 {
            let stranger = admit(&limiter, &format!("2001:db8:0:{:x}::{number:x}", number % 40), 2 + number);
            assert_eq!(stranger.exceeded, None);
            strangers.push(stranger);
        }
        assert!(busy.iter().all(|permit| !permit.is_evicted()));
        let open = strangers.iter().filter(|stranger| !stranger.is_evicted()).count();
        assert_eq!(open, 47);
        drop((busy, strangers));
        let connections = limiter.connections();
        assert!(connections.open.is_empty() && connections.by_rank.is_empty() && connections.of_network.is_empty());
    }

    #[test]
    fn where_all_are_busy_newcomers_are_taken_in_only_to_be_told_and_make_room_for_each_other() {
        let limiter = limiter(2, 2);
        let busy = [1, 2].map(|number| admit(&limiter, &format!("203.0.113.{number}"), number));
        busy.iter().for_each(ConnectionPermit::is_busy);
        let newcomers = [3, 4, 5].map(|number| admit(&limiter, &format!("203.0.113.{number}"), number));
        assert!(newcomers.iter().all(|newcomer| newcomer.exceeded == Some(LimitExceeded::Connections)));
        assert_eq!(newcomers.each_ref().map(ConnectionPermit::is_evicted), [true, false, false]);
        drop(busy);
        assert_eq!(admit(&limiter, "203.0.113.6", 6).exceeded, None);
        drop(newcomers);
        assert!(limiter.connections().surplus.is_empty());
    }

    #[test]
    fn a_trusted_proxy_is_limited_by_the_total_alone() {
        let limiter = limiter(4, 1);
        let permits = [1, 2, 3, 4].map(|second| admit(&limiter, "10.1.2.3", second));
        assert!(permits.iter().all(|permit| !permit.is_evicted()));
        let _stranger = admit(&limiter, "203.0.113.9", 5);
        assert_eq!(permits.each_ref().map(ConnectionPermit::is_evicted), [true, false, false, false]);
    }

    #[test]
    fn a_clock_that_stands_still_is_no_reason_to_turn_anybody_away() {
        let limiter = limiter(2, 2);
        let permits = [1, 2, 3, 4].map(|number| admit(&limiter, &format!("203.0.113.{number}"), 1));
        assert_eq!(permits.each_ref().map(|permit| permit.exceeded), [None; 4]);
        assert_eq!(permits.each_ref().map(ConnectionPermit::is_evicted), [true, true, false, false]);
    }
}
