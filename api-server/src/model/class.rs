//! A size of virtual machines over REST.

use kube::ResourceExt;
use kvmoor_crds::VirtualMachineClass;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mib;

/// What `class` of a virtual machine may name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMClass)]
pub struct Class {
    /// What to give as `class`.
    #[schema(example = "small")]
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    /// Virtual CPUs.
    #[schema(minimum = 1, example = 1)]
    pub cpu: i32,
    /// Memory in MiB.
    #[schema(minimum = 16, example = 2048)]
    pub memory: u64,
    /// Size of the disk in MiB, where the virtual machine names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 20480)]
    pub disk: Option<u64>,
}

impl Class {
    /// The class over REST.
    pub fn new(class: &VirtualMachineClass) -> Self {
        Self {
            name: class.name_any(),
            description: class.spec.description.clone(),
            cpu: class.spec.cpu,
            memory: mib(&class.spec.memory),
            disk: class.spec.disk.as_ref().map(mib),
        }
    }
}
