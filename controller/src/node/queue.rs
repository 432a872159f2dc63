//! The snapshots and restores bound to this host, and whose turn it is.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};
use kvmoor_crds::{RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineSnapshot, conditions, names};

use super::desired::Identity;
use super::operation::{Kind, Operation};

/// A snapshot's object, or one that cannot be read.
pub type SnapshotRoot = DeserializeGuard<VirtualMachineSnapshot>;
/// A restore's object, or one that cannot be read.
pub type RestoreRoot = DeserializeGuard<VirtualMachineRestore>;

/// The object that asks for an operation.
#[derive(Debug, Clone)]
pub enum Request {
    /// To take or delete it.
    Snapshot(Arc<VirtualMachineSnapshot>),
    /// To restore.
    Restore(Arc<VirtualMachineRestore>),
}

/// What is asked for on this host.
pub struct Queue {
    /// Snapshots bound to this host.
    pub snapshots: Store<SnapshotRoot>,
    /// Restores bound to this host.
    pub restores: Store<RestoreRoot>,
}

impl Queue {
    /// What is left to do for a virtual machine, the oldest first. `newest_*` bring in what this process has written
    /// since.
    pub fn of(
        &self,
        vm: &Identity,
        newest_snapshot: impl Fn(Arc<VirtualMachineSnapshot>) -> Arc<VirtualMachineSnapshot>,
        newest_restore: impl Fn(Arc<VirtualMachineRestore>) -> Arc<VirtualMachineRestore>,
    ) -> Vec<(Operation, Request)> {
        let mut found = Vec::new();
        for snapshot in self.snapshots().filter(|snapshot| is_of(snapshot, vm)).map(newest_snapshot) {
            if let Some(operation) = of_snapshot(&snapshot) {
                found.push((since(&snapshot.metadata), operation, Request::Snapshot(snapshot)));
            }
        }
        for root in self.restores.state() {
            let Ok(restore) = &root.0 else { continue };
            let Some(snapshot) = self.snapshot_of(restore).filter(|snapshot| is_of(snapshot, vm)) else { continue };
            let restore = newest_restore(Arc::new(restore.clone()));
            if let Some(operation) = of_restore(&restore, &snapshot) {
                found.push((since(&restore.metadata), operation, Request::Restore(restore)));
            }
        }
        found.sort_by(|left, right| (left.0, &left.1.uid).cmp(&(right.0, &right.1.uid)));
        found.into_iter().map(|(_, operation, request)| (operation, request)).collect()
    }

    /// All snapshots that can be read.
    pub fn snapshots(&self) -> impl Iterator<Item = Arc<VirtualMachineSnapshot>> {
        self.snapshots.state().into_iter().filter_map(|root| root.0.as_ref().ok().cloned().map(Arc::new))
    }

    /// The snapshot that a restore names.
    pub fn snapshot_of(&self, restore: &VirtualMachineRestore) -> Option<VirtualMachineSnapshot> {
        let namespace = restore.metadata.namespace.as_deref()?;
        let root = self.snapshots.get(&ObjectRef::new(&restore.spec.snapshot_name).within(namespace))?;
        root.0.as_ref().ok().cloned()
    }
}

/// Whether a snapshot belongs to that virtual machine, not to another that had its name.
pub fn is_of(snapshot: &VirtualMachineSnapshot, vm: &Identity) -> bool {
    snapshot.metadata.namespace.as_ref() == Some(&vm.namespace)
        && snapshot.spec.vm_name == vm.name
        && vm_uid(snapshot).is_some_and(|uid| uid.eq_ignore_ascii_case(&vm.uid))
}

/// UID of the virtual machine that a snapshot belongs to.
pub fn vm_uid(snapshot: &VirtualMachineSnapshot) -> Option<&str> {
    snapshot.status.as_ref()?.vm_uid.as_deref()
}

/// When an operation was asked for, in seconds; the API keeps no finer time.
fn since(meta: &ObjectMeta) -> i64 {
    let asked = meta.deletion_timestamp.as_ref().or(meta.creation_timestamp.as_ref());
    asked.map_or(0, |time| time.0.as_second())
}

/// Whether the host has told that nothing of the snapshot is left.
pub fn is_released(snapshot: &VirtualMachineSnapshot) -> bool {
    let status = snapshot.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, conditions::types::RELEASED))
}

fn of_snapshot(snapshot: &VirtualMachineSnapshot) -> Option<Operation> {
    let uid = snapshot.metadata.uid.clone()?;
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    let kind = if snapshot.metadata.deletion_timestamp.is_some() {
        (!is_released(snapshot)).then_some(Kind::Delete)?
    } else {
        let is_over = matches!(phase, Some(SnapshotPhase::Ready | SnapshotPhase::Failed));
        (!is_over).then_some(Kind::Take { include_memory: snapshot.spec.include_memory })?
    };
    Some(Operation { libvirt_name: names::snapshot(&uid), uid, kind })
}

fn of_restore(restore: &VirtualMachineRestore, snapshot: &VirtualMachineSnapshot) -> Option<Operation> {
    let phase = restore.status.as_ref().and_then(|status| status.phase);
    let is_over = matches!(phase, Some(RestorePhase::Succeeded | RestorePhase::Failed));
    if is_over || restore.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let libvirt_name = names::snapshot(snapshot.metadata.uid.as_deref()?);
    Some(Operation { uid: restore.metadata.uid.clone()?, libvirt_name, kind: Kind::Restore })
}
