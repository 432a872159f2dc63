//! A snapshot over REST.

use jiff::Timestamp;
use kube::ResourceExt;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{SnapshotPhase, VirtualMachineSnapshot, names};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of a virtual machine at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMSnapshot)]
pub struct Snapshot {
    /// Number, never given twice.
    #[schema(minimum = 1, example = 1)]
    pub id: i64,
    /// Number of the virtual machine.
    #[schema(minimum = 1, example = 1)]
    pub vm_id: i64,
    /// Name for people.
    #[schema(example = "Snapshot 1")]
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Before update", nullable = false)]
    pub description: Option<String>,
    /// Name of the snapshot in libvirt.
    #[schema(example = "kvmoor-6f1c2a9e-0a1b-4c5d-8e7f-112233445566")]
    pub libvirt_name: String,
    /// When it was taken; until then, when it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Pending, Creating, Ready, Deleting or Failed. It can be restored when it is Ready.
    #[schema(example = "Ready")]
    pub phase: String,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message: Option<String>,
    /// Whether it holds the guest's memory, so that a restore goes on where the guest was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub has_memory: Option<bool>,
    /// How it was taken: Online is of a guest that was on; GuestAgent, QuiesceFailed or NoGuestAgent say whether its file
    /// systems were frozen meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indications: Vec<String>,
}

impl Snapshot {
    /// The snapshot over REST; `None` as long as it has no number.
    pub fn new(snapshot: &VirtualMachineSnapshot, vm_id: i64) -> Option<Self> {
        let status = snapshot.status.as_ref()?;
        let asked_at = snapshot.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let changed = status.conditions.iter().map(|condition| condition.last_transition_time.0);
        let uid = snapshot.uid().unwrap_or_default();
        Some(Self {
            id: status.id?,
            vm_id,
            name: snapshot.spec.display_name.clone().unwrap_or_else(|| snapshot.name_any()),
            description: snapshot.spec.description.clone(),
            libvirt_name: status.libvirt_name.clone().unwrap_or_else(|| names::snapshot(&uid)),
            created_at: status.created_at.as_ref().map_or(asked_at, |time| time.0),
            updated_at: changed.fold(asked_at, Timestamp::max),
            phase: phase(snapshot).as_str().to_owned(),
            message: message(snapshot),
            has_memory: status.has_memory,
            indications: status.indications.clone(),
        })
    }
}

/// Where a snapshot is in its life.
pub fn phase(snapshot: &VirtualMachineSnapshot) -> SnapshotPhase {
    match snapshot.status.as_ref().and_then(|status| status.phase) {
        _ if snapshot.metadata.deletion_timestamp.is_some() => SnapshotPhase::Deleting,
        phase => phase.unwrap_or(SnapshotPhase::Pending),
    }
}

/// Why it is there: what the host says, or else what stands in the way of getting to a host.
pub fn message(snapshot: &VirtualMachineSnapshot) -> Option<String> {
    let conditions = &snapshot.status.as_ref()?.conditions;
    let found = [types::READY, types::SCHEDULED, types::ADMITTED].into_iter();
    let mut said = found.filter_map(|type_| conditions::find(conditions, type_)).map(|found| found.message.clone());
    said.find(|message| !message.is_empty())
}

/// The answer to a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMSnapshotRestored)]
pub struct Restored {
    /// What was done.
    #[schema(example = "Snapshot restored successfully")]
    pub message: String,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// The answer to the deletion of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMSnapshotDeleted)]
pub struct SnapshotDeleted {
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
    /// Number of the snapshot.
    #[schema(example = 1)]
    pub snapshot_id: i64,
    /// When the deletion was asked for.
    pub timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn has_the_references_fields() {
        let snapshot: VirtualMachineSnapshot = serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineSnapshot",
            "metadata": { "name": "x", "uid": "u", "creationTimestamp": "2024-12-23T10:00:00Z" },
            "spec": { "vmName": "my-vm", "displayName": "Snapshot 1", "description": "Before update" },
            "status": { "id": 1 },
        }))
        .unwrap();
        let value = serde_json::to_value(Snapshot::new(&snapshot, 2).unwrap()).unwrap();
        let expected = json!({
            "id": 1, "vm_id": 2, "name": "Snapshot 1", "description": "Before update", "libvirt_name": "kvmoor-u",
            "created_at": "2024-12-23T10:00:00Z", "updated_at": "2024-12-23T10:00:00Z", "phase": "Pending",
        });
        assert_eq!(value, expected);
    }
}
