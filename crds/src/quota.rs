//! Quota: what the virtual machines of one namespace may add up to.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{optional_quantity_schema, quantity_schema};

/// What the virtual machines of one namespace may add up to, running or not. The one in the system namespace holds for
/// every namespace without one of its own.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "Quota",
    plural = "quotas",
    shortname = "kvmquota",
    category = "kvmoor",
    namespaced,
    status = "QuotaStatus",
    derive = "PartialEq",
    doc = "What the virtual machines of one namespace may add up to, running or not. The one in the system namespace holds for every namespace without one of its own.",
    validation = Rule::new("self.metadata.name == 'default'").message("a namespace has one Quota, and it is named default"),
    printcolumn(name = "VMs", type_ = "integer", json_path = ".spec.maxVms"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".spec.maxCpu"),
    printcolumn(name = "Mem", type_ = "string", json_path = ".spec.maxMemory"),
    printcolumn(name = "Used VMs", type_ = "integer", json_path = ".status.used.vms"),
    printcolumn(name = "Used CPU", type_ = "integer", json_path = ".status.used.cpu"),
    printcolumn(name = "Used Mem", type_ = "string", json_path = ".status.used.memory"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct QuotaSpec {
    /// Number of virtual machines.
    #[schemars(range(min = 0))]
    pub max_vms: i64,
    /// Virtual CPUs of all virtual machines together.
    #[schemars(range(min = 0))]
    pub max_cpu: i64,
    /// Memory of all guests together, such as 40Gi.
    #[schemars(schema_with = "quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0").message("maxMemory must be a quantity such as 40Gi"))]
    pub max_memory: Quantity,
    /// Number of snapshots. No limit where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_snapshots: Option<i64>,
    /// Sizes of all disks together, such as 500Gi. No limit where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_quantity_schema")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0").message("maxDisk must be a quantity such as 500Gi"))]
    pub max_disk: Option<Quantity>,
}

/// What is, as the cluster controller knows it.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// Small number of the quota in the REST API; never given twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// What the admitted virtual machines of this namespace add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<QuotaUsed>,
}

/// What the admitted virtual machines of a namespace add up to.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUsed {
    /// Number of virtual machines.
    pub vms: i64,
    /// Virtual CPUs.
    pub cpu: i64,
    /// Memory of the guests.
    #[schemars(schema_with = "quantity_schema")]
    pub memory: Quantity,
    /// Number of snapshots.
    pub snapshots: i64,
    /// Sizes of the disks.
    #[schemars(schema_with = "quantity_schema")]
    pub disk: Quantity,
}
