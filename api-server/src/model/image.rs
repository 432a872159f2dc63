//! An image over REST.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mib;

/// What `os_type` of a virtual machine may name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What to give as `os_type`.
    #[schema(example = "tiny")]
    pub name: String,
    /// Name for people.
    #[schema(example = "Tiny Linux")]
    pub display_name: String,
    /// Format of its file.
    #[schema(example = "qcow2")]
    pub format: String,
    /// SHA-256 of its file, where it is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    pub sha256: Option<String>,
    /// Whether an admin uploads its file; while `hosts` is 0, nobody has.
    #[schema(example = false)]
    pub uploaded: bool,
    /// Architecture of the guest, where it is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "x86_64")]
    pub architecture: Option<String>,
    /// The smallest disk it works with, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 64)]
    pub minimum_disk: Option<u64>,
    /// The account that cloud-init gives the SSH keys to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "root")]
    pub default_user: Option<String>,
    /// Number of hosts that have it already. Others get it when a virtual machine needs it.
    #[schema(minimum = 0, example = 1)]
    pub hosts: usize,
}

impl Image {
    /// The image over REST, given the hosts.
    pub fn new<'a>(image: &kvmoor_crds::Image, hosts: impl Iterator<Item = &'a kvmoor_crds::Host>) -> Self {
        let name = image.name_any();
        let present: BTreeSet<_> = hosts
            .filter(|host| host.status.iter().flat_map(|status| &status.images).any(|present| present.name == name))
            .map(|host| host.name_any())
            .collect();
        Self {
            display_name: image.spec.display_name.clone().unwrap_or_else(|| name.clone()),
            name,
            format: image.spec.format.as_str().to_owned(),
            sha256: image.spec.sha256.clone(),
            uploaded: image.spec.uploaded,
            architecture: image.spec.architecture.clone(),
            minimum_disk: image.spec.minimum_disk.as_ref().map(mib),
            default_user: image.spec.default_user.clone(),
            hosts: present.len(),
        }
    }
}
