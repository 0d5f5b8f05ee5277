//! Who may wait for an identity provider, so that strangers' inventions take nobody's place.
//!
//! Whatever a stranger makes up has to be looked into, and while the provider is slow that is a place for as long as a
//! caller waits. So places are given by what is known of the caller: a token that was good lately has places of its
//! own, a network that showed a good one lately has a large share, and any other has a small one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::at_most;
use crate::clock::{Clock, Moment};

/// How long it is remembered that a network showed something good.
const PROVEN_FOR: Duration = Duration::from_hours(24);
/// Networks that this is remembered of.
const TRACKED: NonZeroUsize = at_most(4096);

/// How long a caller waits for keys: a marketplace waits 5 s for its answer.
pub(super) const KEY_PATIENCE: Duration = Duration::from_secs(4);
/// Callers that wait for keys at once; more are turned away. A burst that follows a start comes from one network, which
/// is not known yet, so that has to fit; and all together leave most of the requests in flight to others.
pub(super) const KEY_WAITERS: Bounds =
    Bounds { total: 768, kept_for_known: 0, strangers: 384, of_stranger: 256, of_proven: 384 };

/// How many places there are, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// In all.
    pub(super) total: usize,
    /// Of these, those that are kept for what was good lately.
    pub(super) kept_for_known: usize,
    /// Of the rest, those that networks without any merit may take together.
    pub(super) strangers: usize,
    /// And one of them.
    pub(super) of_stranger: usize,
    /// And a network that showed something good lately.
    pub(super) of_proven: usize,
}

/// What is known of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallerClass {
    /// What it shows was good lately.
    Known,
    /// Something from its network was.
    Proven,
    /// Nothing.
    Stranger,
}

/// The places and who has them.
pub(super) struct Admission {
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    taken: Mutex<Taken>,
}

struct Taken {
    total: usize,
    strangers: usize,
    of_network: HashMap<IpAddr, usize>,
    proven: LruCache<IpAddr, Moment>,
}

/// One place, given back when it is dropped.
pub(super) struct Place {
    admission: Arc<Admission>,
    network: IpAddr,
    pub(super) class: CallerClass,
}

impl Admission {
    pub(super) fn new(bounds: Bounds, clock: Arc<dyn Clock>) -> Arc<Self> {
        let taken = Taken { total: 0, strangers: 0, of_network: HashMap::new(), proven: LruCache::new(TRACKED) };
        Arc::new(Self { bounds, clock, taken: Mutex::new(taken) })
    }

    /// A place for a caller from `address`, if there is one for the likes of it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, is_known: bool) -> Option<Place> {
        let (network, bounds) = (network_of(address), self.bounds);
        let mut taken = self.taken();
        let class = if is_known {
            CallerClass::Known
        } else if taken.is_proven(network, self.clock.monotonic()) {
            CallerClass::Proven
        } else {
            CallerClass::Stranger
        };
        let of_network = taken.of_network.get(&network).copied().unwrap_or_default();
        let for_all = bounds.total - bounds.kept_for_known;
        let has_room = match class {
            CallerClass::Known => taken.total < bounds.total,
            CallerClass::Proven => taken.total < for_all && of_network < bounds.of_proven,
            CallerClass::Stranger => {
                taken.total < for_all && taken.strangers < bounds.strangers && of_network < bounds.of_stranger
            }
        };
        if !has_room {
            return None;
        }
        taken.total += 1;
        taken.strangers += usize::from(class == CallerClass::Stranger);
        if class != CallerClass::Known {
            *taken.of_network.entry(network).or_default() += 1;
        }
        Some(Place { admission: Arc::clone(self), network, class })
    }

    /// Notes that `address` showed something good.
    pub(super) fn proved(&self, address: IpAddr) {
        let (network, now) = (network_of(address), self.clock.monotonic());
        self.taken().proven.put(network, now);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn is_proven(&self, network: IpAddr, now: Moment) -> bool {
        self.proven.peek(&network).is_some_and(|proven| now.since(*proven) < PROVEN_FOR)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.admission.taken();
        taken.total -= 1;
        taken.strangers -= usize::from(self.class == CallerClass::Stranger);
        if self.class != CallerClass::Known
            && let Some(of_network) = taken.of_network.get_mut(&self.network)
        {
            *of_network -= 1;
            if *of_network == 0 {
                taken.of_network.remove(&self.network);
            }
        }
    }
}

/// What counts as one address: of IPv6 the network, since a single machine has as many addresses in it as it likes.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    const BOUNDS: Bounds = Bounds { total: 20, kept_for_known: 4, strangers: 8, of_stranger: 2, of_proven: 10 };

    fn admission() -> (Arc<Admission>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(0)));
        (Admission::new(BOUNDS, clock.clone()), clock)
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into()
    }

    #[test]
    fn strangers_of_however_many_addresses_leave_room_for_the_proven_and_all_of_them_for_the_known() {
        let (admission, _) = admission();
        let market = v6(0, 1);
        admission.proved(market);
        let of_one: Vec<_> = (0..100).filter_map(|host| admission.enter(v6(1, host), false)).collect();
        assert_eq!(of_one.len(), BOUNDS.of_stranger, "addresses of one network count as one");
        let strangers: Vec<_> = (2..100).filter_map(|network| admission.enter(v6(network, 1), false)).collect();
        assert_eq!(strangers.len() + of_one.len(), BOUNDS.strangers);
        let proven: Vec<_> = (0..100).filter_map(|host| admission.enter(v6(0, host), false)).collect();
        assert_eq!(proven.len(), BOUNDS.total - BOUNDS.kept_for_known - BOUNDS.strangers);
        assert!(proven.iter().all(|place| place.class == CallerClass::Proven));
        let known: Vec<_> = (0..100).filter_map(|host| admission.enter(v6(7, host), true)).collect();
        assert_eq!(known.len(), BOUNDS.kept_for_known);
        drop((of_one, strangers, proven, known));
        assert!(admission.taken().of_network.is_empty() && admission.taken().total == 0, "places are given back");
    }

    #[test]
    fn a_proof_is_remembered_for_a_day_and_of_so_many_networks() {
        let (admission, clock) = admission();
        admission.proved(v6(0, 1));
        let class = |network| admission.enter(v6(network, 9), false).map(|place| place.class);
        assert_eq!(class(0), Some(CallerClass::Proven));
        clock.advance(PROVEN_FOR);
        assert_eq!(class(0), Some(CallerClass::Stranger));
        for network in 0..u16::try_from(TRACKED.get()).expect("small") + 10 {
            admission.proved(v6(network, 1));
        }
        assert_eq!(admission.taken().proven.len(), TRACKED.get());
    }
}
