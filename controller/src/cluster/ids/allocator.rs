//! Which id is next, and how far the mark must be. Pure.

/// How many ids the mark is raised ahead.
const AHEAD: usize = 8;
/// With fewer ids left than this, the mark is raised ahead of need.
pub const LOW: usize = 2;

/// The ids of one kind, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocator {
    /// The next id to give.
    next: i64,
    /// The highest id that may be given, as it is written down.
    mark: i64,
}

impl Allocator {
    /// Starts above the mark that is written down: it is not known which ids up to there were given.
    pub fn new(mark: i64) -> Self {
        Self { next: mark.saturating_add(1), mark }
    }

    /// The mark that is written down.
    pub fn mark(&self) -> i64 {
        self.mark
    }

    /// An object has this id. It is above the mark only if somebody lost the ConfigMap.
    pub fn seen(&mut self, id: i64) {
        self.next = self.next.max(id.saturating_add(1));
    }

    /// The mark that must be written down before `count` ids can be taken, or before an id that was seen may go
    /// away; nothing if the present one does.
    pub fn mark_for(&self, count: usize) -> Option<i64> {
        let given = self.next.saturating_sub(1);
        let needed = given.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        let ahead = i64::try_from(AHEAD).unwrap_or(i64::MAX);
        (needed > self.mark).then(|| if count == 0 { given } else { needed.saturating_add(ahead) })
    }

    /// The mark is written down.
    pub fn marked(&mut self, mark: i64) {
        self.mark = mark;
    }

    /// The next id, if the mark allows one.
    pub fn take(&mut self) -> Option<i64> {
        (self.next <= self.mark).then(|| {
            let id = self.next;
            self.next += 1;
            id
        })
    }

    /// The mark with nothing ahead, if the one written down is higher.
    pub fn exact_mark(&self) -> Option<i64> {
        let given = self.next.saturating_sub(1);
        (given < self.mark).then_some(given)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_id_is_one() {
        let mut allocator = Allocator::new(0);
        assert_eq!(allocator.take(), None);
        allocator.marked(allocator.mark_for(1).unwrap());
        assert_eq!(allocator.take(), Some(1));
        assert_eq!(allocator.mark_for(AHEAD), None);
        assert!(allocator.mark_for(AHEAD + 1).is_some());
    }

    #[test]
    fn a_graceful_stop_leaves_no_gap() {
        let mut allocator = Allocator::new(0);
        allocator.marked(allocator.mark_for(2).unwrap());
        assert_eq!([allocator.take(), allocator.take()], [Some(1), Some(2)]);
        let mark = allocator.exact_mark().unwrap();
        let mut next = Allocator::new(mark);
        next.marked(next.mark_for(1).unwrap());
        assert_eq!(next.take(), Some(3));
    }

    #[test]
    fn a_lost_mark_is_written_again_before_anything_goes_away() {
        let mut allocator = Allocator::new(0);
        allocator.seen(41);
        assert_eq!(allocator.mark_for(0), Some(41));
        allocator.marked(41);
        assert_eq!(allocator.mark_for(0), None);
    }

    /// What can happen, in any order: each write may be answered, lost, or done without an answer.
    #[derive(Debug, Clone)]
    enum Step {
        Reserve { count: usize, written: bool, answered: bool },
        Give { written: bool, crash: bool },
        Delete(usize),
        Crash,
        Stop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..40_usize, any::<bool>(), any::<bool>()).prop_map(|(count, written, answered)| Step::Reserve {
                count,
                written: written || answered,
                answered
            }),
            (any::<bool>(), any::<bool>()).prop_map(|(written, crash)| Step::Give { written, crash }),
            any::<usize>().prop_map(Step::Delete),
            Just(Step::Crash),
            Just(Step::Stop),
        ]
    }

    proptest! {
        #[test]
        fn no_id_is_ever_written_twice(steps in prop::collection::vec(step(), 0..200)) {
            let mut written_mark = 0;
            let mut allocator = Allocator::new(written_mark);
            let mut objects = BTreeSet::new();
            let mut ever = HashSet::new();
            for step in steps {
                match step {
                    Step::Reserve { count, written, answered } => {
                        if let Some(mark) = allocator.mark_for(count) {
                            prop_assert!(mark > written_mark, "the mark never goes back while ids are out");
                            if written {
                                written_mark = mark;
                            }
                            if answered {
                                allocator.marked(mark);
                            } else if written {
                                // What `Source` does when it finds a mark that it did not expect.
                                allocator = Allocator::new(written_mark);
                            }
                        }
                    }
                    Step::Give { written, crash } => {
                        if let Some(id) = allocator.take() {
                            prop_assert!(id <= written_mark);
                            if written {
                                prop_assert!(ever.insert(id), "{id} came twice");
                                objects.insert(id);
                            }
                        }
                        if crash {
                            allocator = restart(written_mark, &objects);
                        }
                    }
                    Step::Delete(at) => {
                        if let Some(id) = objects.iter().nth(at % objects.len().max(1)).copied() {
                            objects.remove(&id);
                        }
                    }
                    Step::Crash => allocator = restart(written_mark, &objects),
                    Step::Stop => {
                        if let Some(mark) = allocator.exact_mark() {
                            written_mark = mark;
                        }
                        allocator = restart(written_mark, &objects);
                    }
                }
            }
        }
    }

    fn restart(mark: i64, objects: &BTreeSet<i64>) -> Allocator {
        let mut allocator = Allocator::new(mark);
        objects.iter().for_each(|id| allocator.seen(*id));
        allocator
    }
}
