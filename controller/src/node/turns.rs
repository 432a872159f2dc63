//! Whose turn it is with a virtual machine's disks: that of its own reconcile, or that of those who copy them. Both are
//! tasks of this process; nothing else of Kvmoor touches a host's disks, and with the process the turns are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Turns by UID.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<String, Turn>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Whatever its reconcile does is being done.
    Changing,
    /// So many copy its disks.
    Copied(usize),
}

/// A turn, until it is dropped.
pub struct Held {
    turns: Turns,
    uid: String,
}

impl Turns {
    /// The turn to change a virtual machine; `None` while its disks are copied.
    pub fn change(&self, uid: &str) -> Option<Held> {
        self.take(uid, |turn| turn.is_none().then_some(Turn::Changing))
    }

    /// The turn to copy its disks, with others who copy them; `None` while it is changed.
    pub fn copy(&self, uid: &str) -> Option<Held> {
        self.take(uid, |turn| match turn {
            None => Some(Turn::Copied(1)),
            Some(Turn::Copied(count)) => Some(Turn::Copied(count.saturating_add(1))),
            Some(Turn::Changing) => None,
        })
    }

    fn take(&self, uid: &str, next: impl FnOnce(Option<Turn>) -> Option<Turn>) -> Option<Held> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next(turns.get(uid).copied())?;
        turns.insert(uid.to_owned(), turn);
        Some(Held { turns: self.clone(), uid: uid.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.get_mut(&self.uid) {
            Some(Turn::Copied(count)) if *count > 1 => *count -= 1,
            _ => drop(turns.remove(&self.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_changes_what_is_copied_nor_copies_what_changes() {
        let turns = Turns::default();
        let first = turns.copy("u").unwrap();
        let second = turns.copy("u").unwrap();
        assert!(turns.change("u").is_none());
        assert!(turns.change("other").is_some());
        drop(first);
        assert!(turns.change("u").is_none(), "one still copies");
        drop(second);
        let change = turns.change("u").unwrap();
        assert!(turns.copy("u").is_none() && turns.change("u").is_none());
        drop(change);
        assert!(turns.copy("u").is_some());
    }
}
