//! A host over REST.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{HostResources, VirtType};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mib;

/// A KVM host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Name of the host and of its Node.
    #[schema(example = "host-1")]
    pub name: String,
    /// Whether it lives and libvirt answers.
    pub ready: bool,
    /// Whether its node controller renews its Lease.
    pub alive: bool,
    /// Whether new virtual machines keep away.
    pub unschedulable: bool,
    /// `kvm` or `qemu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "kvm")]
    pub virt_type: Option<String>,
    /// Architecture of the guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "x86_64")]
    pub architecture: Option<String>,
    /// What all guests together may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub capacity: Option<Resources>,
    /// What its virtual machines have been admitted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub allocated: Option<Resources>,
    /// Number of its virtual machines.
    #[schema(minimum = 0)]
    pub vms: usize,
    /// Images that it has.
    pub images: Vec<String>,
    /// Version of libvirt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "9.0.0")]
    pub libvirt: Option<String>,
    /// Version of QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "7.2.0")]
    pub hypervisor: Option<String>,
}

/// CPUs and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HostResources)]
pub struct Resources {
    /// Virtual CPUs.
    pub cpu: i64,
    /// Memory in MiB.
    pub memory: u64,
}

impl From<&HostResources> for Resources {
    fn from(resources: &HostResources) -> Self {
        Self { cpu: resources.cpu, memory: mib(&resources.memory) }
    }
}

impl Host {
    /// The host over REST, with the number of its virtual machines.
    pub fn new(host: &kvmoor_crds::Host, alive: bool, vms: usize) -> Self {
        let status = host.status.clone().unwrap_or_default();
        let virt_type = status.virt_type.map(|virt_type| match virt_type {
            VirtType::Kvm => "kvm".to_owned(),
            VirtType::Qemu => "qemu".to_owned(),
        });
        Self {
            name: host.name_any(),
            ready: alive && conditions::is_true(&status.conditions, types::LIBVIRT_CONNECTED),
            alive,
            unschedulable: host.spec.unschedulable,
            virt_type,
            architecture: status.architecture,
            capacity: status.capacity.as_ref().map(Resources::from),
            allocated: status.allocated.as_ref().map(Resources::from),
            vms,
            images: status.images.into_iter().map(|image| image.name).collect(),
            libvirt: status.versions.as_ref().map(|versions| versions.libvirt.clone()),
            hypervisor: status.versions.map(|versions| versions.hypervisor),
        }
    }
}

/// Whether a Lease is in force.
pub fn is_alive(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let (Some(renewed), Some(seconds)) = (&spec.renew_time, spec.lease_duration_seconds) else { return false };
    now.duration_since(renewed.0) <= SignedDuration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn a_lease_is_in_force_for_its_duration() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let lease = Lease {
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(at(100))),
                lease_duration_seconds: Some(40),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        assert!(is_alive(&lease, at(140)));
        assert!(!is_alive(&lease, at(141)));
        assert!(!is_alive(&Lease::default(), at(100)));
    }
}
