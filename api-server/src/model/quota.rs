//! A quota and what is used of it, over REST.

use kvmoor_crds::{Quota, VirtualMachine};
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
}

impl Usage {
    /// The sum of what the quota is charged for. A virtual machine that was not admitted is charged nothing.
    pub fn of<'a>(vms: impl Iterator<Item = &'a VirtualMachine>) -> Self {
        let admitted = vms.filter_map(|vm| vm.status.as_ref()?.admitted.as_ref());
        admitted.fold(Self::default(), |sum, one| Self {
            vms: sum.vms + 1,
            cpu: sum.cpu.saturating_add(one.cpu.into()),
            memory: sum.memory.saturating_add(mib(&one.memory)),
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
        assert_eq!(Usage::of(vms.iter()), Usage { vms: 2, cpu: 3, memory: 2049 });
    }
}
