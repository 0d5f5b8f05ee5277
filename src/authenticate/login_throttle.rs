//! Slows whoever guesses secrets, without letting a stranger lock the marketplace out or find out who our clients are.
//!
//! Failures are counted for the address they come from: after a few, the address waits before its next try counts, and
//! ever longer. They are counted for the name that is guessed at too, from wherever they come: while there are many, an
//! address gets fewer tries before it waits. No number of failures makes the first try of an address wait, and from an
//! address that proved a client's secret lately that secret is always good: so the marketplace passes whatever
//! strangers do.
//!
//! A name that a client has and one that nobody has are counted by the same counters, and a wrong secret is answered
//! the same whichever it was given for: whoever counts answers learns nothing of which names there are.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::admission::network_of;
use super::at_most;
use crate::clock::{Clock, Moment};

/// Failures of an address that cost nothing yet.
const FREE: u32 = 5;
/// Failures at a name, from all addresses, after which each address has one that costs nothing.
const UNDER_ATTACK: u32 = 50;
/// The first wait; it doubles with each further failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The first wait at a name that many guess at.
const FIRST_WAIT_UNDER_ATTACK: Duration = Duration::from_secs(30);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// When failures are forgotten after the last.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);
/// How long a proof is remembered.
const PROVEN_FOR: Duration = Duration::from_hours(24);
/// Addresses that are remembered, of failures and of proofs. Those that have been quiet longest make room.
const TRACKED: NonZeroUsize = at_most(16_384);
/// Counters of names. Names share them, since there is no end to names; that makes a stranger wait sooner, now and
/// then, and nobody else.
const NAME_COUNTERS: usize = 8192;

pub(super) struct LoginThrottle {
    clock: Arc<dyn Clock>,
    /// Which counter a name has is not to be foreseen.
    names: RandomState,
    counters: Mutex<Counters>,
}

struct Counters {
    failures: LruCache<IpAddr, Failures>,
    names: Vec<Failures>,
    proven: LruCache<(IpAddr, Vec<u8>), Moment>,
}

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    latest: Moment,
    blocked_until: Moment,
}

/// Why what a caller shows is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is wrong.
    Wrong,
    /// The address has to wait; whether it is right is not said.
    TooManyFailures {
        /// How long.
        retry_after: Duration,
    },
}

impl Failures {
    fn is_forgotten(&self, now: Moment) -> bool {
        now.since(self.latest) >= FORGOTTEN_AFTER
    }

    fn count_one(&mut self, now: Moment) {
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        self.count = self.count.saturating_add(1);
        self.latest = now;
    }
}

impl LoginThrottle {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let names = vec![Failures::default(); NAME_COUNTERS];
        let counters = Counters { failures: LruCache::new(TRACKED), names, proven: LruCache::new(TRACKED) };
        Self { clock, names: RandomState::new(), counters: Mutex::new(counters) }
    }

    /// Whether `proof`, the client that `address` proved to be and what comes of it, counts now. Without a proof, what
    /// the address showed for `name` was wrong.
    ///
    /// What is shown is looked into before this is asked, whether or not the address waits, so that the time it takes
    /// tells nothing either.
    pub(super) fn judge<T>(&self, address: IpAddr, name: &[u8], proof: Option<(&str, T)>) -> Result<T, Refused> {
        let (address, now) = (network_of(address), self.clock.monotonic());
        let mut counters = self.counters();
        let wait =
            counters.failures.peek(&address).map_or(Duration::ZERO, |failures| failures.blocked_until.since(now));
        match proof {
            Some((client, found)) if wait.is_zero() || counters.is_proven(address, client, now) => {
                counters.note_proof(address, client, now);
                Ok(found)
            }
            Some(_) => Err(Refused::TooManyFailures { retry_after: wait }),
            None if !wait.is_zero() => Err(Refused::TooManyFailures { retry_after: wait }),
            None => {
                let counter = usize::try_from(self.names.hash_one(name) % NAME_COUNTERS as u64).unwrap_or_default();
                counters.note_failure(address, counter, now);
                Err(Refused::Wrong)
            }
        }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn is_proven(&self, address: IpAddr, client: &str, now: Moment) -> bool {
        let proof = self.proven.peek(&(address, client.as_bytes().to_vec()));
        proof.is_some_and(|proven| now.since(*proven) < PROVEN_FOR)
    }

    fn note_proof(&mut self, address: IpAddr, client: &str, now: Moment) {
        self.proven.put((address, client.as_bytes().to_vec()), now);
    }

    fn note_failure(&mut self, address: IpAddr, counter: usize, now: Moment) {
        let is_under_attack = self.names.get_mut(counter).is_some_and(|of_name| {
            of_name.count_one(now);
            of_name.count > UNDER_ATTACK
        });
        let failures = self.failures.get_or_insert_mut(address, Failures::default);
        failures.count_one(now);
        let (free, first) = if is_under_attack { (1, FIRST_WAIT_UNDER_ATTACK) } else { (FREE, FIRST_WAIT) };
        if let Some(beyond) = failures.count.checked_sub(free) {
            let wait = first.saturating_mul(2_u32.saturating_pow(beyond)).min(LONGEST_WAIT);
            failures.blocked_until = now.plus(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    const CLIENT: &str = "marketplace";

    fn throttle() -> (LoginThrottle, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(1_700_000_000_000)));
        (LoginThrottle::new(clock.clone()), clock)
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    fn guess(throttle: &LoginThrottle, from: IpAddr, name: &str) -> Refused {
        throttle.judge(from, name.as_bytes(), None::<(&str, ())>).expect_err("it is wrong")
    }

    fn prove(throttle: &LoginThrottle, from: IpAddr) -> Result<(), Refused> {
        throttle.judge(from, CLIENT.as_bytes(), Some((CLIENT, ())))
    }

    /// How long `from` waits now; whoever waits is not counted again.
    fn wait(throttle: &LoginThrottle, from: IpAddr) -> Duration {
        let now = throttle.clock.monotonic();
        throttle.counters().failures.peek(&from).map_or(Duration::ZERO, |failures| failures.blocked_until.since(now))
    }

    #[test]
    fn an_address_that_guesses_waits_ever_longer_and_no_longer_than_the_longest_wait() {
        let (throttle, clock) = throttle();
        let mut waits = Vec::new();
        for _ in 0..16 {
            assert_eq!(guess(&throttle, address(1), CLIENT), Refused::Wrong, "its wait is over");
            let wait = wait(&throttle, address(1));
            if !wait.is_zero() {
                let refused = Refused::TooManyFailures { retry_after: wait };
                assert_eq!(guess(&throttle, address(1), CLIENT), refused);
                assert_eq!(prove(&throttle, address(1)), Err(refused), "nor is a right guess told from a wrong one");
            }
            waits.push(wait.as_secs());
            clock.advance(wait);
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(guess(&throttle, address(2), CLIENT), Refused::Wrong, "another address does not wait");
    }

    #[test]
    fn failures_are_forgotten_after_a_while_by_whatever_the_wall_clock_shows() {
        let (throttle, clock) = throttle();
        for _ in 0..5 {
            guess(&throttle, address(1), CLIENT);
        }
        clock.set(Timestamp::from_millis(1 << 44));
        assert_ne!(guess(&throttle, address(1), CLIENT), Refused::Wrong);
        clock.advance(FORGOTTEN_AFTER);
        clock.set(Timestamp::from_millis(0));
        assert_eq!(guess(&throttle, address(1), CLIENT), Refused::Wrong);
        assert_eq!(wait(&throttle, address(1)), Duration::ZERO);
    }

    #[test]
    fn the_secret_is_good_from_where_it_was_proven_whatever_strangers_do_there() {
        let (throttle, clock) = throttle();
        prove(&throttle, address(1)).expect("is right");
        for _ in 0..100 {
            guess(&throttle, address(1), CLIENT);
        }
        prove(&throttle, address(1)).expect("is right");
        assert!(throttle.judge(address(1), b"other", Some(("other", ()))).is_err(), "for its own client only");
        clock.advance(PROVEN_FOR);
        for _ in 0..6 {
            guess(&throttle, address(1), CLIENT);
        }
        assert!(prove(&throttle, address(1)).is_err(), "and for a day");
    }

    #[test]
    fn no_number_of_guesses_at_a_client_makes_a_new_address_wait_for_its_first_try() {
        let (throttle, _) = throttle();
        for number in 0..10_000 {
            assert_eq!(guess(&throttle, address(number), CLIENT), Refused::Wrong);
        }
        guess(&throttle, address(20_000), CLIENT);
        assert_eq!(wait(&throttle, address(20_000)), FIRST_WAIT_UNDER_ATTACK, "and it has one try, not five");
        prove(&throttle, address(20_001)).expect("is right");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let (throttle, _) = throttle();
        let of = |host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host));
        for host in 0..5 {
            guess(&throttle, of(host), CLIENT);
        }
        assert_ne!(guess(&throttle, of(99), CLIENT), Refused::Wrong);
        assert_eq!(guess(&throttle, "::ffff:10.0.0.1".parse().expect("an address"), CLIENT), Refused::Wrong);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (throttle, clock) = throttle();
        let most = u32::try_from(TRACKED.get()).expect("small");
        for number in 0..most + 100 {
            clock.advance(Duration::from_millis(1));
            guess(&throttle, address(number), &number.to_string());
            let _ = prove(&throttle, address(number));
        }
        let counters = throttle.counters();
        assert!(counters.failures.contains(&address(most)));
        assert!(!counters.failures.contains(&address(0)), "the quietest were forgotten");
        assert_eq!([counters.failures.len(), counters.proven.len()], [TRACKED.get(); 2]);
        assert_eq!(counters.names.len(), NAME_COUNTERS);
    }

    /// What an observer sees who guesses at `name` in every way there is: answers, waits and free tries, from a new
    /// address, from one that the marketplace shares, after a storm at the name and after a storm of other names.
    fn observed(name: &str) -> Vec<String> {
        let (throttle, clock) = throttle();
        let shared = address(1);
        prove(&throttle, shared).expect("is right");
        let mut seen = Vec::new();
        let mut look = |from: IpAddr| seen.push(format!("{:?}", guess(&throttle, from, name)));
        (0..20).for_each(|_| look(shared));
        (0..20).for_each(|_| look(address(2)));
        (100..160).for_each(|number| look(address(number)));
        for number in 0..3000 {
            guess(&throttle, address(10_000 + number), &format!("invented {number}"));
        }
        (200..205).for_each(|number| (0..3).for_each(|_| look(address(number))));
        clock.advance(Duration::from_secs(40));
        (0..3).for_each(|_| look(address(200)));
        clock.advance(FORGOTTEN_AFTER);
        (0..6).for_each(|_| look(address(200)));
        prove(&throttle, shared).expect("is right");
        (0..20).for_each(|_| look(shared));
        seen
    }

    #[test]
    fn whoever_counts_answers_cannot_tell_a_client_from_an_invention() {
        let of_client = observed(CLIENT);
        for invented in ["nobody", "Marketplace", "marketplace ", ""] {
            assert_eq!(observed(invented), of_client, "{invented:?}");
        }
    }
}
