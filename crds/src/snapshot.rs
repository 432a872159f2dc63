//! VirtualMachineSnapshot: the state of a virtual machine at one moment, kept by its host.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a virtual machine at one moment: its disks and, when it runs, its memory.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "VirtualMachineSnapshot",
    plural = "virtualmachinesnapshots",
    shortname = "kvmsnap",
    category = "kvmoor",
    namespaced,
    status = "VirtualMachineSnapshotStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    doc = "The state of a virtual machine at one moment: its disks and, when it runs, its memory.",
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.vmName"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Memory", type_ = "boolean", json_path = ".status.hasMemory"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.vmName == oldSelf.vmName").message("vmName cannot change: create another snapshot"),
    validation = Rule::new("self.includeMemory == oldSelf.includeMemory").message("includeMemory cannot change: create another snapshot"),
    validation = Rule::new("!has(oldSelf.nodeName) || has(self.nodeName) && self.nodeName == oldSelf.nodeName")
        .message("nodeName cannot change once set: the snapshot is on that host")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSnapshotSpec {
    /// Name of the virtual machine, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub vm_name: String,
    /// Name for people, free text. The object's name stands where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// What the snapshot is for, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Whether the memory of a running guest belongs to the snapshot, so that a restore goes on where it was.
    #[serde(default = "yes")]
    pub include_memory: bool,
    /// The host with the virtual machine. Written by the cluster controller only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
}

fn yes() -> bool {
    true
}

/// What is, as the controllers know it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSnapshotStatus {
    /// Small number of the snapshot in the REST API; never given twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// UID of the virtual machine that the snapshot belongs to; one that was made anew under its name is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_uid: Option<String>,
    /// Where the snapshot is in its life, for people. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<SnapshotPhase>,
    /// Name of the snapshot in libvirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_name: Option<String>,
    /// When the host took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// Whether it holds the guest's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_memory: Option<bool>,
    /// How it was taken, in KubeVirt's words: Online is of a guest that was on; with GuestAgent its file systems were frozen meanwhile, with QuiesceFailed its agent did not freeze them in time, with NoGuestAgent no agent was asked. How much space it takes libvirt does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indications: Vec<String>,
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl SnapshotPhase {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::Ready => "Ready",
            Self::Deleting => "Deleting",
            Self::Failed => "Failed",
        }
    }
}

/// Where a snapshot is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPhase {
    /// Waits for its virtual machine or another operation on it.
    Pending,
    /// The host takes it.
    Creating,
    /// It can be restored.
    Ready,
    /// The host deletes it.
    Deleting,
    /// It could not be taken; the conditions say why.
    Failed,
}
