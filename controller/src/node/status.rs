//! What to say of a virtual machine: the part of its status that this controller owns.
//!
//! Pure. Said from what was observed after the steps, what was wanted, and what failed; status is written when a step
//! failed, too.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kvmoor_crds::conditions::{self, Finding, Truth, types};
use kvmoor_crds::{Phase, PhaseTransition, PowerState, Requests, ResourcesInForce, VirtualMachineStatus, quantity};

use super::clones::{self, BEING_CLONED};
use super::desired::{Desired, Machine};
use super::execute::Failure;
use super::hypervisor::{Class, Domain, DomainFacts, HvError, Power};
use super::images::IMPORTING;
use super::metadata::Halt;
use super::observe::{Facts, Observed};
use super::{disk_steps, disks, plan};

mod guest;
mod restart_required;
mod trouble;

use restart_required::{is_growth, restart_required};
pub use trouble::{CRASH_LOOP, halt_reason};

/// The condition types that this controller writes.
const OWNED: [&str; 9] = [
    types::READY,
    types::PROVISIONED,
    types::SYNCHRONIZED,
    types::RESTART_REQUIRED,
    types::DISK_ERROR,
    types::ADDRESS_ERROR,
    types::GUEST_CRASHED,
    types::GUEST_AGENT_CONNECTED,
    types::RELEASED,
];
/// Steps and obstacles that are about disks of a domain that is there.
const OF_DISKS: [&str; 7] = [
    "GrowDisk",
    "AttachDisk",
    "DetachDisk",
    "DeleteVolume",
    disks::NOT_ADMITTED,
    disks::IN_SNAPSHOT,
    disk_steps::UNCONFIRMED,
];
/// Those that are told of only once they have been true.
const QUIET: [&str; 4] = [types::DISK_ERROR, types::ADDRESS_ERROR, types::GUEST_CRASHED, types::GUEST_AGENT_CONNECTED];

/// The status to be, before it has times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    phase: Phase,
    message: String,
    findings: Vec<Finding>,
}

/// The owned part of the status that follows; `previous` is the whole status of before, `generation` the spec's.
pub fn of(
    desired: &Desired,
    observed: &Observed,
    failure: Option<&Failure>,
    previous: &VirtualMachineStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> VirtualMachineStatus {
    let facts = match observed {
        Observed::Unreachable(error) => return unknown(error, previous, now),
        Observed::Complete(facts) => facts,
    };
    let report = match (desired, &facts.domain) {
        (Desired::Absent { .. }, _) => deleting(facts, failure),
        (Desired::Present(machine), DomainFacts::Ours(domain)) => {
            let mut report = present(machine, domain, failure, now);
            report.findings.push(trouble::address(facts.addresses.as_ref()));
            report.findings.extend(guest::agent(domain, &facts.remembered, &previous.conditions));
            report
        }
        (Desired::Present(_), DomainFacts::Missing | DomainFacts::Foreign(_)) => not_defined(failure),
    };
    let mut status = owned(previous);
    status.observed_generation = generation;
    status.addresses = Vec::new();
    status.guest_os_info = None;
    status.started_at = None;
    if let Desired::Present(machine) = desired {
        let before = previous.resources.as_ref().and_then(|resources| resources.disk.clone());
        let disk = facts.disks.as_ref().map(|disks| {
            quantity::from_bytes(disks.sizes.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size)))
        });
        status.resources = Some(resources(machine, &facts.domain, disk.or(before)));
        if let DomainFacts::Ours(domain) = &facts.domain {
            let metadata = &domain.metadata;
            status.requests = Some(Requests {
                restart: metadata.restart,
                reset: metadata.reset,
                power_off: metadata.power_off,
                reprovision: metadata.reprovision,
            });
            if domain.power.is_active() {
                let started_at = metadata.started_at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
                status.started_at = started_at.map(conditions::whole_seconds);
                // Not to be told now what was told of this run does not make it untrue.
                let known = Some(previous).filter(|previous| status.started_at == previous.started_at);
                let known_addresses = known.map(|known| known.addresses.as_slice()).unwrap_or_default();
                let guest = &facts.remembered.guest;
                status.addresses = guest::addresses(machine, domain, guest, known_addresses);
                let said = guest.report.as_ref().map(|report| report.os.clone());
                status.guest_os_info = said.or_else(|| known.and_then(|known| known.guest_os_info.clone()));
            }
        }
    }
    render(status, report, previous, generation, now)
}

/// The status of an object whose spec cannot be followed. What runs goes on running.
pub fn invalid(
    message: &str,
    previous: &VirtualMachineStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> VirtualMachineStatus {
    let reason = conditions::reasons::INVALID_SPEC;
    let report = Report {
        phase: Phase::Error,
        message: message.to_owned(),
        findings: vec![
            Finding::new(types::SYNCHRONIZED, false, reason, message),
            Finding::new(types::READY, false, reason, message),
        ],
    };
    let mut status = owned(previous);
    status.observed_generation = generation;
    render(status, report, previous, generation, now)
}

/// The status while a step takes long, from what was observed before it.
pub fn interim(
    desired: &Desired,
    observed: &Observed,
    previous: &VirtualMachineStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<VirtualMachineStatus> {
    let (Desired::Present(machine), Observed::Complete(facts)) = (desired, observed) else {
        return Some(of(desired, observed, None, previous, generation, now));
    };
    let (phase, message) = match &facts.domain {
        DomainFacts::Missing if machine.power == PowerState::Stopped => {
            (Phase::Provisioning, "Its disks are being made.")
        }
        DomainFacts::Missing => (Phase::Starting, "Its disks are being made, then it starts."),
        DomainFacts::Ours(domain) if domain.power.is_active() => {
            return Some(of(desired, observed, None, previous, generation, now));
        }
        DomainFacts::Ours(_) if machine.power != PowerState::Stopped => (Phase::Starting, "It is being started."),
        _ => return None,
    };
    let findings = vec![Finding::new(types::READY, false, phase.as_str(), message)];
    Some(render(owned(previous), Report { phase, message: message.to_owned(), findings }, previous, generation, now))
}

/// Whether two owned parts say the same, whenever it came about.
pub fn same(left: &VirtualMachineStatus, right: &VirtualMachineStatus) -> bool {
    // Without `..`: a new field must be decided on here.
    let VirtualMachineStatus {
        id: _,
        phase,
        message,
        observed_generation,
        conditions,
        admitted: _,
        resources,
        addresses,
        guest_os_info,
        requests,
        started_at,
        phase_transition_times: _,
    } = left;
    *phase == right.phase
        && *message == right.message
        && *observed_generation == right.observed_generation
        && *resources == right.resources
        && *addresses == right.addresses
        && *guest_os_info == right.guest_os_info
        && *requests == right.requests
        && *started_at == right.started_at
        && conditions.len() == right.conditions.len()
        && conditions.iter().all(|condition| {
            conditions::find(&right.conditions, &condition.type_)
                .is_some_and(|other| conditions::same(condition, other))
        })
}

/// The part of a status that this controller owns.
pub fn owned(status: &VirtualMachineStatus) -> VirtualMachineStatus {
    VirtualMachineStatus {
        id: None,
        admitted: None,
        conditions: status
            .conditions
            .iter()
            .filter(|condition| OWNED.contains(&condition.type_.as_str()))
            .cloned()
            .collect(),
        ..status.clone()
    }
}

/// Puts a report into the owned part: conditions that it does not speak of stay as they were.
fn render(
    mut status: VirtualMachineStatus,
    report: Report,
    previous: &VirtualMachineStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> VirtualMachineStatus {
    for finding in report.findings {
        let is_news = finding.status != Truth::False || conditions::find(&previous.conditions, finding.type_).is_some();
        if !is_news && QUIET.contains(&finding.type_) {
            continue;
        }
        let condition: Condition = finding.into_condition(&previous.conditions, generation, now);
        status.conditions.retain(|old| old.type_ != condition.type_);
        status.conditions.push(condition);
    }
    if previous.phase != Some(report.phase) || status.phase_transition_times.is_empty() {
        let time: Time = conditions::whole_seconds(now);
        status.phase_transition_times.retain(|entry| entry.phase != report.phase);
        status.phase_transition_times.push(PhaseTransition { phase: report.phase, time });
    }
    status.phase = Some(report.phase);
    status.message = Some(report.message);
    status
}

fn unknown(error: &HvError, previous: &VirtualMachineStatus, now: Timestamp) -> VirtualMachineStatus {
    let (reason, message) = match error.class {
        Class::PoolMissing => ("StoragePoolUnavailable", "The host's storage pool cannot be read"),
        _ if error.is_unreachable() => ("LibvirtUnavailable", "libvirt on the host does not answer"),
        _ => ("ObservationFailed", "libvirt on the host does not say"),
    };
    let message = format!("{message}, so how it is is not known: {}", error.message);
    let finding = |type_| Finding::new(type_, Truth::Unknown, reason, message.as_str());
    let findings = vec![finding(types::SYNCHRONIZED), finding(types::READY)];
    let report = Report { phase: Phase::Unknown, message: message.clone(), findings };
    // Nothing is said of the spec, so it stays the generation of before.
    render(owned(previous), report, previous, previous.observed_generation, now)
}

fn deleting(facts: &Facts, failure: Option<&Failure>) -> Report {
    let gone = facts.domain == DomainFacts::Missing && facts.volumes.is_empty();
    let mut findings = Vec::new();
    let message = match failure {
        Some(failure) => {
            findings.push(Finding::new(types::SYNCHRONIZED, false, failure.reason, failure.message.as_str()));
            findings.push(Finding::new(types::RELEASED, false, failure.reason, failure.message.as_str()));
            failure.message.clone()
        }
        None if gone => {
            findings.push(Finding::new(types::RELEASED, true, "Released", "Domain and volumes are gone."));
            "Domain and volumes are gone.".to_owned()
        }
        None => "Domain and volumes are being deleted.".to_owned(),
    };
    findings.push(Finding::new(types::READY, false, "Deleting", message.as_str()));
    Report { phase: Phase::Deleting, message, findings }
}

fn not_defined(failure: Option<&Failure>) -> Report {
    let Some(failure) = failure else {
        // Only while steps are being done; the next observation finds the domain.
        let message = "Its disks are being made.".to_owned();
        let findings = vec![Finding::new(types::READY, false, "Provisioning", message.as_str())];
        return Report { phase: Phase::Provisioning, message, findings };
    };
    let finding = |type_| Finding::new(type_, false, failure.reason, failure.message.as_str());
    if failure.reason == IMPORTING || clones::is_wait(failure.reason) {
        let findings = vec![finding(types::READY), finding(types::PROVISIONED)];
        return Report { phase: Phase::Provisioning, message: failure.message.clone(), findings };
    }
    let mut findings = vec![finding(types::SYNCHRONIZED), finding(types::READY)];
    let is_volume = matches!(failure.step, "WriteSeed" | "EnsureVolume" | "PoolFull" | "StoragePoolUnavailable");
    let named = ["Image", "Disk", "UserData", "Source", "Snapshot", "Copy"];
    if is_volume || named.iter().any(|named| failure.step.starts_with(named)) {
        findings.push(finding(types::PROVISIONED));
    }
    Report { phase: Phase::Error, message: failure.message.clone(), findings }
}

fn present(machine: &Machine, domain: &Domain, failure: Option<&Failure>, now: Timestamp) -> Report {
    // Not to get more while it runs is no failure of a guest that will have it at its next start.
    let (growth, unmet) = (failure.filter(|failure| is_growth(failure)), failure.filter(|failure| !is_growth(failure)));
    // A disk that does not come or go leaves the guest as well as it was.
    let failure = unmet.filter(|failure| !is_of_disks(failure, domain));
    let (phase, message) = phase(machine, domain, failure, now);
    let as_wanted = match (machine.power, phase) {
        (PowerState::Running, Phase::Running)
        | (PowerState::Paused, Phase::Paused)
        | (PowerState::Stopped, Phase::Stopped) => failure.is_none(),
        _ => false,
    };
    let own_reason = || trouble::reason(machine, domain, now).unwrap_or(phase.as_str());
    let ready_reason = failure.map_or_else(own_reason, |failure| failure.reason);
    let synchronized = match unmet {
        Some(failure) => Finding::new(types::SYNCHRONIZED, false, failure.reason, failure.message.as_str()),
        None => Finding::new(types::SYNCHRONIZED, true, "Synchronized", ""),
    };
    let mut findings = vec![
        Finding::new(types::READY, as_wanted, ready_reason, message.as_str()),
        provisioned(machine, domain),
        synchronized,
        restart_required(machine, domain, growth),
    ];
    findings.extend(trouble::findings(domain));
    Report { phase, message, findings }
}

/// Whether it is about disks of a domain that is there, and not needed for its start.
fn is_of_disks(failure: &Failure, domain: &Domain) -> bool {
    let is_volume = failure.step == "EnsureVolume" && domain.power.is_active();
    is_volume || OF_DISKS.contains(&failure.step)
}

fn phase(machine: &Machine, domain: &Domain, failure: Option<&Failure>, now: Timestamp) -> (Phase, String) {
    let going = domain.metadata.stopping.is_some() || machine.power == PowerState::Stopped;
    let said = |phase: Phase, text: &str| (phase, text.to_owned());
    if domain.metadata.settling.is_some() {
        let said = said(Phase::Provisioning, "Its copied disks are being made ready.");
        return failure.map_or(said, |failure| (Phase::Error, failure.message.clone()));
    }
    if domain.metadata.restoring.is_some() {
        return said(Phase::Restoring, "It is being brought back to a snapshot.");
    }
    match &domain.power {
        power if power.is_active() && going => said(Phase::Stopping, "The guest was asked to shut down."),
        Power::Running => said(Phase::Running, "The guest runs."),
        Power::Busy if machine.power == PowerState::Paused => said(Phase::Paused, "The guest's CPUs are halted."),
        Power::Busy => said(Phase::Starting, "The guest's CPUs are about to run."),
        Power::Paused => said(Phase::Paused, "The guest's CPUs are halted."),
        Power::Asleep => said(Phase::Paused, "The guest put itself to sleep; restart it, or wake it on its console."),
        Power::GoingDown => said(Phase::Stopping, "The guest is shutting down."),
        Power::DiskError(trouble) => (Phase::Error, trouble::disk_sentence(trouble)),
        Power::Panicked => said(Phase::Error, "The guest's kernel panicked."),
        Power::Stuck(why) => {
            (Phase::Error, format!("The guest's CPUs are halted: {why}. When that is mended, restart it."))
        }
        Power::Off(_) if machine.power == PowerState::Stopped => said(Phase::Stopped, "The guest is off."),
        Power::Off(_) => off(machine, domain, failure, now),
    }
}

/// The guest is off, and is not to be.
fn off(machine: &Machine, domain: &Domain, failure: Option<&Failure>, now: Timestamp) -> (Phase, String) {
    if let Some(failure) = failure {
        let phase = if failure.reason == BEING_CLONED { Phase::Starting } else { Phase::Error };
        return (phase, failure.message.clone());
    }
    let metadata = &domain.metadata;
    let due = plan::restart_due(machine.restart_policy, metadata);
    match (metadata.halted, due) {
        (None, _) => (Phase::Starting, "It is being started.".to_owned()),
        (Some(Halt::Guest), None) => {
            (Phase::Stopped, "The guest powered itself off; restart it to start it again.".to_owned())
        }
        (Some(halt), None) => {
            let what = trouble::halt_sentence(halt);
            (Phase::Error, format!("{what}, and restartPolicy leaves it off; restart it to start it again."))
        }
        (Some(_), Some(due)) if due <= now => (Phase::Starting, "It is being started again.".to_owned()),
        (Some(halt), Some(due)) => {
            let what = trouble::halt_sentence(halt);
            let times = metadata.crashes;
            let at = conditions::whole_seconds(due).0;
            (Phase::Error, format!("{what} ({times} in a row); it is started again at {at}."))
        }
    }
}

fn provisioned(machine: &Machine, domain: &Domain) -> Finding {
    if domain.metadata.settling.is_some() {
        let message = "Its copied disks are being made ready.";
        return Finding::new(types::PROVISIONED, false, clones::COPYING, message);
    }
    match (&machine.root.unknown_os, &machine.root.image, &domain.metadata.image) {
        (Some(os), _, None) => Finding::new(
            types::PROVISIONED,
            true,
            "BlankDisk",
            format!("There was no Image {os}, so the root disk is blank."),
        ),
        (None, Some(image), None) => Finding::new(
            types::PROVISIONED,
            true,
            "BlankDisk",
            format!("There was no Image {} when the root disk was made, so it is blank.", image.name),
        ),
        _ => Finding::new(types::PROVISIONED, true, "Provisioned", ""),
    }
}

fn resources(machine: &Machine, domain: &DomainFacts, disk: Option<Quantity>) -> ResourcesInForce {
    let (cpu, memory_mib) = match domain {
        DomainFacts::Ours(domain) if domain.power.is_active() => (domain.cpu, domain.memory_mib),
        _ => (machine.cpu, machine.memory_mib),
    };
    ResourcesInForce { cpu: i32::try_from(cpu).unwrap_or(i32::MAX), memory: quantity::from_mib(memory_mib), disk }
}

#[cfg(test)]
mod tests;
