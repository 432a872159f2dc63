//! When a guest agent is asked, and when its absence is told. Pure.
//!
//! A guest can open and close the channel as often as it likes: it is asked no more often for that, and no more is
//! written of it.

use std::time::{Duration, Instant};

use crate::delay::doubled;

/// Bounds of the delay after a question without an answer; it doubles.
const SILENT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Bounds of the delay while an address is missing; it doubles. The agent mostly runs before the network does.
const INCOMPLETE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// What a guest says while it boots, its name for one, may not be its last word: so it is asked once more after this.
const BOOTED: Duration = Duration::from_secs(60);
/// What is known is asked again after this, when the virtual machine is looked at anyway.
const STALE: Duration = Duration::from_secs(600);
/// Two questions are at least so far apart, however often the agent connects.
const APART: Duration = Duration::from_secs(5);
/// An agent that is away for so long is told to be: a restart of it, or of the guest, is no news.
const AWAY: Duration = Duration::from_secs(30);

/// What there was of a guest agent since the guest was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contact {
    /// Since when its channel is closed; `None` while it is open.
    closed: Option<Instant>,
    /// Whether its channel was ever open.
    was_open: bool,
    /// When it was last asked.
    asked: Option<Instant>,
    /// Questions since it connected.
    questions: u32,
    /// Whether it is being asked.
    is_asked: bool,
    /// Whether the last question has no answer.
    pub is_silent: bool,
    /// Whether the address of an interface is not known.
    pub lacks_address: bool,
}

impl Contact {
    /// Takes note of its channel.
    pub fn seen(&mut self, is_open: bool, now: Instant) {
        if is_open {
            self.closed = None;
            self.was_open = true;
        } else if self.closed.is_none() {
            self.closed = Some(now);
            self.questions = 0;
        }
    }

    /// Takes note that it is being asked.
    pub fn ask(&mut self, now: Instant) {
        self.is_asked = true;
        self.asked = Some(now);
        self.questions = self.questions.saturating_add(1);
    }

    /// Takes note of the end of a question.
    pub fn answered(&mut self, has_answered: bool) {
        self.is_asked = false;
        self.is_silent = !has_answered;
    }

    /// When it is asked next.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.closed.is_some() || self.is_asked {
            return None;
        }
        let Some(asked) = self.asked else { return Some(now) };
        let delay = match self.questions {
            0 => APART,
            questions if self.is_silent => doubled(SILENT.0, questions, SILENT.1),
            questions if self.lacks_address => doubled(INCOMPLETE.0, questions, INCOMPLETE.1),
            1 => BOOTED,
            _ => STALE,
        };
        Some(asked + delay)
    }

    /// Whether it has been away for so long that it is told.
    pub fn is_away(&self, now: Instant) -> bool {
        self.closed.is_some_and(|closed| now >= closed + AWAY)
    }

    /// When to look at it again, if nothing happens.
    pub fn look_again(&self, now: Instant) -> Option<Duration> {
        let at = match self.closed {
            Some(closed) => Some(closed + AWAY).filter(|at| self.was_open && *at > now),
            None if self.is_silent || self.lacks_address || self.questions < 2 => self.due(now),
            None => None,
        };
        at.map(|at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_asked_when_it_connects_and_then_rarely() {
        let start = Instant::now();
        let mut contact = Contact::default();
        contact.seen(true, start);
        assert_eq!(contact.due(start), Some(start));
        contact.ask(start);
        assert_eq!((contact.due(start), contact.look_again(start)), (None, None), "one question at a time");
        contact.answered(true);
        assert_eq!(contact.look_again(start), Some(BOOTED));
        contact.ask(start);
        contact.answered(true);
        assert_eq!(contact.due(start), Some(start + STALE));
        assert_eq!(contact.look_again(start), None, "nothing is done for it alone");
    }

    #[test]
    fn what_is_missing_is_asked_for_less_and_less() {
        for (is_silent, delays) in [(false, [2, 4, 8, 16]), (true, [10, 20, 40, 80])] {
            let start = Instant::now();
            let mut contact = Contact { lacks_address: true, ..Contact::default() };
            contact.seen(true, start);
            for delay in delays {
                contact.ask(start);
                contact.answered(!is_silent);
                assert_eq!(contact.due(start), Some(after(start, delay)), "{is_silent}");
                assert_eq!(contact.look_again(start), Some(Duration::from_secs(delay)));
            }
            contact.questions = u32::MAX;
            assert_eq!(contact.due(start), Some(after(start, if is_silent { 600 } else { 300 })));
        }
    }

    #[test]
    fn one_that_comes_and_goes_is_asked_no_more_often_and_is_not_away() {
        let start = Instant::now();
        let mut contact = Contact::default();
        let mut questions = 0;
        for second in 0..100 {
            let now = after(start, second);
            contact.seen(second % 2 == 0, now);
            if contact.due(now).is_some_and(|due| due <= now) {
                contact.ask(now);
                contact.answered(true);
                questions += 1;
            }
            assert!(!contact.is_away(now));
        }
        assert!(questions <= 20, "{questions} in 100 s");
    }

    #[test]
    fn one_that_stays_away_is_told_of_once() {
        let start = Instant::now();
        let mut contact = Contact::default();
        contact.seen(false, start);
        assert_eq!(contact.look_again(start), None, "there never was one");
        contact.seen(true, start);
        contact.seen(false, start);
        assert_eq!(contact.look_again(after(start, 10)), Some(Duration::from_secs(20)));
        assert!(!contact.is_away(after(start, 29)) && contact.is_away(after(start, 30)));
        assert_eq!((contact.look_again(after(start, 30)), contact.due(start)), (None, None));
    }
}
