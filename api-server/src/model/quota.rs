//! A quota and what is used of it, over REST.

use kvmoor_crds::conditions::{is_true, types};
use kvmoor_crds::{Quota, VirtualMachine, VirtualMachineSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mib;
use crate::store::Stored;

/// A quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Quota)]
pub struct Limits {
    /// Number, never given twice.
    #[schema(minimum = 1, example = 1)]
    pub id: i64,
    /// Number of the user whom it is shown for.
    #[schema(minimum = 1, example = 1)]
    pub user_id: i64,
    /// Most virtual machines.
    #[schema(minimum = 0, example = 10)]
    pub max_vms: i64,
    /// Most virtual CPUs.
    #[schema(minimum = 0, example = 20)]
    pub max_cpu: i64,
    /// Most memory, in MiB.
    #[schema(minimum = 0, example = 40960)]
    pub max_memory: u64,
    /// Most snapshots; no limit where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, example = 50, nullable = false)]
    pub max_snapshots: Option<i64>,
    /// Most sizes of disks together, in MiB; no limit where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, example = 512000, nullable = false)]
    pub max_disk: Option<u64>,
    /// Whether it is the one that holds for every user with none of their own.
    pub default: bool,
}

impl Limits {
    /// The quota as it holds for a user; `None` as long as it has no number.
    pub fn new(quota: &Quota, user_id: i64, default: bool) -> Option<Self> {
        Some(Self {
            id: quota.id()?,
            user_id,
            max_vms: quota.spec.max_vms,
            max_cpu: quota.spec.max_cpu,
            max_memory: mib(&quota.spec.max_memory),
            max_snapshots: quota.spec.max_snapshots,
            max_disk: quota.spec.max_disk.as_ref().map(mib),
            default,
        })
    }
}

/// What a user's virtual machines add up to, running or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Virtual machines.
    #[schema(minimum = 0, example = 3)]
    pub vms: i64,
    /// Virtual CPUs.
    #[schema(minimum = 0, example = 6)]
    pub cpu: i64,
    /// Memory, in MiB.
    #[schema(minimum = 0, example = 12288)]
    pub memory: u64,
    /// Snapshots.
    #[schema(minimum = 0, example = 2)]
    pub snapshots: i64,
    /// Sizes of all disks, in MiB.
    #[schema(minimum = 0, example = 30720)]
    pub disk: u64,
}

impl Usage {
    /// The sum of what the quota is charged for. What was not admitted is charged nothing.
    pub fn of<'a>(
        vms: impl Iterator<Item = &'a VirtualMachine>,
        snapshots: impl Iterator<Item = &'a VirtualMachineSnapshot>,
    ) -> Self {
        let is_admitted = |snapshot: &&VirtualMachineSnapshot| {
            snapshot.status.as_ref().is_some_and(|status| is_true(&status.conditions, types::ADMITTED))
        };
        let snapshots = i64::try_from(snapshots.filter(is_admitted).count()).unwrap_or(i64::MAX);
        let admitted = vms.filter_map(|vm| vm.status.as_ref()?.admitted.as_ref());
        admitted.fold(Self { snapshots, ..Self::default() }, |sum, one| Self {
            vms: sum.vms + 1,
            cpu: sum.cpu.saturating_add(one.cpu.into()),
            memory: sum.memory.saturating_add(mib(&one.memory)),
            disk: sum.disk.saturating_add(mib(&one.disk)),
            ..sum
        })
    }
}

/// A quota and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaUsage {
    /// The quota.
    pub quota: Limits,
    /// What is used of it.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_counts_what_was_admitted() {
        let vm = |admitted: serde_json::Value| -> VirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "x" },
                "spec": { "cpu": 9, "memory": "9Gi" }, "status": { "id": 1, "admitted": admitted },
            }))
            .unwrap()
        };
        let vms = [
            vm(json!({ "cpu": 2, "memory": "2Gi", "disk": "10Gi" })),
            vm(json!({ "cpu": 1, "memory": "1000k", "disk": "10Gi" })),
            vm(json!(null)),
        ];
        let snapshot = |status: &str| -> VirtualMachineSnapshot {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineSnapshot", "metadata": { "name": "x" },
                "spec": { "vmName": "x" },
                "status": { "conditions": [{
                    "type": "Admitted", "status": status, "reason": "R", "message": "",
                    "lastTransitionTime": "2024-12-23T10:00:00Z",
                }] },
            }))
            .unwrap()
        };
        let snapshots = [snapshot("True"), snapshot("False")];
        let expected = Usage { vms: 2, cpu: 3, memory: 2049, snapshots: 1, disk: 20480 };
        assert_eq!(Usage::of(vms.iter(), snapshots.iter()), expected);
    }
}
