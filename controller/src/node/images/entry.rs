//! One import between its attempts: how it ended last, when it is tried again, and who waits. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use kube::runtime::reflector::ObjectRef;
use rand::Rng;

use super::super::context::Root;
use super::attend::Import;
use super::failure::{Failure, Reason};
use super::transfer::Progress;

/// An import that is under way or failed.
pub struct Entry {
    /// While it is under way.
    pub progress: Option<Arc<Progress>>,
    /// How it ended last, while it is tried again too, until that has taken a while.
    pub failure: Option<Failure>,
    attempts: u32,
    due: Instant,
    /// When it was last asked for.
    pub wanted: Instant,
    /// The virtual machines that wait, by UID.
    pub waiting: HashMap<String, ObjectRef<Root>>,
    /// Whether another host has said that it has the image since the attempt began that is under way.
    is_offered: bool,
}

impl Entry {
    /// One that was never tried.
    pub fn new(now: Instant) -> Self {
        Self {
            progress: None,
            failure: None,
            attempts: 0,
            due: now,
            wanted: now,
            waiting: HashMap::new(),
            is_offered: false,
        }
    }

    /// Whether it is time to try.
    pub fn is_due(&self, now: Instant) -> bool {
        self.progress.is_none() && self.due <= now
    }

    /// An attempt begins.
    pub fn begin(&mut self) -> Arc<Progress> {
        self.is_offered = false;
        Arc::clone(self.progress.insert(Arc::default()))
    }

    /// Where it stands.
    pub fn state(&self) -> Import {
        match (&self.failure, &self.progress) {
            (Some(failure), _) => Import::Failed(failure.clone()),
            (None, Some(progress)) => progress.state(),
            (None, None) => Import::UnderWay { bytes: 0, length: None },
        }
    }

    /// An attempt has failed. Says whether to try again at once: what it lacked has come meanwhile.
    pub fn failed(&mut self, failure: Failure, now: Instant) -> bool {
        self.attempts = self.attempts.saturating_add(1);
        // Full jitter would allow no delay at all; a tenth is always waited.
        let delay = failure.ceiling(self.attempts).mul_f64(rand::rng().random_range(0.1..=1.0));
        self.due = now + delay;
        self.progress = None;
        self.failure = Some(failure);
        self.is_offered && self.lacks_upload()
    }

    /// Whether it waits for somebody to upload the image, as far as is known.
    pub fn lacks_upload(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.reason == Reason::NotUploaded)
    }

    /// Whether it matters to it that another host has the image.
    pub fn heeds_offers(&self) -> bool {
        self.progress.is_some() || self.lacks_upload()
    }

    /// Another host says that it has the image. Says whether to try at once. Where a host has it and did not give it, that
    /// one more has it is no reason to: all that wait would ask whenever one of them has got it.
    pub fn offered(&mut self) -> bool {
        self.is_offered = self.progress.is_some();
        self.progress.is_none() && self.lacks_upload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new(Instant::now())
    }

    #[test]
    fn what_failed_waits_before_it_is_tried_again() {
        let mut entry = entry();
        let now = Instant::now();
        assert!(entry.is_due(now));
        entry.begin();
        assert!(!entry.is_due(now), "once at a time");
        assert!(!entry.failed(Failure::download("it broke off"), now));
        assert!(!entry.is_due(now));
        assert!(entry.is_due(now + Failure::download("").ceiling(1)));
    }

    #[test]
    fn what_nobody_had_is_tried_when_a_host_has_it() {
        let mut entry = entry();
        entry.begin();
        entry.failed(Failure::not_uploaded("a"), Instant::now());
        assert!(entry.heeds_offers() && entry.offered());
        entry.begin();
        entry.failed(Failure::lost("host x has it, but it gives others images".into()), Instant::now());
        assert!(!entry.heeds_offers() && !entry.offered(), "that has a back-off");
    }

    #[test]
    fn a_host_that_has_it_during_an_attempt_is_not_missed() {
        let mut entry = entry();
        entry.begin();
        assert!(entry.heeds_offers() && !entry.offered(), "it is under way");
        assert!(entry.failed(Failure::not_uploaded("a"), Instant::now()));
        entry.begin();
        assert!(!entry.failed(Failure::not_uploaded("a"), Instant::now()), "that was of the attempt before");
        entry.begin();
        entry.offered();
        assert!(!entry.failed(Failure::lost(String::new()), Instant::now()));
    }
}
