//! Tickets are for one use each.
//!
//! They are signed, so any replica takes those of any other, but each replica remembers only what was used with itself.
//! Among n replicas a stolen ticket can so be used n times within its 30 s, and no oftener.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::token::{Claims, LEEWAY};

/// The tickets that were used and could still be shown again.
#[derive(Debug, Default)]
pub struct UsedTickets(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    ends: HashMap<String, i64>,
    tidy_at: i64,
}

impl UsedTickets {
    /// Uses a ticket up at `now`, in seconds since 1970; whether it was still unused.
    pub fn redeem(&self, ticket: &Claims, now: i64) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let leeway = LEEWAY.as_secs().cast_signed();
        if now >= used.tidy_at {
            used.ends.retain(|_, end| end.saturating_add(leeway) >= now);
            used.tidy_at = now.saturating_add(leeway);
        }
        used.ends.insert(ticket.jti.clone(), ticket.exp).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_and_not_remembered_for_ever() {
        let ticket = |jti: &str, exp| Claims {
            iss: String::new(),
            aud: String::new(),
            sub: String::new(),
            exp,
            nbf: 0,
            iat: 0,
            jti: jti.to_owned(),
            epoch: 0,
        };
        let used = UsedTickets::default();
        assert!(used.redeem(&ticket("a", 100), 90));
        assert!(!used.redeem(&ticket("a", 100), 91));
        assert!(!used.redeem(&ticket("a", 100), 110), "within the leeway a ticket is still taken, so it is remembered");
        assert!(used.redeem(&ticket("b", 200), 190));
        assert_eq!(used.0.lock().unwrap().ends.len(), 1);
    }
}
