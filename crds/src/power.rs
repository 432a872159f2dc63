//! What each action on the power of a virtual machine asks of its spec. It stands with the types since the REST API and
//! `kubectl kvm` must mean the same by the same words. Pure: who writes the change is elsewhere.

use serde_json::{Value, json};
use thiserror::Error;

use crate::{Phase, PowerState, VirtualMachine};

/// An action on the power of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Power on.
    Start,
    /// Shut down by ACPI, with a deadline.
    Stop,
    /// Shut down, then power on.
    Restart,
    /// Halt the CPUs.
    Pause,
    /// Let halted CPUs go on.
    Resume,
    /// Press the reset button.
    Reset,
    /// Pull the plug.
    PowerOff,
}

/// A change of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The new power state.
    pub power_state: Option<PowerState>,
    /// Whether to ask for a restart.
    pub restart: bool,
    /// Whether to ask for a reset.
    pub reset: bool,
    /// Whether to ask for power off.
    pub power_off: bool,
}

impl Change {
    /// Whether all is as asked already.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// The change as a merge patch of `vm`, which fails if it is not what it was.
    pub fn patch(self, vm: &VirtualMachine) -> Value {
        let Self { power_state, restart, reset, power_off } = self;
        let mut spec = serde_json::Map::new();
        if let Some(power_state) = power_state {
            spec.insert("powerState".to_owned(), json!(power_state));
        }
        let counters = &vm.spec.requests;
        let asked = [
            ("restart", restart, counters.restart),
            ("reset", reset, counters.reset),
            ("powerOff", power_off, counters.power_off),
        ];
        let raised: serde_json::Map<_, _> = asked
            .into_iter()
            .filter(|(_, asked, _)| *asked)
            .map(|(name, _, count)| (name.to_owned(), json!(count.saturating_add(1))))
            .collect();
        if !raised.is_empty() {
            spec.insert("requests".to_owned(), Value::Object(raised));
        }
        json!({
            "metadata": { "uid": vm.metadata.uid, "resourceVersion": vm.metadata.resource_version },
            "spec": spec,
        })
    }
}

/// Why an action asks for nothing that could be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is going.
    #[error("VM is being deleted")]
    Deleting,
    /// It is off, and the action is for one that is on.
    #[error("VM is not running")]
    NotRunning,
    /// There are no halted CPUs to go on.
    #[error("VM is not paused")]
    NotPaused,
}

/// What `action` asks of `vm`. Asking for what is so already asks nothing.
///
/// # Errors
/// If the action makes no sense for what the virtual machine is.
pub fn decide(vm: &VirtualMachine, action: PowerAction) -> Result<Change, Refusal> {
    if vm.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::Deleting);
    }
    let wanted = vm.spec.power_state;
    let phase = vm.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
    let to = |power_state| Change { power_state: (wanted != power_state).then_some(power_state), ..Change::default() };
    let on = wanted != PowerState::Stopped && matches!(phase, Phase::Running | Phase::Paused);
    match action {
        // A guest that went off by itself is wanted Running and yet off: what starts it is a restart.
        PowerAction::Start => {
            let halted = wanted != PowerState::Stopped && matches!(phase, Phase::Stopped | Phase::Error);
            Ok(Change { restart: halted, ..to(PowerState::Running) })
        }
        PowerAction::Stop => Ok(to(PowerState::Stopped)),
        PowerAction::Restart => Ok(Change { restart: true, ..to(PowerState::Running) }),
        PowerAction::PowerOff => {
            let off = wanted == PowerState::Stopped && phase == Phase::Stopped;
            Ok(Change { power_off: !off, ..to(PowerState::Stopped) })
        }
        PowerAction::Pause if wanted == PowerState::Paused => Ok(Change::default()),
        PowerAction::Pause if wanted == PowerState::Stopped || matches!(phase, Phase::Stopped | Phase::Error) => {
            Err(Refusal::NotRunning)
        }
        PowerAction::Pause => Ok(to(PowerState::Paused)),
        PowerAction::Resume if wanted == PowerState::Stopped => Err(Refusal::NotPaused),
        PowerAction::Resume => Ok(to(PowerState::Running)),
        PowerAction::Reset if on => Ok(Change { reset: true, ..Change::default() }),
        PowerAction::Reset => Err(Refusal::NotRunning),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(power_state: &str, phase: &str) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": "x", "uid": "u", "resourceVersion": "7" },
            "spec": { "cpu": 1, "memory": "1Gi", "powerState": power_state, "requests": { "restart": 4 } },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn change(power_state: &str, phase: &str, action: PowerAction) -> Option<Change> {
        decide(&vm(power_state, phase), action).ok()
    }

    fn power(power_state: PowerState) -> Change {
        Change { power_state: Some(power_state), ..Change::default() }
    }

    #[test]
    fn asking_for_what_is_so_changes_nothing() {
        let nothing = Some(Change::default());
        assert_eq!(change("Running", "Running", PowerAction::Start), nothing);
        assert_eq!(change("Running", "Provisioning", PowerAction::Start), nothing);
        assert_eq!(change("Stopped", "Stopped", PowerAction::Stop), nothing);
        assert_eq!(change("Stopped", "Stopped", PowerAction::PowerOff), nothing);
        assert_eq!(change("Paused", "Paused", PowerAction::Pause), nothing);
        assert_eq!(change("Running", "Running", PowerAction::Resume), nothing);
    }

    #[test]
    fn power_states_change() {
        assert_eq!(change("Stopped", "Stopped", PowerAction::Start), Some(power(PowerState::Running)));
        assert_eq!(change("Paused", "Paused", PowerAction::Start), Some(power(PowerState::Running)));
        assert_eq!(change("Running", "Running", PowerAction::Stop), Some(power(PowerState::Stopped)));
        assert_eq!(change("Running", "Running", PowerAction::Pause), Some(power(PowerState::Paused)));
        assert_eq!(change("Paused", "Paused", PowerAction::Resume), Some(power(PowerState::Running)));
    }

    #[test]
    fn a_guest_that_went_off_by_itself_is_started_by_a_restart() {
        let restart = Some(Change { restart: true, ..Change::default() });
        assert_eq!(change("Running", "Stopped", PowerAction::Start), restart);
        assert_eq!(change("Running", "Error", PowerAction::Start), restart);
        assert_eq!(change("Running", "Running", PowerAction::Restart), restart);
        let restart_and_run = Some(Change { restart: true, ..power(PowerState::Running) });
        assert_eq!(change("Stopped", "Stopped", PowerAction::Restart), restart_and_run);
    }

    #[test]
    fn pulling_the_plug_hastens_a_stop() {
        let plug = Change { power_off: true, ..Change::default() };
        assert_eq!(change("Stopped", "Stopping", PowerAction::PowerOff), Some(plug));
        let plug_and_stay = Change { power_off: true, ..power(PowerState::Stopped) };
        assert_eq!(change("Running", "Running", PowerAction::PowerOff), Some(plug_and_stay));
    }

    #[test]
    fn what_an_off_machine_cannot_do_is_a_conflict() {
        for action in [PowerAction::Pause, PowerAction::Resume, PowerAction::Reset] {
            assert_eq!(change("Stopped", "Stopped", action), None, "{action:?}");
        }
        assert_eq!(change("Running", "Stopped", PowerAction::Pause), None);
        assert_eq!(change("Running", "Pending", PowerAction::Reset), None);
        let mut deleting = vm("Running", "Running");
        deleting.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(decide(&deleting, PowerAction::Start), Err(Refusal::Deleting));
    }

    #[test]
    fn patches_raise_counters_and_hold_only_for_what_was_read() {
        let change = Change { restart: true, ..power(PowerState::Running) };
        let expected = json!({
            "metadata": { "uid": "u", "resourceVersion": "7" },
            "spec": { "powerState": "Running", "requests": { "restart": 5 } },
        });
        assert_eq!(change.patch(&vm("Stopped", "Stopped")), expected);
    }
}
