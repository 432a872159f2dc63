//! When guests that a disk error had halted were let run again. Pure but for the lock; it starts empty in every process,
//! so the first attempt of a new one is at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::delay::doubled;

/// The delay after the first attempt; it doubles with each that follows.
const FIRST: Duration = Duration::from_secs(2);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(120);
/// An attempt so long ago was about another error.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

/// The attempts so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// How many.
    pub times: u32,
    /// When the last one was.
    pub at: Timestamp,
}

/// When the next attempt is due.
pub fn due(tried: Option<Tried>, now: Timestamp) -> Timestamp {
    let Some(tried) = tried.filter(|tried| is_recent(tried, now)) else { return now };
    tried.at.saturating_add(doubled(FIRST, tried.times, LONGEST)).unwrap_or(Timestamp::MAX)
}

fn is_recent(tried: &Tried, now: Timestamp) -> bool {
    now.duration_since(tried.at).abs() < FORGOTTEN
}

/// Attempts by UID.
#[derive(Default)]
pub struct Retries(Mutex<HashMap<String, Tried>>);

impl Retries {
    /// Those of a virtual machine.
    pub fn of(&self, uid: &str) -> Option<Tried> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied()
    }

    /// Takes note of one.
    pub fn tried(&self, uid: &str, now: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = all.get(uid).filter(|tried| is_recent(tried, now)).map_or(0, |tried| tried.times);
        all.insert(uid.to_owned(), Tried { times: times.saturating_add(1), at: now });
    }

    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rare_and_are_forgotten() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let retries = Retries::default();
        assert_eq!(due(retries.of("u"), at(0)), at(0), "the first is at once");
        retries.tried("u", at(0));
        assert_eq!(due(retries.of("u"), at(1)), at(2));
        retries.tried("u", at(2));
        assert_eq!(due(retries.of("u"), at(3)), at(6));
        let often = Some(Tried { times: 40, at: at(0) });
        assert_eq!(due(often, at(1)), at(120));
        assert_eq!(due(often, at(600)), at(600));
        retries.tried("u", at(900));
        assert_eq!(retries.of("u").map(|tried| tried.times), Some(1));
    }
}
