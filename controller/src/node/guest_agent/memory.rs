//! What guest agents have said since their guests were started. It starts empty in every process, so that each is asked
//! anew; until then the status keeps what stands there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use super::super::context::Root;
use super::super::hypervisor::Domain;
use super::report::GuestReport;
use super::schedule::Contact;

/// What is known of a guest agent, whatever the channel is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// Its last answer.
    pub report: Option<GuestReport>,
    /// Whether the last question has no answer.
    pub is_silent: bool,
    /// Whether it has been away for a while.
    pub is_away: bool,
}

/// All guest agents, by UID.
#[derive(Clone)]
pub struct Guests(Arc<Shared>);

struct Shared {
    entries: Mutex<HashMap<String, Entry>>,
    wake: mpsc::UnboundedSender<ObjectRef<Root>>,
}

#[derive(Default)]
struct Entry {
    /// When the guest was started.
    run: Option<i64>,
    contact: Contact,
    report: Option<GuestReport>,
}

impl Guests {
    /// Nothing known, and the virtual machines whose agent has answered.
    pub fn new() -> (Self, impl Stream<Item = ObjectRef<Root>> + Send) {
        let (wake, woken) = mpsc::unbounded_channel();
        let woken = stream::unfold(woken, |mut woken| async { Some((woken.recv().await?, woken)) });
        (Self(Arc::new(Shared { entries: Mutex::default(), wake })), woken)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known.
    pub fn of(&self, uid: &str, now: Instant) -> Guest {
        let entries = self.entries();
        let Some(Entry { contact, report, .. }) = entries.get(uid) else { return Guest::default() };
        Guest { report: report.clone(), is_silent: contact.is_silent, is_away: contact.is_away(now) }
    }

    /// Takes note of the channel of a guest that is on. Says whether it is open.
    pub fn seen(&self, uid: &str, domain: &Domain, now: Instant) -> bool {
        let mut entries = self.entries();
        let entry = entries.entry(uid.to_owned()).or_default();
        if entry.run != domain.metadata.started_at {
            *entry = Entry { run: domain.metadata.started_at, ..Entry::default() };
        }
        entry.contact.seen(domain.agent, now);
        domain.agent
    }

    /// Takes note that it is being asked, if it is time for that.
    pub fn take_up(&self, uid: &str, lacks_address: bool, now: Instant) -> bool {
        let mut entries = self.entries();
        let Some(Entry { contact, .. }) = entries.get_mut(uid) else { return false };
        contact.lacks_address = lacks_address;
        let is_due = contact.due(now).is_some_and(|due| due <= now);
        if is_due {
            contact.ask(now);
        }
        is_due
    }

    /// Takes note of the answer, or that there was none, and has the virtual machine looked at.
    pub fn answered(&self, uid: &str, answer: Option<GuestReport>, object: Option<ObjectRef<Root>>) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.contact.answered(answer.is_some());
            entry.report = answer.or(entry.report.take());
        }
        if let Some(object) = object {
            // Nobody listens any more only when the process ends.
            let _ = self.0.wake.send(object);
        }
    }

    /// When to look at it again, if nothing happens.
    pub fn look_again(&self, uid: &str, now: Instant) -> Option<Duration> {
        self.entries().get(uid)?.contact.look_again(now)
    }

    /// Forgets a virtual machine, or the run of one that is off.
    pub fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }
}
