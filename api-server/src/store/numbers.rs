//! Which numbers may be of objects that this server has not heard of yet. Pure.
//!
//! Numbers are given out upwards and never twice. So one above all that were seen, or skipped among them, may be of an
//! object that somebody has just made by way of another replica, while any other that is not there is gone for good.

use std::collections::BTreeSet;

/// How far behind a watch may be: more objects are not made in that time.
const AHEAD: i64 = 32;

/// The numbers of a kind, as far as they were seen.
#[derive(Debug, Default)]
pub struct Numbers {
    highest: i64,
    /// Whether that is the highest that was given out. In a listing it may be gone.
    exact: bool,
    skipped: BTreeSet<i64>,
}

impl Numbers {
    /// An object of a complete listing has it. What is missing in a listing is gone.
    pub fn listed(&mut self, id: i64) {
        self.highest = self.highest.max(id);
        self.skipped.retain(|skipped| *skipped > id);
    }

    /// An object of an event has it.
    pub fn seen(&mut self, id: i64) {
        if id > self.highest {
            let first = id.saturating_sub(AHEAD).max(self.highest.saturating_add(1));
            self.skipped.extend(first..id);
            self.skipped = self.skipped.split_off(&id.saturating_sub(AHEAD));
            (self.highest, self.exact) = (id, true);
        } else {
            self.skipped.remove(&id);
        }
    }

    /// Whether an object with that number, which is not there, may still come.
    pub fn may_come(&self, id: i64) -> bool {
        let near = !self.exact || id <= self.highest.saturating_add(AHEAD);
        (id > self.highest && near) || self.skipped.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_ones_may_come_and_those_that_were_there_do_not() {
        let mut numbers = Numbers::default();
        numbers.listed(7);
        assert!(!numbers.may_come(3), "it was gone before the listing");
        assert!(!numbers.may_come(7));
        assert!(numbers.may_come(8) && numbers.may_come(1000), "higher ones may have been made and be gone");
        numbers.seen(8);
        assert!(!numbers.may_come(8));
        assert!(numbers.may_come(9) && numbers.may_come(8 + AHEAD));
        assert!(!numbers.may_come(9 + AHEAD), "nobody makes so many at once");
        assert!(!numbers.may_come(i64::MAX));
    }

    #[test]
    fn one_that_was_skipped_may_come_until_it_did() {
        let mut numbers = Numbers::default();
        numbers.listed(7);
        numbers.seen(10);
        assert!(numbers.may_come(8) && numbers.may_come(9) && !numbers.may_come(10));
        numbers.seen(9);
        assert!(numbers.may_come(8) && !numbers.may_come(9));
        numbers.listed(10);
        assert!(!numbers.may_come(8), "a listing is complete");
    }

    #[test]
    fn few_are_remembered() {
        let mut numbers = Numbers::default();
        numbers.seen(1_000_000);
        numbers.seen(2_000_000);
        assert!(i64::try_from(numbers.skipped.len()).unwrap() <= AHEAD);
        numbers.seen(i64::MAX);
        assert!(!numbers.may_come(i64::MAX));
    }
}
