//! Growing a guest that runs: what it is to have more of, and the domain has room for, is plugged in. What it has no room
//! for, and all that becomes less, waits for a restart.

use super::super::desired::Machine;
use super::super::hypervisor::{Domain, Power};
use super::super::observe::Facts;
use super::Step;

/// What of the running guest differs from what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Differing {
    /// The CPUs do.
    pub cpu: bool,
    /// The memory does.
    pub memory: bool,
}

/// Compares. What is off differs in nothing: the next start gives it what is wanted.
pub fn differing(machine: &Machine, domain: &Domain) -> Differing {
    let is_on = domain.power.is_active();
    Differing { cpu: is_on && domain.cpu != machine.cpu, memory: is_on && domain.memory_mib != machine.memory_mib }
}

/// Whether the domain's room must be known to decide.
pub fn may_grow(machine: &Machine, domain: &Domain) -> bool {
    domain.power == Power::Running && (domain.cpu < machine.cpu || domain.memory_mib < machine.memory_mib)
}

/// The steps, CPUs first.
pub fn steps(machine: &Machine, domain: &Domain, facts: &Facts) -> Vec<Step> {
    let Some(room) = facts.room.filter(|_| may_grow(machine, domain)) else { return Vec::new() };
    let mut steps = Vec::new();
    if domain.cpu < machine.cpu && room.has_cpus(machine.cpu) {
        steps.push(Step::GrowCpus(machine.cpu));
    }
    if domain.memory_mib < machine.memory_mib && room.has_memory(domain.memory_mib, machine.memory_mib) {
        steps.push(Step::GrowMemory(machine.memory_mib));
    }
    steps
}
