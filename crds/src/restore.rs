//! VirtualMachineRestore: the request to bring a virtual machine back to a snapshot, and its record.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The request to bring a virtual machine back to a snapshot.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "VirtualMachineRestore",
    plural = "virtualmachinerestores",
    shortname = "kvmrestore",
    category = "kvmoor",
    namespaced,
    status = "VirtualMachineRestoreStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    doc = "The request to bring a virtual machine back to a snapshot.",
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".spec.snapshotName"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.snapshotName == oldSelf.snapshotName").message("snapshotName cannot change: create another restore"),
    validation = Rule::new("!has(oldSelf.nodeName) || has(self.nodeName) && self.nodeName == oldSelf.nodeName")
        .message("nodeName cannot change once set: the snapshot is on that host")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineRestoreSpec {
    /// Name of the snapshot, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub snapshot_name: String,
    /// The host with the virtual machine. Written by the cluster controller only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
}

/// What is, as the controllers know it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineRestoreStatus {
    /// Where the restore is in its life, for people. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// When the virtual machine was brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<Time>,
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a restore is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePhase {
    /// Waits for its snapshot or another operation on the virtual machine.
    Pending,
    /// The host restores.
    Restoring,
    /// The virtual machine is what it was.
    Succeeded,
    /// It could not be restored; the conditions say why.
    Failed,
}
