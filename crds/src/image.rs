//! Image: what a root disk can start from.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::optional_quantity_schema;

/// What a root disk can start from. Its name is what `osType` of a virtual machine names.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "Image",
    plural = "images",
    shortname = "kvmimage",
    category = "kvmoor",
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "What a root disk can start from. Its name is what osType of a virtual machine names.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("use at most 63 characters for the name"),
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "Built-in", type_ = "boolean", json_path = ".spec.builtIn"),
    printcolumn(name = "Uploaded", type_ = "boolean", json_path = ".spec.uploaded"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("[has(self.url), self.builtIn, self.uploaded].filter(given, given).size() == 1")
        .message("give one of url, builtIn: true and uploaded: true"),
    validation = Rule::new("!has(self.url) || has(self.sha256)").message("an image with a url needs its sha256"),
    validation = Rule::new("!self.uploaded || has(self.sha256)").message("an image that is uploaded needs its sha256"),
    validation = Rule::new("has(self.url) == has(oldSelf.url) && (!has(self.url) || self.url == oldSelf.url)")
        .message("url cannot change: disks were made from it; create another image"),
    validation = Rule::new("has(self.sha256) == has(oldSelf.sha256) && (!has(self.sha256) || self.sha256 == oldSelf.sha256)")
        .message("sha256 cannot change: disks were made from it; create another image"),
    validation = Rule::new("self.builtIn == oldSelf.builtIn").message("builtIn cannot change; create another image"),
    validation = Rule::new("self.uploaded == oldSelf.uploaded").message("uploaded cannot change; create another image"),
    validation = Rule::new("self.format == oldSelf.format").message("format cannot change; create another image")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Name for people, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// Where hosts get it, http or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048), regex(pattern = "^https?://"))]
    pub url: Option<String>,
    /// Hosts have it already, as the volume kvmoor-image-NAME.FORMAT of their storage pool.
    #[serde(default)]
    pub built_in: bool,
    /// An admin uploads it, over REST, to one host. Hosts keep it for as long as the Image exists, used or not.
    #[serde(default)]
    pub uploaded: bool,
    /// Hosts fetch it before a virtual machine asks for it, and keep it when none uses it.
    #[serde(default)]
    pub prefetch: bool,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Format of the file; it is never guessed.
    #[serde(default)]
    pub format: ImageFormat,
    /// Architecture of the guest, as libvirt names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(x86_64|aarch64)$"))]
    pub architecture: Option<String>,
    /// The smallest root disk it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0").message("minimumDisk must be a quantity such as 2Gi"))]
    pub minimum_disk: Option<Quantity>,
    /// The account that cloud-init gives the SSH keys to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub default_user: Option<String>,
}

/// Format of an image's file.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's copy-on-write format, version 2 or 3.
    #[default]
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

impl ImageFormat {
    /// The word in the API and in libvirt.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What is, as the cluster controller knows it. Which host has the image stands in Host.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
