//! VirtualMachineClass: a size that virtual machines name instead of numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::quantity::{optional_quantity_schema, quantity_schema};

/// A size that virtual machines name instead of numbers: spec.className of a virtual machine, `class` over REST.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "VirtualMachineClass",
    plural = "virtualmachineclasses",
    shortname = "kvmclass",
    category = "kvmoor",
    derive = "PartialEq",
    doc = "A size that virtual machines name instead of numbers: spec.className of a virtual machine, `class` over REST.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("use at most 63 characters for the name"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".spec.cpu"),
    printcolumn(name = "Mem", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".spec.disk"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.cpu == oldSelf.cpu && self.memory == oldSelf.memory && has(self.disk) == has(oldSelf.disk) && (!has(self.disk) || self.disk == oldSelf.disk)")
        .message("a class cannot change: virtual machines have its size; create another class")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineClassSpec {
    /// What it is for, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub description: Option<String>,
    /// Number of virtual CPUs.
    #[schemars(range(min = 1, max = 512))]
    pub cpu: i32,
    /// Memory of the guest, such as 2Gi; at least 16Mi, at most 16Ti.
    #[schemars(schema_with = "quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('16Mi')) >= 0 && quantity(self).compareTo(quantity('16Ti')) <= 0").message("memory must be a quantity from 16Mi to 16Ti"))]
    pub memory: Quantity,
    /// Size of the root disk where the virtual machine names none, such as 20Gi; 10Gi where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('64Ti')) <= 0").message("disk must be a quantity from 1Mi to 64Ti"))]
    pub disk: Option<Quantity>,
}
