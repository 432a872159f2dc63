//! What the cluster controller said about a virtual machine's claim on the quota.

use kvmoor_crds::VirtualMachine;
use kvmoor_crds::conditions::{find, reasons, types};

use crate::error::ApiError;

/// What the cluster controller said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Within quota.
    Admitted,
    /// Over quota, or not possible; the sentence says by how much or why.
    Refused {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
}

impl Verdict {
    /// The verdict on the spec of `generation` or a later one, once there is one.
    pub fn of(vm: &VirtualMachine, generation: i64) -> Option<Self> {
        let condition = find(&vm.status.as_ref()?.conditions, types::ADMITTED)?;
        if condition.observed_generation.unwrap_or_default() < generation {
            return None;
        }
        match condition.status.as_str() {
            "True" => Some(Self::Admitted),
            "False" => Some(Self::Refused { reason: condition.reason.clone(), message: condition.message.clone() }),
            _ => None,
        }
    }
}

/// The answer to a refusal.
pub fn refusal(reason: &str, message: String) -> ApiError {
    match reason {
        reasons::QUOTA_EXCEEDED => {}
        // The same request is right at another time.
        reasons::HOST_FULL => return ApiError::Conflict(message),
        reasons::CLASS_NOT_FOUND => return ApiError::Missing(message),
        _ => return ApiError::Invalid(message),
    }
    let said = message.get(.."quota exceeded".len()).is_some_and(|start| start.eq_ignore_ascii_case("quota exceeded"));
    ApiError::OverQuota(if said { message } else { format!("quota exceeded: {message}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(status: &str, generation: i64) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "x" },
            "spec": { "cpu": 1, "memory": "1Gi" },
            "status": { "conditions": [{
                "type": "Admitted", "status": status, "reason": "QuotaExceeded", "message": "11 of 10 VMs",
                "observedGeneration": generation, "lastTransitionTime": "2024-12-23T10:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn only_a_verdict_on_the_new_spec_counts() {
        assert_eq!(Verdict::of(&vm("True", 1), 2), None);
        assert_eq!(Verdict::of(&vm("True", 2), 2), Some(Verdict::Admitted));
        assert_eq!(Verdict::of(&vm("Unknown", 2), 2), None);
        assert!(matches!(Verdict::of(&vm("False", 3), 2), Some(Verdict::Refused { .. })));
    }

    #[test]
    fn a_refusal_says_by_how_much() {
        assert_eq!(refusal("QuotaExceeded", "11 of 10 VMs".into()).to_string(), "quota exceeded: 11 of 10 VMs");
        assert_eq!(refusal("QuotaExceeded", "Quota exceeded: 1".into()).to_string(), "Quota exceeded: 1");
        assert!(matches!(refusal("InvalidSpec", "x".into()), ApiError::Invalid(_)));
        assert!(matches!(refusal("HostFull", "x".into()), ApiError::Conflict(_)));
        assert!(matches!(refusal("ClassNotFound", "x".into()), ApiError::Missing(_)));
    }
}
