//! Small numbers that are never given twice.
//!
//! No object may get an id above the mark that is written down in the ConfigMap `kvmoor-ids`, and a leader gives only
//! ids above the mark that it found. So whatever is lost in a crash, or deleted meanwhile, no id comes twice. The mark is
//! raised some ids ahead, so that it costs one write for many objects; a graceful stop gives the rest back, a crash
//! leaves a gap.

mod allocator;
pub mod marks;

use std::sync::Arc;

use self::allocator::Allocator;
use self::marks::{MarkError, Marks};

/// A kind whose objects have an id. Each kind counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// VirtualMachine
    VirtualMachine,
    /// VirtualMachineSnapshot
    VirtualMachineSnapshot,
    /// User
    User,
    /// Quota
    Quota,
}

impl Kind {
    /// The key in the ConfigMap.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtualMachine => "VirtualMachine",
            Self::VirtualMachineSnapshot => "VirtualMachineSnapshot",
            Self::User => "User",
            Self::Quota => "Quota",
        }
    }
}

/// The ids of one kind. One loop owns it.
pub struct Source {
    kind: Kind,
    allocator: Allocator,
    marks: Arc<Marks>,
}

impl Source {
    /// Reads the mark.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read or holds something else than a number.
    pub async fn load(kind: Kind, marks: Arc<Marks>) -> Result<Self, MarkError> {
        let allocator = Allocator::new(marks.read(kind).await?);
        Ok(Self { kind, allocator, marks })
    }

    /// An object has this id.
    pub fn seen(&mut self, id: i64) {
        self.allocator.seen(id);
    }

    /// Makes sure that `count` ids may be taken, raising the mark if need be.
    ///
    /// # Errors
    /// When the mark cannot be written: no id may be given out then.
    pub async fn reserve(&mut self, count: usize) -> Result<(), MarkError> {
        match self.allocator.mark_for(count) {
            Some(mark) => self.set_mark(mark).await,
            None => Ok(()),
        }
    }

    /// Raises the mark ahead of need, so that the next object does not wait for it.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub async fn refill(&mut self) -> Result<(), MarkError> {
        self.reserve(allocator::LOW).await
    }

    /// The next id, if one is reserved.
    pub fn take(&mut self) -> Option<i64> {
        self.allocator.take()
    }

    /// Gives back what was reserved and not taken. Only when every write with an id of ours is answered.
    pub async fn settle(mut self) {
        if let Some(mark) = self.allocator.exact_mark()
            && let Err(error) = self.set_mark(mark).await
        {
            tracing::warn!(kind = self.kind.as_str(), error = &error as &dyn std::error::Error, "ids are left out");
        }
    }

    async fn set_mark(&mut self, mark: i64) -> Result<(), MarkError> {
        match self.marks.set(self.kind, self.allocator.mark(), mark).await {
            Ok(()) => {
                self.allocator.marked(mark);
                Ok(())
            }
            Err(error) => {
                // Whoever moved it, be it a write of ours that was not answered: what is below is not ours.
                if let MarkError::Moved { now, .. } = error {
                    self.allocator = Allocator::new(now);
                }
                Err(error)
            }
        }
    }
}
