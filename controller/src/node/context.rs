//! What all reconciles of a host share. Nothing here is needed for correctness after a restart: it starts empty.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, core::DeserializeGuard};
use kvmoor_crds::{Image, ImageSpec, VirtualMachine};
use tokio::sync::Notify;

use super::backoff::Backoff;
use super::clones::Copier;
use super::execute::Failure;
use super::guest_agent::Guests;
use super::guest_data::Source;
use super::images::Importer;
use super::metrics::Metrics;
use super::observe::Remembered;
use super::publish::Written;
use super::queue::Queue;
use super::quiesce;
use super::retries::Retries;
use super::tell::AllTold;
use super::turns::Turns;

/// The root of the controller: a virtual machine, or one that cannot be read.
pub type Root = DeserializeGuard<VirtualMachine>;

/// Shared by all reconciles.
pub struct Context<H> {
    /// The Kubernetes API.
    pub client: Client,
    /// The host's name.
    pub node_name: String,
    /// The hypervisor.
    pub hypervisor: Arc<H>,
    /// All Images.
    pub images: Store<DeserializeGuard<Image>>,
    /// Imports of images.
    pub importer: Importer,
    /// Statuses written.
    pub written: Written,
    /// Steps that failed.
    pub failures: Backoff<Failure>,
    /// Calls of the Kubernetes API that failed.
    pub api_failures: Backoff<()>,
    /// When power buttons were pressed.
    pub presses: Presses,
    /// When guests halted by a disk error were let run again.
    pub retries: Retries,
    /// The virtual machines of this host.
    pub machines: Store<Root>,
    /// Copies of disks, for clones.
    pub copier: Copier,
    /// Whose turn it is with a virtual machine's disks.
    pub turns: Turns,
    /// Which object has which UID, for domain events.
    pub known: Arc<Known>,
    /// Snapshots and restores that are asked for.
    pub queue: Queue,
    /// What was told of them.
    pub told: AllTold,
    /// Steps of theirs that failed, by the UID of the snapshot or restore.
    pub operation_failures: Backoff<Failure>,
    /// Guests that did not thaw.
    pub thaws: Backoff<()>,
    /// What is counted.
    pub metrics: Metrics,
    /// Told when a snapshot or a virtual machine came, went or changed.
    pub snapshots_changed: Arc<Notify>,
    /// What guest agents have said.
    pub guests: Guests,
    /// What guests are to be told.
    pub guest_data: Source,
}

impl<H> Context<H> {
    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.written.forget(uid);
        self.failures.succeeded(uid);
        self.api_failures.succeeded(uid);
        self.presses.forget(uid);
        self.retries.forget(uid);
        self.copier.forget(uid);
        self.thaws.succeeded(uid);
        self.guests.forget(uid);
        self.known.forget(uid);
    }

    /// What this process remembers of what it did to a virtual machine.
    pub fn remembered(&self, uid: &str) -> Remembered {
        Remembered {
            pressed_at: self.presses.last(uid),
            retried: self.retries.of(uid),
            guest: self.guests.of(uid, Instant::now()),
            is_frozen: quiesce::is_frozen(self, uid),
        }
    }

    /// Whether an Image of that name was seen, readable or not.
    pub fn has_image(&self, name: &str) -> bool {
        self.images.get(&ObjectRef::new(name)).is_some()
    }

    /// The Image of that name.
    pub fn image(&self, name: &str) -> Option<ImageSpec> {
        let image = self.images.get(&ObjectRef::new(name))?;
        image.0.as_ref().ok().map(|image| image.spec.clone())
    }
}

/// When power buttons were last pressed, by UID.
#[derive(Default)]
pub struct Presses(Mutex<HashMap<String, Timestamp>>);

impl Presses {
    /// When that of a virtual machine was.
    pub fn last(&self, uid: &str) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied()
    }

    /// Takes note of a press.
    pub fn pressed(&self, uid: &str, now: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), now);
    }

    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Which object has which UID.
#[derive(Default)]
pub struct Known(Mutex<HashMap<String, ObjectRef<Root>>>);

impl Known {
    /// The object with that UID.
    pub fn get(&self, uid: &str) -> Option<ObjectRef<Root>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// All UIDs.
    pub fn uids(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Takes note of an object.
    pub fn learn(&self, uid: &str, object: &Root) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(uid) {
            known.insert(uid.to_owned(), ObjectRef::from_obj(object));
        }
    }

    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
