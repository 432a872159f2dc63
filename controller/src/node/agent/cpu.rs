//! The share of CPU: the difference of two readings, the older being the last one of this virtual machine if it is
//! recent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A reading older than this says nothing of now.
const RECENT: Duration = Duration::from_secs(10);
/// Two readings closer than this differ by chance.
pub const WINDOW: Duration = Duration::from_millis(200);

/// A reading of the CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was taken.
    pub at: Instant,
    /// CPU time since the virtual machine was turned on, in nanoseconds.
    pub time_ns: u64,
}

impl Sample {
    /// The share, of all of `cpus` CPUs, used since `earlier`; 100 is all. `None` if they cannot be compared.
    pub fn percent_since(self, earlier: Self, cpus: u32) -> Option<f64> {
        let elapsed = self.at.checked_duration_since(earlier.at).filter(|elapsed| *elapsed >= WINDOW)?;
        // A virtual machine that was turned on anew counts from zero.
        let used = Duration::from_nanos(self.time_ns.checked_sub(earlier.time_ns)?);
        let share = used.as_secs_f64() / (elapsed.as_secs_f64() * f64::from(cpus.max(1)));
        // QEMU's own threads count too.
        Some((share * 100.0).clamp(0.0, 100.0))
    }
}

/// The last readings, by UID.
#[derive(Default)]
pub struct Samples(Mutex<HashMap<String, Sample>>);

impl Samples {
    /// The last reading of a virtual machine, if it is of use.
    pub fn recent(&self, uid: &str, now: Instant) -> Option<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(uid).copied().filter(|sample| is_recent(sample, now) && now - sample.at >= WINDOW)
    }

    /// Takes note of a reading, and forgets old ones.
    pub fn note(&self, uid: &str, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|_, old| is_recent(old, sample.at));
        samples.insert(uid.to_owned(), sample);
    }
}

fn is_recent(sample: &Sample, now: Instant) -> bool {
    now.saturating_duration_since(sample.at) < RECENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_cpus() {
        let begin = Sample { at: Instant::now(), time_ns: 5_000_000_000 };
        let later = Sample { at: begin.at + Duration::from_secs(1), time_ns: 6_000_000_000 };
        assert_eq!(later.percent_since(begin, 1), Some(100.0));
        assert_eq!(later.percent_since(begin, 4), Some(25.0));
        let restarted = Sample { time_ns: 7, ..later };
        assert_eq!(restarted.percent_since(begin, 1), None);
        let at_once = Sample { at: begin.at + Duration::from_millis(1), ..later };
        assert_eq!(at_once.percent_since(begin, 1), None);
    }

    #[test]
    fn only_readings_of_use_are_recalled() {
        let samples = Samples::default();
        let now = Instant::now();
        samples.note("u", Sample { at: now, time_ns: 1 });
        assert_eq!(samples.recent("u", now), None);
        assert!(samples.recent("u", now + Duration::from_secs(1)).is_some());
        assert_eq!(samples.recent("u", now + RECENT), None);
        samples.note("v", Sample { at: now + RECENT, time_ns: 1 });
        assert_eq!(samples.0.lock().unwrap().len(), 1);
    }
}
