//! VirtualMachine: what a user asks for and what the host reports.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostFeature;
use crate::quantity::quantity_schema;

/// A virtual machine on one of the cluster's KVM hosts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    shortname = "kvm",
    category = "kvmoor",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    doc = "A virtual machine on one of the cluster's KVM hosts.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name is the guest's host name too: use at most 63 characters"),
    validation = Rule::new("!has(self.spec.source) || self.spec.source.vmName != self.metadata.name")
        .message("a virtual machine is not its own source"),
    // What was not admitted may be taken back: no disk has grown for it.
    validation = Rule::new("has(self.status) && has(self.status.conditions) && self.status.conditions.exists(c, c.type == 'Admitted' && c.status == 'False') || !has(oldSelf.spec.disk) || !has(oldSelf.spec.disk.size) || has(self.spec.disk) && has(self.spec.disk.size) && (!isQuantity(self.spec.disk.size) || quantity(self.spec.disk.size).compareTo(quantity(oldSelf.spec.disk.size)) >= 0)")
        .message("a disk only grows: disk.size cannot be taken away or be smaller than before"),
    validation = Rule::new("has(self.status) && has(self.status.conditions) && self.status.conditions.exists(c, c.type == 'Admitted' && c.status == 'False') || !has(self.spec.disks) || !has(oldSelf.spec.disks) || self.spec.disks.all(disk, !isQuantity(disk.size) || oldSelf.spec.disks.all(old, old.name != disk.name || quantity(disk.size).compareTo(quantity(old.size)) >= 0))")
        .message("a disk only grows: the size of a disk cannot be smaller than before"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.addresses[0].address"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".status.admitted.cpu"),
    printcolumn(name = "Mem", type_ = "string", json_path = ".status.admitted.memory"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.className", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.className) ? !has(self.cpu) && !has(self.memory) : has(self.cpu) && has(self.memory)")
        .message("give either className, or cpu and memory"),
    validation = Rule::new("has(self.osType) == has(oldSelf.osType) && (!has(self.osType) || self.osType == oldSelf.osType)")
        .message("osType cannot change: the disk was made from it; create another virtual machine"),
    validation = Rule::new("has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source)")
        .message("source cannot change: the disks were copied from it; create another virtual machine"),
    validation = Rule::new("self.networks == oldSelf.networks").message("networks cannot change after creation"),
    validation = Rule::new("self.firmware == oldSelf.firmware").message("firmware cannot change after creation"),
    validation = Rule::new("self.tpm == oldSelf.tpm").message("tpm cannot change after creation"),
    validation = Rule::new("!has(oldSelf.nodeName) || has(self.nodeName) && self.nodeName == oldSelf.nodeName")
        .message("nodeName cannot change once set: the disks are on that host")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Name for people, free text. The object's name stands where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')").message("displayName must not hold control characters"))]
    pub display_name: Option<String>,

    /// Name of the VirtualMachineClass that says how many CPUs and how much memory it has, instead of cpu and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub class_name: Option<String>,

    /// Number of virtual CPUs; needed where there is no className. A running guest gets more at once, up to twice what it started with and at least 4; other changes take effect at the next restart.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 1, max = 512))]
    pub cpu: i32,

    /// Memory of the guest, such as 512Mi or 2Gi; at least 16Mi, at most 16Ti. Rounded up to whole MiB. Needed where there is no className. A running guest that started with at least 1Gi gets more at once, by multiples of 128Mi and up to four times that; other changes take effect at the next restart.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(schema_with = "quantity_schema")]
    #[x_kube(
        validation = Rule::new("isQuantity(self)").message("memory must be a quantity such as 512Mi"),
        validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity('16Mi')) >= 0").message("memory must be at least 16Mi"),
        validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity('16Ti')) <= 0").message("memory must be at most 16Ti")
    )]
    pub memory: Quantity,

    /// The virtual machine that this one is a clone of: its disks begin as copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<CloneSource>,

    /// Name of the Image that the root disk starts from. Where there is no such Image, the root disk is blank and a condition says so. With source it is the source's, and can be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub os_type: Option<String>,

    /// The root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<RootDisk>,

    /// More disks, in the order in which the guest sees them; blank at first, or copies of the source's disks of the same names. One that is added is attached to the guest that runs; one that is left out is detached and deleted with its data, unless snapshots hold it.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub disks: Vec<ExtraDisk>,

    /// Network interfaces, in the order in which the guest sees them.
    #[serde(default = "default_networks")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub networks: Vec<Network>,

    /// What the guest's cloud-init reads (NoCloud seed). A change is in the seed from the next start on; most of it is heeded only at a first boot, which requests.reprovision asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,

    /// Firmware of the guest.
    #[serde(default)]
    pub firmware: Firmware,

    /// Whether the guest has a TPM 2.0, where a host has it. What it keeps goes with the virtual machine.
    #[serde(default)]
    pub tpm: bool,

    /// The power state to bring about.
    #[serde(default)]
    pub power_state: PowerState,

    /// What to do when the guest goes off by itself while powerState asks for more.
    #[serde(default)]
    pub restart_policy: RestartPolicy,

    /// Seconds a guest has to shut down after the ACPI power button was pressed, before it is turned off.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 86400))]
    pub termination_grace_period_seconds: i64,

    /// Counters of things to do once: raise one to ask for it.
    #[serde(default)]
    pub requests: Requests,

    /// The host that runs the virtual machine. Written by the cluster controller only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,

    /// Labels that the host's Node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn is_empty(quantity: &Quantity) -> bool {
    quantity.0.is_empty()
}

fn default_networks() -> Vec<Network> {
    vec![Network { name: "default".to_owned(), type_: NetworkType::Nat, bridge: None }]
}

fn default_grace() -> i64 {
    30
}

/// What a clone is made of. It is on the same host, and has to be off while its disks are copied; afterwards neither knows of the other. The clone has its own host name, addresses and instance id.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CloneSource {
    /// Name of a virtual machine in the same namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub vm_name: String,
    /// Name of one of its VirtualMachineSnapshots: the disks are as they were then, without what was in the guest's memory. Where it is missing: as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub snapshot_name: Option<String>,
}

/// The root disk of a virtual machine.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RootDisk {
    /// Size as the guest sees it, such as 20Gi; no smaller than the disk of the image or the source. Where it is missing: 10Gi, or the image's size where that is larger; with source, the size of the source's. It only grows, also while the guest runs; what was not admitted may be taken back. At most 64Ti.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::optional_quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('64Ti')) <= 0").message("size must be a quantity from 1Mi to 64Ti"))]
    pub size: Option<Quantity>,
}

/// A disk beside the root disk.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExtraDisk {
    /// Name of the disk, unique in the virtual machine; the guest sees its first 20 characters as the serial number.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Size as the guest sees it, such as 20Gi. It only grows, also while the guest runs; what was not admitted may be taken back. At most 64Ti.
    #[schemars(schema_with = "quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('64Ti')) <= 0").message("size must be a quantity from 1Mi to 64Ti"))]
    pub size: Quantity,
}

/// A network interface of a virtual machine.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[x_kube(
    validation = Rule::new("(self.type == 'Bridge') == has(self.bridge)").message("bridge names the host's bridge: it is needed with type Bridge, and with no other")
)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Name of the interface, unique in the virtual machine; its MAC address derives from it.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What the interface is connected to.
    #[serde(rename = "type", default)]
    pub type_: NetworkType,
    /// Name of the host's bridge, one that its administrator has allowed; with type Bridge only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-zA-Z0-9][-_.a-zA-Z0-9]*$"))]
    pub bridge: Option<String>,
}

/// What a network interface is connected to.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkType {
    /// The host's NAT network: the guest gets its address by DHCP, reaches out through the host, and no other guest.
    #[default]
    Nat,
    /// A bridge of the host that its administrator has allowed: the guest is beside whatever is on it.
    Bridge,
    /// A segment of its own for the namespace's virtual machines on the host, without router and DHCP: addresses are those that the guests give themselves.
    Isolated,
}

/// What cloud-init in the guest reads.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CloudInit {
    /// Public keys that may log in, in the format of OpenSSH's authorized_keys.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 8192)))]
    pub ssh_authorized_keys: Vec<String>,

    /// The Secret with the user data. The guest starts when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_secret_ref: Option<SecretKeyReference>,

    /// The Secret with the network configuration, in a format of cloud-init's. Without it every interface asks for an address by DHCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_secret_ref: Option<SecretKeyReference>,
}

/// A key of a Secret in the virtual machine's namespace.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Key of the Secret. Where it is missing: user-data for user data, network-config for a network configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// Firmware of a guest.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firmware {
    /// The PC's classic BIOS (SeaBIOS).
    #[default]
    Bios,
    /// UEFI without Secure Boot (edk2), where a host has it. Snapshots cannot be taken of such a guest.
    Uefi,
    /// UEFI that starts only what is signed, with the usual keys (Microsoft's), where a host has it. Snapshots cannot be taken of such a guest.
    UefiSecureBoot,
}

impl VirtualMachineSpec {
    /// What its host must have.
    pub fn host_features(&self) -> Vec<HostFeature> {
        let firmware = match self.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(HostFeature::Uefi),
            Firmware::UefiSecureBoot => Some(HostFeature::SecureBoot),
        };
        firmware.into_iter().chain(self.tpm.then_some(HostFeature::Tpm)).collect()
    }
}

/// The power state that a user wants.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PowerState {
    /// Powered on, CPUs running.
    #[default]
    Running,
    /// Powered off: the ACPI power button first, the plug after the grace period.
    Stopped,
    /// Powered on, CPUs halted.
    Paused,
}

/// What to do when the guest goes off by itself.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Start it again, whatever the reason.
    Always,
    /// Start it again after a crash, with growing delays; leave it off when the guest powered itself off.
    #[default]
    OnFailure,
    /// Leave it off.
    Never,
}

/// Counters of things to do once.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[x_kube(
    validation = Rule::new("self.restart >= oldSelf.restart && self.reset >= oldSelf.reset && self.powerOff >= oldSelf.powerOff && self.reprovision >= oldSelf.reprovision")
        .message("a counter of requests can only be raised")
)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Restart: shut down as for Stopped, then start with the present spec. Starts a virtual machine that is off while powerState asks for more.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub restart: i64,
    /// Reset: as the reset button of a PC. The guest is not asked.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub reset: i64,
    /// Power off: turn off without asking the guest; set powerState to Stopped too, or the guest is off only for a moment.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub power_off: i64,
    /// Reprovision: at its next start the guest gets a new instance id, so cloud-init does all again that it does at a first boot, with the user data of then.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub reprovision: i64,
}

/// What is, as the controllers know it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Small number of the virtual machine in the REST API; never given twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Where the virtual machine is in its life, for people. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Generation of the spec that phase and conditions of the host speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the quota was charged for; the host gives a virtual machine no more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<AdmittedResources>,
    /// What the running guest has, or the next start gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesInForce>,
    /// Addresses of the guest; the one to connect to stands first. The network's DHCP server says them, or else the guest agent, which the guest controls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// What the guest agent says of the running guest, as KubeVirt calls it. The guest controls it: nothing may depend on it.
    #[serde(default, rename = "guestOSInfo", skip_serializing_if = "Option::is_none")]
    pub guest_os_info: Option<GuestOsInfo>,
    /// Requests that were taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// When the guest was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When each phase was last entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["phase".into()]))]
    pub phase_transition_times: Vec<PhaseTransition>,
}

/// Where a virtual machine is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not admitted or not placed yet.
    Pending,
    /// The host makes disks and seed.
    Provisioning,
    /// The host starts the guest.
    Starting,
    /// The guest runs.
    Running,
    /// The guest's CPUs are halted.
    Paused,
    /// The guest was asked to shut down.
    Stopping,
    /// The guest is off.
    Stopped,
    /// A snapshot is being restored.
    Restoring,
    /// Domain and volumes are being deleted.
    Deleting,
    /// It cannot be what was asked; the message says why.
    Error,
    /// The host cannot be asked.
    Unknown,
}

impl Phase {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Provisioning => "Provisioning",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Restoring => "Restoring",
            Self::Deleting => "Deleting",
            Self::Error => "Error",
            Self::Unknown => "Unknown",
        }
    }
}

/// What the quota was charged for.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdmittedResources {
    /// Virtual CPUs.
    pub cpu: i32,
    /// Memory of the guest.
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Quantity,
    /// Sizes of all disks together.
    #[schemars(schema_with = "quantity_schema")]
    pub disk: Quantity,
    /// Least size of the root disk, where the class or the source says it and not the virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::optional_quantity_schema")]
    pub root_disk: Option<Quantity>,
}

/// What the guest has.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesInForce {
    /// Virtual CPUs.
    pub cpu: i32,
    /// Memory of the guest.
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Quantity,
    /// Sizes of all disks together that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::optional_quantity_schema")]
    pub disk: Option<Quantity>,
}

/// An address of the guest.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// What the address is.
    #[serde(rename = "type")]
    pub type_: AddressType,
    /// The address itself.
    pub address: String,
    /// Name of the interface in spec.networks that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// What the guest agent says of the operating system. What it does not say is missing.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct GuestOsInfo {
    /// Host name that the guest gave itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub hostname: Option<String>,
    /// Name, such as Debian GNU/Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub name: Option<String>,
    /// Short name, such as debian.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub id: Option<String>,
    /// Name and version for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pretty_name: Option<String>,
    /// Version, such as 12 (bookworm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Short version, such as 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version_id: Option<String>,
    /// Release of the kernel, as uname -r prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel_release: Option<String>,
    /// Version of the kernel, as uname -v prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel_version: Option<String>,
    /// Architecture, as uname -m prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub machine: Option<String>,
}

/// Most characters of a text of [`GuestOsInfo`].
pub const GUEST_TEXT: usize = 128;

/// What an address is. The words are Kubernetes' own (NodeAddress) and the Cluster API's.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressType {
    /// Reachable from the host and its networks.
    #[serde(rename = "InternalIP")]
    InternalIp,
}

/// When a phase was last entered.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTransition {
    /// The phase.
    pub phase: Phase,
    /// The time.
    pub time: Time,
}

impl VirtualMachine {
    /// Virtual CPUs and memory: of the spec, or where a class says them, what they were admitted as. `None` where that
    /// is not known yet.
    pub fn size(&self) -> Option<(i32, &Quantity)> {
        if self.spec.class_name.is_none() {
            return Some((self.spec.cpu, &self.spec.memory));
        }
        let admitted = self.status.as_ref()?.admitted.as_ref()?;
        Some((admitted.cpu, &admitted.memory))
    }
}
