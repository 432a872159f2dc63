//! What requests read from: every kind in memory, kept current by watches.
//!
//! Until the first complete listing of a kind has been seen, asking for it fails: an empty cache must not be taken for
//! an empty cluster, and a session must not be let in because its end has not been heard of.

mod cache;
mod follow;
mod numbers;
mod objects;
mod version;

use std::sync::Arc;

use kube::{Api, Client};
use kvmoor_crds::{
    Host, Image, Quota, User, VirtualMachine, VirtualMachineClass, VirtualMachineRestore, VirtualMachineSnapshot,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::cache::{Cache, Change};
pub use self::objects::{Key, Objects, Stored};
use crate::error::ApiError;

/// The caches of all kinds.
#[derive(Debug, Default)]
pub struct Stores {
    vms: Arc<Cache<VirtualMachine>>,
    snapshots: Arc<Cache<VirtualMachineSnapshot>>,
    restores: Arc<Cache<VirtualMachineRestore>>,
    users: Arc<Cache<User>>,
    quotas: Arc<Cache<Quota>>,
    images: Arc<Cache<Image>>,
    classes: Arc<Cache<VirtualMachineClass>>,
    hosts: Arc<Cache<Host>>,
}

impl Stores {
    /// Starts to follow all kinds until `stop`.
    pub fn follow(&self, client: &Client, tasks: &TaskTracker, stop: &CancellationToken) {
        start(&self.vms, client, tasks, stop);
        start(&self.snapshots, client, tasks, stop);
        start(&self.restores, client, tasks, stop);
        start(&self.users, client, tasks, stop);
        start(&self.quotas, client, tasks, stop);
        start(&self.images, client, tasks, stop);
        start(&self.classes, client, tasks, stop);
        start(&self.hosts, client, tasks, stop);
    }

    /// Every change of virtual machines from now on; `None` if somebody has it already.
    pub fn vm_changes(&self) -> Option<mpsc::UnboundedReceiver<Change<VirtualMachine>>> {
        self.vms.changes()
    }

    /// Tells of each time that a user changed, also before all were read.
    pub fn user_changes(&self) -> watch::Receiver<()> {
        self.users.subscribe()
    }

    /// Virtual machines.
    pub fn vms(&self) -> Result<&Cache<VirtualMachine>, ApiError> {
        synced(&self.vms)
    }

    /// Snapshots.
    pub fn snapshots(&self) -> Result<&Cache<VirtualMachineSnapshot>, ApiError> {
        synced(&self.snapshots)
    }

    /// Restores.
    pub fn restores(&self) -> Result<&Cache<VirtualMachineRestore>, ApiError> {
        synced(&self.restores)
    }

    /// Users.
    pub fn users(&self) -> Result<&Cache<User>, ApiError> {
        synced(&self.users)
    }

    /// Quotas.
    pub fn quotas(&self) -> Result<&Cache<Quota>, ApiError> {
        synced(&self.quotas)
    }

    /// Images.
    pub fn images(&self) -> Result<&Cache<Image>, ApiError> {
        synced(&self.images)
    }

    /// Classes.
    pub fn classes(&self) -> Result<&Cache<VirtualMachineClass>, ApiError> {
        synced(&self.classes)
    }

    /// Hosts.
    pub fn hosts(&self) -> Result<&Cache<Host>, ApiError> {
        synced(&self.hosts)
    }

    /// Whether every kind can be read.
    pub fn ready(&self) -> Result<(), ApiError> {
        self.vms()?;
        self.snapshots()?;
        self.restores()?;
        self.users()?;
        self.quotas()?;
        self.images()?;
        self.classes()?;
        self.hosts()?;
        Ok(())
    }

    /// Caches that hold these users and nothing else.
    #[cfg(test)]
    pub fn with_users(users: Vec<User>) -> Self {
        let stores = Self::default();
        stores.users.replace(users);
        stores.vms.replace(vec![]);
        stores.snapshots.replace(vec![]);
        stores.restores.replace(vec![]);
        stores.quotas.replace(vec![]);
        stores.images.replace(vec![]);
        stores.classes.replace(vec![]);
        stores.hosts.replace(vec![]);
        stores
    }
}

fn synced<K: Stored>(cache: &Cache<K>) -> Result<&Cache<K>, ApiError> {
    if cache.read().synced() {
        Ok(cache)
    } else {
        Err(ApiError::unavailable("The server has not read the cluster's state yet"))
    }
}

fn start<K: Stored>(cache: &Arc<Cache<K>>, client: &Client, tasks: &TaskTracker, stop: &CancellationToken) {
    let following = follow::follow(cache.clone(), Api::all(client.clone()));
    tasks.spawn(stop.clone().run_until_cancelled_owned(following));
}
