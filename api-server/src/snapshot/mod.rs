//! Snapshots: taking, restoring and deleting them, each as a custom resource that the controllers act upon.

pub mod create;
pub mod delete;
pub mod restore;

use std::sync::Arc;

use kube::{Api, ResourceExt};
use kvmoor_crds::{VirtualMachine, VirtualMachineSnapshot};

use crate::app::App;
use crate::error::ApiError;
use crate::model::Snapshot;
use crate::store::{Key, Objects, Stored};

/// The API of snapshots in a namespace.
fn api_in(app: &App, namespace: &str) -> Api<VirtualMachineSnapshot> {
    Api::namespaced(app.client.clone(), namespace)
}

/// The virtual machine that a snapshot is of, unless it is another by now.
pub fn vm_of<'a>(
    snapshot: &VirtualMachineSnapshot,
    vms: &'a Objects<VirtualMachine>,
) -> Option<&'a Arc<VirtualMachine>> {
    let key = Key::namespaced(&snapshot.namespace().unwrap_or_default(), &snapshot.spec.vm_name);
    let bound_to = snapshot.status.as_ref().and_then(|status| status.vm_uid.as_ref());
    vms.get(&key).filter(|vm| bound_to.is_none() || bound_to == vm.metadata.uid.as_ref())
}

/// A snapshot over REST; `None` while it or its virtual machine has no number.
pub fn show(snapshot: &VirtualMachineSnapshot, vms: &Objects<VirtualMachine>) -> Option<Snapshot> {
    Snapshot::new(snapshot, vm_of(snapshot, vms)?.id()?)
}

/// A snapshot over REST, or why it cannot be shown yet.
pub fn answer(app: &App, snapshot: &VirtualMachineSnapshot) -> Result<Snapshot, ApiError> {
    let late = ApiError::unavailable("The snapshot has no number yet; try again in a moment");
    show(snapshot, &app.stores.vms()?.read()).ok_or(late)
}
