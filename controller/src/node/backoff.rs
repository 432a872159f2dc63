//! When a virtual machine that failed is tried again: per UID, 1 s doubling to 5 min, with full jitter.
//!
//! A failed step is remembered with the time at which it is due: whatever wakes the reconcile before (the watch event of
//! the very status that told of the failure, for one) neither tries it again nor counts as an attempt.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::delay::doubled;

/// The longest first delay.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);

/// Failures by UID.
pub struct Backoff<F> {
    entries: Mutex<HashMap<String, Entry<F>>>,
}

struct Entry<F> {
    attempt: String,
    failure: F,
    attempts: u32,
    due: Instant,
}

impl<F> Default for Backoff<F> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<F: Clone> Backoff<F> {
    /// The failure of this very attempt, if it is not due again yet, and the time until then. `attempt` names what is
    /// attempted and with what: a changed spec makes another attempt.
    pub fn held(&self, uid: &str, attempt: &str, now: Instant) -> Option<(F, Duration)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(uid).filter(|entry| entry.attempt == attempt && entry.due > now)?;
        Some((entry.failure.clone(), entry.due.saturating_duration_since(now)))
    }

    /// Takes note of a failure and says when to try again.
    pub fn failed(&self, uid: &str, attempt: &str, failure: F, now: Instant) -> Duration {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = entries
            .get(uid)
            .filter(|entry| entry.attempt == attempt)
            .map_or(1, |entry| entry.attempts.saturating_add(1));
        let delay = jittered(ceiling(attempts));
        let entry = Entry { attempt: attempt.to_owned(), failure, attempts, due: now + delay };
        entries.insert(uid.to_owned(), entry);
        delay
    }

    /// The last failure of this very attempt, and how often it has failed.
    pub fn last(&self, uid: &str, attempt: &str) -> Option<(F, u32)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(uid).filter(|entry| entry.attempt == attempt)?;
        Some((entry.failure.clone(), entry.attempts))
    }

    /// Forgets the failures of a virtual machine.
    pub fn succeeded(&self, uid: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The longest delay after that many failures.
fn ceiling(attempts: u32) -> Duration {
    doubled(FIRST, attempts, LONGEST)
}

/// Full jitter would allow none at all; a tenth of the ceiling is always waited.
fn jittered(ceiling: Duration) -> Duration {
    ceiling.mul_f64(rand::rng().random_range(0.1..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_five_minutes() {
        assert_eq!(ceiling(1), Duration::from_secs(1));
        assert_eq!(ceiling(4), Duration::from_secs(8));
        assert_eq!(ceiling(u32::MAX), LONGEST);
    }

    #[test]
    fn holds_back_only_what_failed_and_only_until_due() {
        let backoff = Backoff::default();
        let now = Instant::now();
        let delay = backoff.failed("u", "start", 7, now);
        assert!(delay >= FIRST / 10 && delay <= FIRST);
        assert_eq!(backoff.held("u", "start", now).map(|(failure, _)| failure), Some(7));
        assert_eq!(backoff.held("u", "define", now), None);
        assert_eq!(backoff.held("other", "start", now), None);
        assert_eq!(backoff.held("u", "start", now + delay), None);
        assert_eq!(backoff.last("u", "start"), Some((7, 1)));
        assert_eq!(backoff.last("u", "define"), None);
        backoff.succeeded("u");
        assert_eq!(backoff.held("u", "start", now), None);
    }
}
