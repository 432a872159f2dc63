//! A virtual machine over REST.

use jiff::Timestamp;
use kube::ResourceExt;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{GuestOsInfo, Phase, VirtualMachine, VirtualMachineStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mib;

/// Whether a virtual machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Status {
    /// The guest is on.
    Running,
    /// The guest is off, or not yet on.
    Stopped,
    /// The guest's CPUs are halted.
    Paused,
    /// It cannot be what was asked, or its host is lost; `message` says why.
    Error,
}

impl From<Phase> for Status {
    fn from(phase: Phase) -> Self {
        match phase {
            // A guest that was asked to shut down runs until it has.
            Phase::Running | Phase::Stopping => Self::Running,
            Phase::Paused => Self::Paused,
            Phase::Error | Phase::Unknown => Self::Error,
            Phase::Pending
            | Phase::Provisioning
            | Phase::Starting
            | Phase::Stopped
            | Phase::Restoring
            | Phase::Deleting => Self::Stopped,
        }
    }
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VM)]
pub struct Vm {
    /// Number, never given twice.
    #[schema(minimum = 1, example = 1)]
    pub id: i64,
    /// UUID of the virtual machine and of its libvirt domain.
    #[schema(format = Uuid, example = "550e8400-e29b-41d4-a716-446655440000")]
    pub uuid: String,
    /// Name for people.
    #[schema(example = "My VM")]
    pub name: String,
    /// Virtual CPUs.
    #[schema(minimum = 1, example = 2)]
    pub cpu: i32,
    /// Memory in MiB.
    #[schema(minimum = 16, example = 2048)]
    pub memory: u64,
    /// The class that says its size, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "small", nullable = false)]
    pub class: Option<String>,
    /// Whether it runs.
    pub status: Status,
    /// The image that its disk was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "ubuntu-desktop", nullable = false)]
    pub os_type: Option<String>,
    /// Size of the root disk in MiB, where somebody said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, example = 20480, nullable = false)]
    pub disk: Option<u64>,
    /// The disks beside it.
    pub disks: Vec<Disk>,
    /// Number of the user whose it is.
    #[schema(minimum = 1, example = 1)]
    pub owner_id: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Where it is in its life, more precisely than `status`.
    #[schema(example = "Running")]
    pub phase: String,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message: Option<String>,
    /// Addresses of the guest.
    pub addresses: Vec<String>,
    /// Whether the guest agent, which is optional, is connected and answers.
    pub guest_agent: bool,
    /// What the guest agent says of the guest, as long as it runs. The guest controls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub guest_os: Option<GuestOs>,
    /// The host that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub host: Option<String>,
    /// Whether a change waits for the next restart.
    pub restart_required: bool,
    /// Namespace of its Kubernetes object.
    #[schema(example = "kvmoor-user-admin")]
    pub namespace: String,
    /// Name of its Kubernetes object, and of the guest.
    #[schema(example = "my-vm-x7k2p")]
    pub resource_name: String,
}

/// A disk beside the root disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// Its name, which the guest sees as serial number.
    #[schema(example = "data")]
    pub name: String,
    /// Size in MiB.
    #[schema(minimum = 1, example = 10240)]
    pub size: u64,
}

/// What the guest agent says of the guest. What it does not say is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestOs {
    /// Host name that the guest gave itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "my-vm", max_length = 128, nullable = false)]
    pub hostname: Option<String>,
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Debian GNU/Linux", max_length = 128, nullable = false)]
    pub name: Option<String>,
    /// Short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "debian", max_length = 128, nullable = false)]
    pub id: Option<String>,
    /// Name and version for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Debian GNU/Linux 12 (bookworm)", max_length = 128, nullable = false)]
    pub pretty_name: Option<String>,
    /// Version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "12 (bookworm)", max_length = 128, nullable = false)]
    pub version: Option<String>,
    /// Short version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "12", max_length = 128, nullable = false)]
    pub version_id: Option<String>,
    /// Release of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "6.1.0-40-cloud-amd64", max_length = 128, nullable = false)]
    pub kernel_release: Option<String>,
    /// Version of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128, nullable = false)]
    pub kernel_version: Option<String>,
    /// Architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "x86_64", max_length = 128, nullable = false)]
    pub machine: Option<String>,
}

impl From<&GuestOsInfo> for GuestOs {
    fn from(said: &GuestOsInfo) -> Self {
        // Without `..`: a new field must be decided on here.
        let GuestOsInfo {
            hostname,
            name,
            id,
            pretty_name,
            version,
            version_id,
            kernel_release,
            kernel_version,
            machine,
        } = said.clone();
        Self { hostname, name, id, pretty_name, version, version_id, kernel_release, kernel_version, machine }
    }
}

impl Vm {
    /// The virtual machine over REST; `None` as long as it has no number.
    pub fn new(vm: &VirtualMachine, owner_id: i64) -> Option<Self> {
        let status = vm.status.as_ref()?;
        let created_at = vm.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let phase = if vm.metadata.deletion_timestamp.is_some() {
            Phase::Deleting
        } else {
            status.phase.unwrap_or(Phase::Pending)
        };
        // One that was refused for a class that is not there has no size.
        let size = vm.size();
        Some(Self {
            id: status.id?,
            uuid: vm.uid().unwrap_or_default(),
            name: vm.spec.display_name.clone().unwrap_or_else(|| vm.name_any()),
            cpu: size.map_or(0, |(cpu, _)| cpu),
            memory: size.map_or(0, |(_, memory)| mib(memory)),
            class: vm.spec.class_name.clone(),
            status: phase.into(),
            os_type: vm.spec.os_type.clone(),
            disk: vm.spec.disk.as_ref().and_then(|disk| disk.size.as_ref()).map(mib),
            disks: vm.spec.disks.iter().map(|disk| Disk { name: disk.name.clone(), size: mib(&disk.size) }).collect(),
            owner_id,
            created_at,
            updated_at: newest_change(status, created_at),
            phase: phase.as_str().to_owned(),
            message: status.message.clone().filter(|message| !message.is_empty()),
            addresses: status.addresses.iter().map(|address| address.address.clone()).collect(),
            guest_agent: conditions::is_true(&status.conditions, types::GUEST_AGENT_CONNECTED),
            guest_os: status.guest_os_info.as_ref().map(GuestOs::from),
            host: vm.spec.node_name.clone(),
            restart_required: conditions::is_true(&status.conditions, types::RESTART_REQUIRED),
            namespace: vm.namespace().unwrap_or_default(),
            resource_name: vm.name_any(),
        })
    }
}

fn newest_change(status: &VirtualMachineStatus, created_at: Timestamp) -> Timestamp {
    let conditions = status.conditions.iter().map(|condition| condition.last_transition_time.0);
    let phases = status.phase_transition_times.iter().map(|transition| transition.time.0);
    let started = status.started_at.iter().map(|time| time.0);
    conditions.chain(phases).chain(started).fold(created_at, Timestamp::max)
}

/// The answer to a deletion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMDeleted)]
pub struct Deleted {
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
    /// Number of the virtual machine.
    #[schema(example = 1)]
    pub vm_id: i64,
    /// Its name.
    #[schema(example = "My VM")]
    pub name: String,
    /// When the deletion was asked for.
    pub timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(value: serde_json::Value) -> VirtualMachine {
        let mut object = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": {
                "name": "my-vm-abcde", "namespace": "kvmoor-user-admin", "uid": "550e8400-e29b-41d4-a716-446655440000",
                "creationTimestamp": "2024-12-23T10:00:00Z",
            },
            "spec": { "displayName": "My VM", "cpu": 2, "memory": "2Gi", "osType": "ubuntu-desktop" },
        });
        for (key, part) in value.as_object().unwrap() {
            object[key] = part.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn has_the_references_fields() {
        let vm = vm(json!({ "status": { "id": 1, "phase": "Running" } }));
        let value = serde_json::to_value(Vm::new(&vm, 1).unwrap()).unwrap();
        let reference = json!({
            "id": 1,
            "uuid": "550e8400-e29b-41d4-a716-446655440000",
            "name": "My VM",
            "cpu": 2,
            "memory": 2048,
            "status": "Running",
            "os_type": "ubuntu-desktop",
            "owner_id": 1,
            "created_at": "2024-12-23T10:00:00Z",
            "updated_at": "2024-12-23T10:00:00Z",
        });
        for (key, expected) in reference.as_object().unwrap() {
            assert_eq!(value.get(key), Some(expected), "{key}");
        }
        assert!(value.as_object().unwrap().values().all(|value| !value.is_null()), "{value}");
    }

    #[test]
    fn has_no_number_before_it_is_given() {
        assert_eq!(Vm::new(&vm(json!({})), 1), None);
        assert_eq!(Vm::new(&vm(json!({ "status": { "phase": "Pending" } })), 1), None);
    }

    #[test]
    fn updated_at_is_the_newest_change() {
        let status = json!({
            "id": 1,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2024-12-23T10:00:05Z" }],
            "phaseTransitionTimes": [
                { "phase": "Running", "time": "2024-12-23T10:00:07Z" },
                { "phase": "Starting", "time": "2024-12-23T10:00:03Z" },
            ],
        });
        let vm = Vm::new(&vm(json!({ "status": status })), 1).unwrap();
        assert_eq!(vm.updated_at.to_string(), "2024-12-23T10:00:07Z");
        assert_eq!(vm.created_at.to_string(), "2024-12-23T10:00:00Z");
    }

    #[test]
    fn every_phase_has_its_status() {
        let cases = [
            (Phase::Running, Status::Running),
            (Phase::Stopping, Status::Running),
            (Phase::Paused, Status::Paused),
            (Phase::Error, Status::Error),
            (Phase::Unknown, Status::Error),
            (Phase::Pending, Status::Stopped),
            (Phase::Provisioning, Status::Stopped),
            (Phase::Starting, Status::Stopped),
            (Phase::Stopped, Status::Stopped),
            (Phase::Restoring, Status::Stopped),
            (Phase::Deleting, Status::Stopped),
        ];
        for (phase, status) in cases {
            assert_eq!(Status::from(phase), status, "{phase:?}");
        }
    }
}
