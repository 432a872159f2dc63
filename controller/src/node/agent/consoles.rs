//! How many consoles are open: what is counted here costs descriptors and buffers on the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::answer::Refusal;

/// Consoles of one virtual machine at a time, of one kind.
pub const PER_VM: usize = 8;
/// Consoles of all of them at a time, of one kind.
const IN_ALL: usize = 256;

/// How many consoles of one kind are open, by UID.
#[derive(Clone, Default)]
pub struct Consoles(Arc<Mutex<HashMap<String, usize>>>);

impl Consoles {
    /// Counts one more until it is dropped.
    pub fn open(&self, uid: &str) -> Result<Open, Refusal> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= IN_ALL {
            return Err(Refusal::too_many("too many consoles are open on this host"));
        }
        let count = open.get(uid).copied().unwrap_or_default();
        if count >= PER_VM {
            return Err(Refusal::too_many("too many consoles of this virtual machine are open"));
        }
        open.insert(uid.to_owned(), count + 1);
        Ok(Open { consoles: self.clone(), uid: uid.to_owned() })
    }
}

/// An open console.
pub struct Open {
    consoles: Consoles,
    uid: String,
}

impl Open {
    /// UID of its virtual machine.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.consoles.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn consoles_are_counted_while_they_are_open() {
        let consoles = Consoles::default();
        let mut open: Vec<Open> = (0..PER_VM).map(|_| consoles.open("u").unwrap()).collect();
        assert_eq!(consoles.open("u").err().map(|refusal| refusal.status), Some(StatusCode::TOO_MANY_REQUESTS));
        open.push(consoles.open("v").unwrap());
        open.remove(0);
        open.push(consoles.open("u").unwrap());
        drop(open);
        assert!(consoles.0.lock().unwrap().is_empty());
    }
}
