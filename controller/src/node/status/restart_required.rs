//! `RestartRequired`: what of the spec the running guest does not have.

use kvmoor_crds::conditions::{Finding, types};

use super::super::desired::Machine;
use super::super::execute::{DISK_NEEDS_RESTART, Failure};
use super::super::hypervisor::Domain;
use super::super::plan::{Differing, differing};

/// Steps whose failure leaves the guest as it is, to be what is asked at the next restart.
const GROWTH: [&str; 2] = ["GrowCpus", "GrowMemory"];

/// Whether the guest could not be given more while it runs.
pub fn is_growth(failure: &Failure) -> bool {
    GROWTH.contains(&failure.step) || failure.reason == DISK_NEEDS_RESTART
}

/// The condition; `failure` is of the last attempt to give the running guest more.
pub fn restart_required(machine: &Machine, domain: &Domain, failure: Option<&Failure>) -> Finding {
    let Differing { cpu, memory } = differing(machine, domain);
    let seed = domain.metadata.seed.as_ref().is_some_and(|seed| *seed != machine.seed.fingerprint());
    let disks = failure.is_some_and(|failure| failure.reason == DISK_NEEDS_RESTART);
    let cloud_init = seed && domain.power.is_active();
    let names = [("cpu", cpu), ("memory", memory), ("disks", disks), ("cloudInit", cloud_init)];
    let names: Vec<&str> = names.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if names.is_empty() {
        return Finding::new(types::RESTART_REQUIRED, false, "UpToDate", "");
    }
    let mut message = format!("Takes effect at the next restart: {}.", names.join(", "));
    if let Some(failure) = failure {
        message.push_str(&format!(" {}.", failure.message));
    }
    Finding::new(types::RESTART_REQUIRED, true, "SpecChanged", message)
}
