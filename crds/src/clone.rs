//! What a clone takes over from its source, and when there can be one. It stands with the types since the REST API and
//! `kubectl kvm` must mean the same by it. Pure: who writes the object is elsewhere.

use thiserror::Error;

use crate::{CloneSource, Phase, VirtualMachine, VirtualMachineSpec};

/// The source is not off.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("VM is {}: stop it first, a clone is made of what its disks hold while it is off", .0.as_str())]
pub struct NotStopped(Phase);

/// Whether a virtual machine can be copied now.
///
/// # Errors
/// If it is not off.
pub fn check(source: &VirtualMachine) -> Result<(), NotStopped> {
    match source.status.as_ref().and_then(|status| status.phase) {
        Some(Phase::Stopped) => Ok(()),
        other => Err(NotStopped(other.unwrap_or(Phase::Pending))),
    }
}

/// The spec of a clone, from what was asked for and the spec of what it is a clone of.
pub fn complete(of: CloneSource, source: &VirtualMachineSpec, asked: VirtualMachineSpec) -> VirtualMachineSpec {
    VirtualMachineSpec {
        source: Some(of),
        os_type: source.os_type.clone(),
        disk: asked.disk.or_else(|| source.disk.clone()),
        disks: source.disks.clone(),
        networks: source.networks.clone(),
        firmware: source.firmware,
        tpm: source.tpm,
        restart_policy: source.restart_policy,
        termination_grace_period_seconds: source.termination_grace_period_seconds,
        ..asked
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clone_is_what_its_source_is_but_for_its_name_power_and_requests() {
        let source = json!({
            "displayName": "Web", "cpu": 2, "memory": "1Gi", "osType": "tiny", "disk": { "size": "2Gi" }, "tpm": true,
            "disks": [{ "name": "data", "size": "1Gi" }], "networks": [{ "name": "lan", "type": "Isolated" }],
            "firmware": "Uefi", "restartPolicy": "Never", "terminationGracePeriodSeconds": 7, "nodeName": "n1",
            "requests": { "restart": 3 }, "nodeSelector": { "a": "b" }, "powerState": "Stopped",
        });
        let asked = json!({ "displayName": "Copy", "cpu": 1, "memory": "512Mi" });
        let of = CloneSource { vm_name: "web-1".into(), snapshot_name: Some("before".into()) };
        let [source, asked] = [source, asked].map(|spec| serde_json::from_value(spec).unwrap());
        let spec = serde_json::to_value(complete(of, &source, asked)).unwrap();
        let expected = json!({
            "displayName": "Copy", "cpu": 1, "memory": "512Mi", "osType": "tiny", "disk": { "size": "2Gi" }, "tpm": true,
            "disks": [{ "name": "data", "size": "1Gi" }], "networks": [{ "name": "lan", "type": "Isolated" }],
            "firmware": "Uefi", "restartPolicy": "Never", "terminationGracePeriodSeconds": 7, "powerState": "Running",
            "requests": { "restart": 0, "reset": 0, "powerOff": 0, "reprovision": 0 },
            "source": { "vmName": "web-1", "snapshotName": "before" },
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn only_what_is_off_can_be_copied() {
        let vm = |phase: Option<&str>| -> VirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "x" },
                "spec": { "cpu": 1, "memory": "1Gi" }, "status": { "phase": phase },
            }))
            .unwrap()
        };
        assert_eq!(check(&vm(Some("Stopped"))), Ok(()));
        assert_eq!(check(&vm(None)), Err(NotStopped(Phase::Pending)));
        let said = check(&vm(Some("Running"))).unwrap_err().to_string();
        assert_eq!(said, "VM is Running: stop it first, a clone is made of what its disks hold while it is off");
    }
}
