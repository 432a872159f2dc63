//! Power: which change of the spec a word asks for. The words mean what the same actions mean over REST.

use anyhow::{Context as _, Result, bail};
use kube::api::{Patch, PatchParams};
use kvmoor_crds::{Phase, PowerState, VirtualMachine, conditions};
use serde_json::{Value, json};

use crate::args::Target;
use crate::cluster::{Namespace, Progress, wait};

/// Tries at a change that others make one of at the same time.
const TRIES: u32 = 5;
/// Who makes the change.
const MANAGER: &str = "kubectl-kvm";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Power on.
    Start,
    /// Shut down.
    Stop,
    /// Shut down, then power on.
    Restart,
    /// Halt the CPUs.
    Pause,
}

/// Does it, and waits until it is so.
pub async fn run(namespace: &Namespace, verb: Verb, target: &Target) -> Result<()> {
    let api = namespace.api::<VirtualMachine>();
    let mut tries = TRIES;
    let changed = loop {
        let vm = namespace.vm(&target.vm).await?;
        let Some(spec) = change(&vm, verb).map_err(anyhow::Error::msg)? else { break vm };
        let patch = json!({
            "metadata": { "uid": vm.metadata.uid, "resourceVersion": vm.metadata.resource_version },
            "spec": spec,
        });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        tries = tries.saturating_sub(1);
        match api.patch(&target.vm, &params, &Patch::Merge(patch)).await {
            Ok(vm) => break vm,
            Err(kube::Error::Api(status)) if status.is_conflict() && tries > 0 => {}
            Err(error) => return Err(error).context("cannot change the virtual machine"),
        }
    };
    let generation = changed.metadata.generation.unwrap_or_default();
    if changed.metadata.deletion_timestamp.is_some() {
        bail!("{} is being deleted", target.vm);
    }
    wait(&api, &target.vm, &target.wait, |vm| judge(vm, generation)).await
}

/// What changes in the spec; nothing where all is as asked.
fn change(vm: &VirtualMachine, verb: Verb) -> Result<Option<Value>, String> {
    let wanted = vm.spec.power_state;
    let phase = vm.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
    let restart = || json!({ "restart": vm.spec.requests.restart.saturating_add(1) });
    let to = |state: PowerState| (wanted != state).then(|| json!({ "powerState": state }));
    match verb {
        // A guest that went off by itself is wanted Running and yet off: what starts it is a restart.
        Verb::Start if wanted != PowerState::Stopped && matches!(phase, Phase::Stopped | Phase::Error) => {
            Ok(Some(json!({ "powerState": PowerState::Running, "requests": restart() })))
        }
        Verb::Start => Ok(to(PowerState::Running)),
        Verb::Stop => Ok(to(PowerState::Stopped)),
        Verb::Restart => Ok(Some(json!({ "powerState": PowerState::Running, "requests": restart() }))),
        Verb::Pause if wanted == PowerState::Paused => Ok(None),
        Verb::Pause if wanted == PowerState::Stopped || matches!(phase, Phase::Stopped | Phase::Error) => {
            Err("the virtual machine is not running".to_owned())
        }
        Verb::Pause => Ok(to(PowerState::Paused)),
    }
}

/// Whether the host has done what the spec of `generation` asks for.
fn judge(vm: &VirtualMachine, generation: i64) -> Progress {
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
    fn words_become_changes_of_the_spec() {
        let change = |state, phase, verb| change(&vm(state, phase), verb);
        assert_eq!(change("Running", "Running", Verb::Start), Ok(None));
        assert_eq!(change("Stopped", "Stopped", Verb::Start), Ok(Some(json!({ "powerState": "Running" }))));
        assert_eq!(change("Paused", "Paused", Verb::Start), Ok(Some(json!({ "powerState": "Running" }))));
        let again = Ok(Some(json!({ "powerState": "Running", "requests": { "restart": 5 } })));
        assert_eq!(change("Running", "Stopped", Verb::Start), again, "it powered itself off");
        assert_eq!(change("Running", "Running", Verb::Restart), again);
        assert_eq!(change("Running", "Running", Verb::Stop), Ok(Some(json!({ "powerState": "Stopped" }))));
        assert_eq!(change("Running", "Running", Verb::Pause), Ok(Some(json!({ "powerState": "Paused" }))));
        assert!(change("Stopped", "Stopped", Verb::Pause).is_err());
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
