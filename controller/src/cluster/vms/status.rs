//! The status that the cluster controller writes: its own fields, and whether they differ from what stands there. Pure.
//!
//! It is written by server-side apply, so every write has all fields of this writer: what is left out would be removed.
//! `phase`, `message` and `Ready` change hands between this controller and the host's; see [`Voice`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kvmoor_crds::conditions::{Finding, Truth, find, types};
use kvmoor_crds::{AdmittedResources, Phase, VirtualMachine, VirtualMachineStatus, names, quantity};
use serde_json::{Value, json};

use super::view::Vm;
use crate::cluster::resources::Resources;
use crate::warnings::Warning;

/// What the fields of this writer should be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desired {
    /// What the quota is charged for.
    pub admitted: Option<Resources>,
    /// Size of the root disk where the class says it, in bytes. It is decided with `admitted` and does not change after.
    pub root_disk: Option<u64>,
    /// `Admitted`; as it stands where there is nothing to say.
    pub admission: Option<Finding>,
    /// `Scheduled`; as it stands where there is nothing to say.
    pub scheduled: Option<Finding>,
    /// `HostReachable`; as it stands where there is nothing to say.
    pub reachable: Option<Finding>,
    /// Phase, message and Ready.
    pub voice: Voice,
}

/// Who speaks for the virtual machine in `phase`, `message` and `Ready`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Voice {
    /// Its host. What this controller said before stays until the host says something.
    #[default]
    Host,
    /// This controller, because there is no host or it is lost.
    Say {
        /// The phase.
        phase: Phase,
        /// Why.
        message: String,
        /// The condition `Ready`.
        ready: Finding,
    },
}

/// How much a status differs from what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not at all, but for times.
    None,
    /// Only in the words of messages, such as how much of a quota is used: worth a write, but not at once.
    Words,
    /// In what programs read.
    Facts,
}

/// How much the desired status differs from the one that stands there.
pub fn compare(vm: &Vm, desired: &Desired) -> Change {
    let Desired { admitted, root_disk: _, admission, scheduled, reachable, voice } = desired;
    let mut change = Change::None;
    if vm.id().is_none() || vm.admitted != *admitted {
        change = Change::Facts;
    }
    for finding in [admission, scheduled, reachable].into_iter().flatten() {
        change = change.max(compare_condition(vm.condition(finding.type_), finding));
    }
    let judged = vm.condition(types::ADMITTED).and_then(|condition| condition.observed_generation);
    if admission.is_some() && judged.is_some_and(|judged| judged < vm.requested_since) {
        change = Change::Facts;
    }
    if let Voice::Say { phase, message, ready } = voice {
        let status = vm.object.status.as_ref();
        if status.and_then(|status| status.phase) != Some(*phase) {
            change = Change::Facts;
        } else if status.and_then(|status| status.message.as_ref()) != Some(message) {
            change = change.max(Change::Words);
        }
        change = change.max(compare_condition(vm.condition(types::READY), ready));
    }
    change
}

fn compare_condition(before: Option<&Condition>, finding: &Finding) -> Change {
    match before {
        Some(before) if before.status == finding.status.as_str() && before.reason == finding.reason => {
            if before.message == finding.message { Change::None } else { Change::Words }
        }
        _ => Change::Facts,
    }
}

/// What to warn of besides: refusals that were not said before. Who waits for a verdict gets it as an answer.
pub fn warnings(vm: &Vm, desired: &Desired) -> Vec<Warning> {
    let Desired { admitted: _, root_disk: _, admission, scheduled, reachable, voice: _ } = desired;
    let is_answered = vm.object.annotations().contains_key(names::REFUSE_OVER_QUOTA_ANNOTATION);
    let admission = admission.as_ref().filter(|_| !is_answered || vm.admitted.is_some());
    let said = [("Admit", admission), ("Schedule", scheduled.as_ref()), ("Watch", reachable.as_ref())];
    let refusals = said.into_iter().filter_map(|(action, finding)| Some((action, finding?)));
    refusals
        .filter(|(_, finding)| finding.status == Truth::False)
        .filter(|(_, finding)| compare_condition(vm.condition(finding.type_), finding) == Change::Facts)
        .map(|(action, finding)| Warning { action, reason: finding.reason, note: finding.message.clone() })
        .collect()
}

/// The body of the apply to `/status`. It holds only for the version that was judged.
pub fn document(vm: &Vm, desired: &Desired, id: i64, now: Timestamp) -> Value {
    let Desired { admitted, root_disk, admission, scheduled, reachable, voice } = desired;
    let before = vm.conditions();
    let make = |finding: &Finding| finding.clone().into_condition(before, Some(vm.generation()), now);
    let mut conditions = Vec::new();
    for (type_, finding) in
        [(types::ADMITTED, admission), (types::SCHEDULED, scheduled), (types::HOST_REACHABLE, reachable)]
    {
        conditions.extend(finding.as_ref().map(make).or_else(|| find(before, type_).cloned()));
    }
    let (mut phase, mut message) = (None, None);
    match voice {
        Voice::Say { phase: said, message: words, ready } => {
            (phase, message) = (Some(*said), Some(words.clone()));
            conditions.push(make(ready));
        }
        Voice::Host if vm.owns_phase => {
            let status = vm.object.status.as_ref();
            phase = status.and_then(|status| status.phase);
            message = status.and_then(|status| status.message.clone());
            conditions.extend(find(before, types::READY).cloned());
        }
        Voice::Host => {}
    }
    let status = VirtualMachineStatus {
        id: Some(id),
        phase,
        message,
        conditions,
        admitted: admitted.map(|admitted| AdmittedResources {
            cpu: i32::try_from(admitted.cpu).unwrap_or(i32::MAX),
            memory: quantity::from_bytes(admitted.memory),
            disk: quantity::from_bytes(admitted.disk),
            root_disk: root_disk.map(quantity::from_bytes),
        }),
        ..VirtualMachineStatus::default()
    };
    json!({
        "apiVersion": <VirtualMachine as kube::Resource>::api_version(&()),
        "kind": <VirtualMachine as kube::Resource>::kind(&()),
        "metadata": { "name": vm.name, "namespace": vm.namespace, "resourceVersion": vm.version },
        "status": status,
    })
}
