//! Host: a KVM host as its node controller describes it. That it lives is said by a Lease.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::quantity_schema;

/// A KVM host; it has the name of its Node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "Host",
    plural = "hosts",
    shortname = "kvmhost",
    category = "kvmoor",
    status = "HostStatus",
    derive = "PartialEq",
    doc = "A KVM host; it has the name of its Node.",
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="LibvirtConnected")].status"#
    ),
    printcolumn(name = "Unschedulable", type_ = "boolean", json_path = ".spec.unschedulable"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.virtType"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".status.capacity.cpu"),
    printcolumn(name = "Mem", type_ = "string", json_path = ".status.capacity.memory"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// Whether new virtual machines keep away.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What is, as the node controller knows it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// What all guests together may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<HostResources>,
    /// What the virtual machines bound to the host have been admitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<HostResources>,
    /// Architecture of the guests, as libvirt names it, such as x86_64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// How guests run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virt_type: Option<VirtType>,
    /// What guests can have here beyond the common.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub features: Vec<HostFeature>,
    /// Images that the storage pool holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub images: Vec<HostImage>,
    /// Images that are being imported, or that could not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_imports: Vec<HostImageImport>,
    /// Where the API server reaches the node controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<HostAddress>,
    /// The certificate that the node controller serves with, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// What runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<HostVersions>,
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// An amount of what guests use.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostResources {
    /// Virtual CPUs.
    pub cpu: i64,
    /// Memory.
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Quantity,
}

/// How guests run.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// On the CPU's virtualization, by KVM.
    Kvm,
    /// In software, by QEMU's TCG.
    Qemu,
}

/// What guests can have on a host that not every host has.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostFeature {
    /// UEFI firmware.
    Uefi,
    /// UEFI firmware with Secure Boot.
    SecureBoot,
    /// A TPM 2.0.
    Tpm,
}

impl HostFeature {
    /// What it is, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Uefi => "UEFI firmware",
            Self::SecureBoot => "UEFI firmware with Secure Boot",
            Self::Tpm => "a TPM 2.0",
        }
    }
}

/// An image in a host's storage pool.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostImage {
    /// Name of the Image.
    pub name: String,
    /// Size of the disk that it holds, in bytes.
    pub virtual_size: i64,
}

/// The import of an image.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostImageImport {
    /// Name of the Image.
    pub name: String,
    /// ImageImporting while it is under way, else why it failed.
    pub reason: String,
    /// How far it is, or what happened.
    pub message: String,
}

/// Where the API server reaches the node controller.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostAddress {
    /// IP address or host name.
    pub address: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// What runs on a host.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostVersions {
    /// libvirt, such as 9.0.0.
    pub libvirt: String,
    /// QEMU, such as 7.2.0.
    pub hypervisor: String,
    /// The kernel, such as 6.1.0-26-amd64.
    pub kernel: String,
    /// The node controller, such as 0.1.0.
    pub controller: String,
}
