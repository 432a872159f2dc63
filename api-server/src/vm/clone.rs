//! Cloning a virtual machine: what the clone takes over from its source, and whether that can be copied now.

use std::sync::Arc;

use kube::ResourceExt;
use kvmoor_crds::quantity::{self, MIB};
use kvmoor_crds::{
    CloneSource, RootDisk, SnapshotPhase, VirtualMachine, VirtualMachineSnapshot, VirtualMachineSpec, clone,
};

use super::create::{NewVm, Size};
use super::guest_data::GuestData;
use crate::app::App;
use crate::error::{ApiError, Noun};
use crate::model::{mib, snapshot_phase};
use crate::snapshot::vm_of;

/// What a clone is made of.
#[derive(Debug, Clone)]
pub struct CloneOf {
    /// The virtual machine.
    pub source: Arc<VirtualMachine>,
    /// Name of the snapshot's object.
    pub snapshot: Option<String>,
}

/// A clone to make, checked; what is missing is as its source has it.
#[derive(Debug, Clone)]
pub struct NewClone {
    /// Name for people.
    pub name: String,
    /// Number of the snapshot.
    pub snapshot_id: Option<i64>,
    /// Virtual CPUs.
    pub cpu: Option<i32>,
    /// Memory in MiB.
    pub memory: Option<u64>,
    /// Size of the root disk in MiB.
    pub disk: Option<u64>,
    /// Public keys for the guest's account.
    pub ssh_authorized_keys: Option<Vec<String>>,
    /// What cloud-init is to be told beyond that. It is never the source's: cloud-init is done with that.
    pub guest_data: GuestData,
    /// Whether to start it.
    pub start: bool,
}

impl CloneOf {
    /// The spec of a clone, from what was asked for.
    pub fn complete(&self, asked: VirtualMachineSpec) -> VirtualMachineSpec {
        let of = CloneSource { vm_name: self.source.name_any(), snapshot_name: self.snapshot.clone() };
        clone::complete(of, &self.source.spec, asked)
    }
}

/// The virtual machine to make, if it can be a clone of `source` now.
pub async fn prepare(app: &App, source: &Arc<VirtualMachine>, new: NewClone) -> Result<NewVm, ApiError> {
    clone::check(source).map_err(|error| ApiError::Conflict(error.to_string()))?;
    let snapshot = match new.snapshot_id {
        None => None,
        Some(id) => Some(snapshot(app, source, id).await?),
    };
    let size = size(source, new.cpu, new.memory)?;
    if let Some((asked, present)) = new.disk.zip(root_disk(source)).filter(|(asked, present)| asked < present) {
        return Err(ApiError::Conflict(format!(
            "The disk has {present} MiB, and that of a clone is no smaller than that, such as {asked}"
        )));
    }
    let keys = || source.spec.cloud_init.as_ref().map(|cloud_init| cloud_init.ssh_authorized_keys.clone());
    Ok(NewVm {
        name: new.name,
        size,
        os_type: None,
        disk: new.disk,
        disks: Vec::new(),
        ssh_authorized_keys: new.ssh_authorized_keys.or_else(keys).unwrap_or_default(),
        guest_data: new.guest_data,
        start: new.start,
        clone_of: Some(CloneOf { source: Arc::clone(source), snapshot }),
    })
}

async fn snapshot(app: &App, source: &VirtualMachine, id: i64) -> Result<String, ApiError> {
    let found = app.stores.snapshots()?.numbered(id).await.ok_or(ApiError::NotFound(Noun::Snapshot))?;
    let snapshot: &VirtualMachineSnapshot = &found;
    if vm_of(snapshot, &app.stores.vms()?.read()).is_none_or(|vm| vm.uid() != source.uid()) {
        return Err(ApiError::NotFound(Noun::Snapshot));
    }
    match snapshot_phase(snapshot) {
        SnapshotPhase::Ready => Ok(snapshot.name_any()),
        other => {
            Err(ApiError::Conflict(format!("The snapshot is {}; a clone is made of one that is Ready", other.as_str())))
        }
    }
}

/// CPUs and memory; a number that is missing is the source's.
fn size(source: &VirtualMachine, cpu: Option<i32>, memory: Option<u64>) -> Result<Size, ApiError> {
    if let (Some(class), None, None) = (&source.spec.class_name, cpu, memory) {
        return Ok(Size::Class(class.clone()));
    }
    let (its_cpu, its_memory) = source.size().ok_or(ApiError::unavailable("The VM's size is not known yet"))?;
    Ok(Size::Numbers { cpu: cpu.unwrap_or(its_cpu), memory: memory.unwrap_or_else(|| mib(its_memory)) })
}

/// The size of its root disk in MiB, rounded up, where spec or class say it.
fn root_disk(source: &VirtualMachine) -> Option<u64> {
    let of_spec = source.spec.disk.as_ref().and_then(|RootDisk { size }| size.as_ref());
    let admitted = source.status.as_ref().and_then(|status| status.admitted.as_ref());
    let size = of_spec.or_else(|| admitted.and_then(|admitted| admitted.root_disk.as_ref()))?;
    quantity::bytes(size).ok().map(|bytes| bytes.div_ceil(MIB))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(spec: serde_json::Value) -> Arc<VirtualMachine> {
        let object = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "web-1" }, "spec": spec,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_is_not_said_is_as_the_source_has_it() {
        let numbers = source(json!({ "cpu": 2, "memory": "1Gi" }));
        assert_eq!(size(&numbers, None, Some(512)).unwrap(), Size::Numbers { cpu: 2, memory: 512 });
        let classed = source(json!({ "className": "small" }));
        assert_eq!(size(&classed, None, None).unwrap(), Size::Class("small".into()));
        assert!(size(&classed, Some(1), None).is_err(), "it was not admitted yet");
        assert_eq!(root_disk(&source(json!({ "cpu": 1, "memory": "1Gi", "disk": { "size": "2Gi" } }))), Some(2048));
        assert_eq!(root_disk(&numbers), None);
    }
}
