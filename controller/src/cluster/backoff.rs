//! Back-off for each object by itself: one that fails does not hold up the others.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

use crate::delay::doubled;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in a row and the time of the next attempt, by UID.
#[derive(Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    due: Instant,
}

impl Backoff {
    /// An attempt failed: the next is due after a time that doubles with each failure, half of it by chance.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let entry = self.entries.entry(uid.to_owned()).or_insert(Entry { failures: 0, due: now });
        entry.failures = entry.failures.saturating_add(1);
        entry.due = now + doubled(FIRST, entry.failures, LONGEST).mul_f64(rand::rng().random_range(0.5..=1.0));
    }

    /// An attempt succeeded, or the object is gone.
    pub fn forget(&mut self, uid: &str) {
        self.entries.remove(uid);
    }

    /// When the next attempt is due, if that is after `now`.
    pub fn due_after(&self, uid: &str, now: Instant) -> Option<Instant> {
        self.entries.get(uid).map(|entry| entry.due).filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_ceiling_and_is_forgotten() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.due_after("a", now), None);
        for failures in 0..40_u32 {
            backoff.failed("a", now);
            let ceiling = FIRST.as_secs_f64() * 2_f64.powi(failures.min(20) as i32);
            let wait = backoff.due_after("a", now).unwrap() - now;
            assert!(wait <= LONGEST && wait.as_secs_f64() <= ceiling + 1e-6, "{wait:?} after {failures}");
            assert!(wait.as_secs_f64() >= (ceiling / 2.0).min(LONGEST.as_secs_f64() / 2.0) - 1e-6);
        }
        assert_eq!(backoff.due_after("b", now), None);
        backoff.forget("a");
        assert_eq!(backoff.due_after("a", now), None);
    }
}
