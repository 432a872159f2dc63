//! Power: asks for a change of the spec, and waits until it is so.

use anyhow::{Context as _, Result};
use kube::api::{Patch, PatchParams};
use kvmoor_crds::power::{PowerAction, decide};
use kvmoor_crds::{Phase, VirtualMachine, conditions};

use crate::args::Target;
use crate::cluster::{Namespace, Progress, wait};

/// Tries at a change that others make one of at the same time.
const TRIES: u32 = 5;
/// Who makes the change.
const MANAGER: &str = "kubectl-kvm";

/// Does it, and waits until it is so.
pub async fn run(namespace: &Namespace, action: PowerAction, target: &Target) -> Result<()> {
    let api = namespace.api::<VirtualMachine>();
    let mut tries = TRIES;
    let changed = loop {
        let vm = namespace.vm(&target.vm).await?;
        let change = decide(&vm, action)?;
        if change.is_nothing() {
            break vm;
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        tries = tries.saturating_sub(1);
        match api.patch(&target.vm, &params, &Patch::Merge(change.patch(&vm))).await {
            Ok(vm) => break vm,
            Err(kube::Error::Api(status)) if status.is_conflict() && tries > 0 => {}
            Err(error) => return Err(error).context("cannot change the virtual machine"),
        }
    };
    let generation = changed.metadata.generation.unwrap_or_default();
    wait(&api, &target.vm, &target.wait, |vm| judge(vm, generation)).await
}

/// Whether the host has done what the spec of `generation` asks for.
pub fn judge(vm: &VirtualMachine, generation: i64) -> Progress {
    let Some(status) = &vm.status else { return Progress::Pending("nothing is known of it yet".to_owned()) };
    let message = status.message.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or(Phase::Pending);
    if status.observed_generation.unwrap_or_default() < generation {
        return Progress::Pending(message);
    }
    let asked = vm.spec.requests.restart;
    let taken_up = status.requests.is_some_and(|requests| requests.restart >= asked);
    if taken_up && conditions::is_true(&status.conditions, conditions::types::READY) {
        return Progress::Done(phase.as_str().to_lowercase());
    }
    if phase == Phase::Error { Progress::Failed(message) } else { Progress::Pending(message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(power_state: &str, phase: &str) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": "x", "generation": 3 },
            "spec": { "cpu": 1, "memory": "1Gi", "powerState": power_state, "requests": { "restart": 4 } },
            "status": {
                "phase": phase, "observedGeneration": 3, "requests": { "restart": 4 }, "message": "why",
                "conditions": [{
                    "type": "Ready", "status": if power_state == phase { "True" } else { "False" },
                    "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn only_what_the_host_says_of_the_new_spec_counts() {
        let judged = |vm: &VirtualMachine, generation| match judge(vm, generation) {
            Progress::Done(text) => text,
            Progress::Failed(why) => format!("failed: {why}"),
            Progress::Pending(why) => format!("pending: {why}"),
        };
        assert_eq!(judged(&vm("Running", "Running"), 3), "running");
        assert_eq!(judged(&vm("Running", "Running"), 4), "pending: why");
        assert_eq!(judged(&vm("Running", "Starting"), 3), "pending: why");
        assert_eq!(judged(&vm("Running", "Error"), 3), "failed: why");
        let mut restarting = vm("Running", "Running");
        restarting.spec.requests.restart = 5;
        assert_eq!(judged(&restarting, 3), "pending: why");
    }
}
