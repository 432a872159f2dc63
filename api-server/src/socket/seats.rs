//! How many WebSockets are open, and of whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The WebSockets that are open, by the UID of their user.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<Mutex<HashMap<String, usize>>>);

/// One of them; dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    uid: String,
}

impl Seats {
    /// A seat for that user; `None` when it has `most` already.
    pub fn take(&self, uid: &str, most: usize) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(uid).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        taken.insert(uid.to_owned(), count.saturating_add(1));
        Some(Seat { seats: self.clone(), uid: uid.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_and_they_come_back() {
        let seats = Seats::default();
        let (first, _second) = (seats.take("a", 2).unwrap(), seats.take("a", 2).unwrap());
        assert!(seats.take("a", 2).is_none());
        assert!(seats.take("b", 2).is_some());
        drop(first);
        assert!(seats.take("a", 2).is_some());
        assert_eq!(seats.0.lock().unwrap().get("b"), None, "nothing is kept of those who left");
    }
}
