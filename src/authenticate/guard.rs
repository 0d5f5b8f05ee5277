//! Slows whoever guesses secrets, without letting a stranger lock the marketplace out.
//!
//! Failures are counted for the address they come from: after a few, the address waits before its next try is looked
//! at, and ever longer. They are counted for the client that is guessed at too, from wherever they come: while there
//! are many, an address gets fewer tries before it waits. No number of failures makes the first try of an address
//! wait, and an address that proved the client's secret lately is always looked at: so the marketplace passes
//! whatever strangers do, unless it shares its address with them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// Failures of an address that cost nothing yet.
const FREE: u32 = 5;
/// Failures at a client, from all addresses, after which each address has one that costs nothing.
const UNDER_ATTACK: u32 = 50;
/// The first wait; it doubles with each further failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The first wait at a client that many guess at.
const FIRST_WAIT_UNDER_ATTACK: Duration = Duration::from_secs(30);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// When failures are forgotten after the last.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);
/// How long a proof is remembered.
const PROVEN_FOR: Duration = Duration::from_hours(24);
/// Addresses that are remembered, of failures and of proofs.
const TRACKED: usize = 16_384;
/// Names that are remembered though no client has them.
const INVENTED: usize = 1024;

#[derive(Default)]
pub(super) struct Guard {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    failures: HashMap<IpAddr, Failures>,
    clients: HashMap<Vec<u8>, Failures>,
    /// Names that no client has are treated like those that one has, or the difference would tell. There is no end to
    /// them, so they are kept apart.
    invented: HashMap<Vec<u8>, Failures>,
    proven: HashMap<(IpAddr, Vec<u8>), Timestamp>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    latest: Timestamp,
    blocked_until: Timestamp,
}

impl Failures {
    const fn none(now: Timestamp) -> Self {
        Self { count: 0, latest: now, blocked_until: now }
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        now.since(self.latest) >= FORGOTTEN_AFTER
    }
}

impl Guard {
    /// Whether a secret that `address` shows for `client` is looked at now; if not, how long that takes.
    pub(super) fn admit(&self, address: IpAddr, client: &[u8], now: Timestamp) -> Result<(), Duration> {
        let address = network_of(address);
        let books = self.books();
        match books.failures.get(&address) {
            Some(failures) if failures.blocked_until > now && !books.is_proven(address, client, now) => {
                Err(failures.blocked_until.since(now))
            }
            _ => Ok(()),
        }
    }

    /// Notes that `address` proved to be `client`.
    pub(super) fn succeeded(&self, address: IpAddr, client: &[u8], now: Timestamp) {
        let address = network_of(address);
        let mut books = self.books();
        if books.proven.len() >= TRACKED {
            books.proven.retain(|_, proven| now.since(*proven) < PROVEN_FOR);
        }
        if books.proven.len() < TRACKED {
            books.proven.insert((address, client.to_vec()), now);
        }
    }

    /// Notes that `address` did not prove to be `client`, which `exists` or not; says how long it waits, if it does.
    pub(super) fn failed(&self, address: IpAddr, client: &[u8], exists: bool, now: Timestamp) -> Option<Duration> {
        let address = network_of(address);
        let mut books = self.books();
        let names = if exists {
            &mut books.clients
        } else {
            if books.invented.len() >= INVENTED && !books.invented.contains_key(client) {
                books.invented.clear();
            }
            &mut books.invented
        };
        let of_client = names.entry(client.to_vec()).or_insert(Failures::none(now));
        if of_client.is_forgotten(now) {
            *of_client = Failures::none(now);
        }
        of_client.count = of_client.count.saturating_add(1);
        of_client.latest = now;
        let is_under_attack = of_client.count > UNDER_ATTACK;
        books.make_room(now);
        let failures = books.failures.entry(address).or_insert(Failures::none(now));
        if failures.is_forgotten(now) {
            *failures = Failures::none(now);
        }
        failures.count = failures.count.saturating_add(1);
        failures.latest = now;
        let (free, first) = if is_under_attack { (1, FIRST_WAIT_UNDER_ATTACK) } else { (FREE, FIRST_WAIT) };
        let beyond = failures.count.checked_sub(free)?;
        let wait = first.saturating_mul(2_u32.saturating_pow(beyond)).min(LONGEST_WAIT);
        failures.blocked_until = now.plus(wait);
        Some(wait)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn is_proven(&self, address: IpAddr, client: &[u8], now: Timestamp) -> bool {
        self.proven.get(&(address, client.to_vec())).is_some_and(|proven| now.since(*proven) < PROVEN_FOR)
    }

    /// Forgets what may be forgotten, and if that is nothing, the address that has been quiet longest.
    fn make_room(&mut self, now: Timestamp) {
        if self.failures.len() < TRACKED {
            return;
        }
        self.failures.retain(|_, failures| !failures.is_forgotten(now));
        if self.failures.len() >= TRACKED
            && let Some(quietest) = self.failures.iter().min_by_key(|(_, failures)| failures.latest).map(|(at, _)| *at)
        {
            self.failures.remove(&quietest);
        }
    }
}

/// What counts as one address: of IPv6 the network, since a single machine has as many addresses in it as it likes.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const CLIENT: &[u8] = b"marketplace";

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn an_address_that_guesses_waits_ever_longer_and_no_longer_than_the_longest_wait() {
        let guard = Guard::default();
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..16 {
            guard.admit(address(1), CLIENT, now).expect("its wait is over");
            let wait = guard.failed(address(1), CLIENT, true, now).unwrap_or_default();
            if !wait.is_zero() {
                assert_eq!(guard.admit(address(1), CLIENT, now), Err(wait));
            }
            waits.push(wait.as_secs());
            now = now.plus(wait);
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(guard.admit(address(2), CLIENT, now), Ok(()), "another address does not wait");
    }

    #[test]
    fn failures_are_forgotten_after_a_while() {
        let guard = Guard::default();
        for _ in 0..5 {
            guard.failed(address(1), CLIENT, true, NOW);
        }
        let later = NOW.plus(FORGOTTEN_AFTER);
        assert_eq!(guard.failed(address(1), CLIENT, true, later), None);
    }

    #[test]
    fn an_address_that_proved_itself_is_looked_at_whatever_comes_from_it() {
        let guard = Guard::default();
        guard.succeeded(address(1), CLIENT, NOW);
        for _ in 0..100 {
            guard.failed(address(1), CLIENT, true, NOW);
        }
        assert_eq!(guard.admit(address(1), CLIENT, NOW), Ok(()));
        assert!(guard.admit(address(1), b"other", NOW).is_err(), "for its own client only");
        let later = NOW.plus(PROVEN_FOR);
        guard.failed(address(1), CLIENT, true, later);
        assert_eq!(guard.admit(address(1), CLIENT, later), Ok(()), "the failures are long forgotten");
    }

    #[test]
    fn no_number_of_guesses_at_a_client_makes_a_new_address_wait_for_its_first_try() {
        let guard = Guard::default();
        for number in 0..10_000 {
            assert_eq!(guard.admit(address(number), CLIENT, NOW), Ok(()));
            guard.failed(address(number), CLIENT, true, NOW);
        }
        let wait = guard.failed(address(20_000), CLIENT, true, NOW);
        assert_eq!(wait, Some(FIRST_WAIT_UNDER_ATTACK), "and it has one try, not five");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let guard = Guard::default();
        let of = |host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host));
        for host in 0..5 {
            guard.failed(of(host), CLIENT, true, NOW);
        }
        assert!(guard.admit(of(99), CLIENT, NOW).is_err());
        assert_eq!(guard.admit("::ffff:10.0.0.1".parse().expect("an address"), CLIENT, NOW), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guard = Guard::default();
        for number in 0..u32::try_from(TRACKED).expect("small") + 100 {
            guard.failed(address(number), CLIENT, false, NOW.plus(Duration::from_millis(number.into())));
            guard.succeeded(address(number), CLIENT, NOW);
        }
        let books = guard.books();
        assert_eq!((books.failures.len(), books.proven.len()), (TRACKED, TRACKED));
        assert_eq!((books.clients.len(), books.invented.len()), (0, 1));
        drop(books);
        for number in 0..INVENTED + 10 {
            guard.failed(address(1), number.to_string().as_bytes(), false, NOW);
        }
        assert!(guard.books().invented.len() <= INVENTED);
    }

    #[test]
    fn whether_a_client_exists_makes_no_difference() {
        let waits = |exists: bool| {
            let guard = Guard::default();
            let numbers = (0..60).chain([100, 100, 100]);
            numbers.map(|number| guard.failed(address(number), CLIENT, exists, NOW)).collect::<Vec<_>>()
        };
        assert_eq!(waits(true), waits(false));
    }
}
