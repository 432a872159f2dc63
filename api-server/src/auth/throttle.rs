//! Slows down whoever guesses passwords, without locking anybody out for good.
//!
//! Three counters of failures, each with its own patience: an account from one address, an account from anywhere, and an
//! address for any account. The first keeps a guesser away from one account, without keeping its owner away who comes
//! from elsewhere; the second bounds guessers with many addresses; the third those with many accounts.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Entries of a counter above which the oldest are dropped.
const MAX_ENTRIES: usize = 100_000;

/// Counts failures by key. After `free` of them each one more doubles the pause, from 1 s to `longest`.
#[derive(Debug)]
struct Failures<K> {
    free: u32,
    longest: Duration,
    entries: HashMap<K, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    count: u32,
    last: Instant,
}

impl<K: Hash + Eq + Clone> Failures<K> {
    fn new(free: u32, longest: Duration) -> Self {
        Self { free, longest, entries: HashMap::new() }
    }

    /// How long `key` has to wait from now on; zero if it may try.
    fn wait(&self, key: &K, now: Instant) -> Duration {
        let Some(entry) = self.entries.get(key) else { return Duration::ZERO };
        let Some(over) = entry.count.checked_sub(self.free) else { return Duration::ZERO };
        let pause = Duration::from_secs(1 << over.min(20)).min(self.longest);
        pause.saturating_sub(now.saturating_duration_since(entry.last))
    }

    fn record(&mut self, key: K, now: Instant) {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let forget_after = self.forget_after();
        let entry = self.entries.entry(key).or_insert(Entry { count: 0, last: now });
        if now.saturating_duration_since(entry.last) > forget_after {
            entry.count = 0;
        }
        *entry = Entry { count: entry.count.saturating_add(1), last: now };
    }

    fn forget(&mut self, key: &K) {
        self.entries.remove(key);
    }

    fn forget_after(&self) -> Duration {
        self.longest * 2
    }

    fn make_room(&mut self, now: Instant) {
        let forget_after = self.forget_after();
        self.entries.retain(|_, entry| now.saturating_duration_since(entry.last) <= forget_after);
        if self.entries.len() >= MAX_ENTRIES {
            let mut times: Vec<_> = self.entries.values().map(|entry| entry.last).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_ENTRIES / 2);
            let middle = *middle;
            self.entries.retain(|_, entry| entry.last > middle);
        }
    }
}

/// A source of requests: an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

#[derive(Debug)]
struct Counters {
    account_and_source: Failures<(String, Source)>,
    account: Failures<String>,
    source: Failures<Source>,
    registrations: Failures<Source>,
}

/// The counters of this process. Replicas count apart: with n of them a guesser has n times the tries.
#[derive(Debug)]
pub struct Throttle {
    counters: Mutex<Counters>,
}

impl Default for Throttle {
    fn default() -> Self {
        let quarter = Duration::from_secs(15 * 60);
        Self {
            counters: Mutex::new(Counters {
                account_and_source: Failures::new(5, quarter),
                account: Failures::new(100, quarter),
                source: Failures::new(50, Duration::from_secs(60)),
                registrations: Failures::new(60, quarter),
            }),
        }
    }
}

impl Throttle {
    /// How long a login for `account` from `source` has to wait; zero if it may be tried.
    pub fn login_wait(&self, account: &str, source: Source, now: Instant) -> Duration {
        let account = account.to_lowercase();
        let counters = self.lock();
        let of_both = counters.account_and_source.wait(&(account.clone(), source), now);
        of_both.max(counters.account.wait(&account, now)).max(counters.source.wait(&source, now))
    }

    /// Counts a failed login.
    pub fn login_failed(&self, account: &str, source: Source, now: Instant) {
        let account = account.to_lowercase();
        let mut counters = self.lock();
        counters.account_and_source.record((account.clone(), source), now);
        counters.account.record(account, now);
        counters.source.record(source, now);
    }

    /// Forgets the account's failures. Those of the source stay: one own account must not buy tries for others.
    pub fn login_succeeded(&self, account: &str, source: Source) {
        let account = account.to_lowercase();
        let mut counters = self.lock();
        counters.account_and_source.forget(&(account.clone(), source));
        counters.account.forget(&account);
    }

    /// How long a registration from `source` has to wait; zero if it may be tried, and then it is counted.
    pub fn registration_wait(&self, source: Source, now: Instant) -> Duration {
        let mut counters = self.lock();
        let wait = counters.registrations.wait(&source, now);
        if wait.is_zero() {
            counters.registrations.record(source, now);
        }
        wait
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let throttle = Throttle::default();
        let (here, mut now) = (source("192.0.2.1"), Instant::now());
        let mut waits = vec![];
        for _ in 0..20 {
            throttle.login_failed("Admin", here, now);
            let wait = throttle.login_wait("admin", here, now);
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits.get(..8), Some([0, 0, 0, 0, 1, 2, 4, 8].as_slice()));
        assert_eq!(waits.iter().max(), Some(&900));
    }

    #[test]
    fn the_owner_gets_in_from_elsewhere() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..9 {
            throttle.login_failed("admin", source("192.0.2.1"), now);
        }
        assert_ne!(throttle.login_wait("admin", source("192.0.2.1"), now), Duration::ZERO);
        assert_eq!(throttle.login_wait("admin", source("192.0.2.2"), now), Duration::ZERO);
    }

    #[test]
    fn many_accounts_from_one_address_are_slowed_down_too() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..50 {
            throttle.login_failed(&format!("user{number}"), source("2001:db8::1"), now);
        }
        // Another address of the same /64.
        assert_ne!(throttle.login_wait("someone", source("2001:db8::2"), now), Duration::ZERO);
        assert_eq!(throttle.login_wait("someone", source("2001:db8:0:1::2"), now), Duration::ZERO);
    }

    #[test]
    fn success_forgives_the_account_but_not_the_address() {
        let throttle = Throttle::default();
        let (here, now) = (source("192.0.2.1"), Instant::now());
        for _ in 0..50 {
            throttle.login_failed("admin", here, now);
        }
        throttle.login_succeeded("admin", here);
        assert_ne!(throttle.login_wait("other", here, now), Duration::ZERO);
        let later = now + Duration::from_secs(61);
        assert_eq!(throttle.login_wait("admin", here, later), Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let mut failures = Failures::new(1, Duration::from_secs(60));
        let start = Instant::now();
        for key in 0..MAX_ENTRIES + 10 {
            failures.record(key, start + Duration::from_micros(u64::try_from(key).unwrap()));
        }
        assert!(failures.entries.len() <= MAX_ENTRIES);
        assert!(failures.entries.contains_key(&(MAX_ENTRIES + 9)));
    }
}
