//! A clone: from copies of its source's disks to a domain like any other.
//!
//! The domain is made only of whole copies, and with `settling` recorded in it. While that is there it is not started:
//! its disks go back to the snapshot that was asked for, lose all that are in them, and grow. Each of these done twice is
//! done once, but for going back after the snapshot was deleted: so what was gone back to is recorded before.

use std::time::Duration;

use jiff::Timestamp;
use kvmoor_crds::names;

use super::super::clones::{Cloned, Record};
use super::super::desired::Machine;
use super::super::hypervisor::Domain;
use super::super::metadata::{Metadata, Settling};
use super::super::observe::Facts;
use super::{Plan, Step};

/// Disks that could not be looked at are looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What to do about a clone without domain.
pub fn creation(machine: &Machine, facts: &Facts, now: Timestamp) -> Plan {
    match &facts.cloned {
        Cloned::Unknown => Plan { requeue_after: Some(LOOK_AGAIN), ..Plan::default() },
        Cloned::HasDisks => super::creation(machine, facts, now),
        Cloned::Waits(blocked) => Plan { blocked: Some(blocked.clone()), ..Plan::default() },
        Cloned::Whole(record) => of_copies(machine, facts, record),
    }
}

/// The domain has the disks that were copied. What else the spec names is made and attached as to any other.
fn of_copies(machine: &Machine, facts: &Facts, record: &Record) -> Plan {
    let made =
        machine.config(&facts.host, &record.disks).and_then(|config| Ok((config, super::full_seed(machine, facts)?)));
    let (config, seed) = match made {
        Ok(made) => made,
        Err(blocked) => return Plan { blocked: Some(blocked), ..Plan::default() },
    };
    let settling = Settling { apply: record.apply.clone(), snapshots: record.snapshots.clone() };
    let fresh = super::fresh(machine, &config, &seed, record.disks.clone());
    let metadata = Metadata { settling: Some(settling), ..fresh };
    let steps = vec![Step::WriteSeed(seed), Step::Define(Box::new(config), Box::new(metadata))];
    Plan { steps, ..Plan::default() }
}

/// What to do about one whose disks are not yet what they are to be.
pub fn settle(machine: &Machine, facts: &Facts, domain: &Domain) -> Plan {
    let mut metadata = domain.metadata.clone();
    let Settling { apply, snapshots } = metadata.settling.take().unwrap_or_default();
    let mut steps = Vec::new();
    if domain.power.is_active() {
        // Somebody else has started it.
        steps.push(Step::Destroy);
    }
    let recorded = |settling| Step::Record(Box::new(Metadata { settling, ..metadata.clone() }));
    if let Some(snapshot) = apply {
        steps.push(Step::GoBack(snapshot));
        steps.push(recorded(Some(Settling { apply: None, snapshots: snapshots.clone() })));
    }
    if !snapshots.is_empty() {
        steps.push(Step::ForgetSnapshots(snapshots));
        steps.push(recorded(Some(Settling::default())));
    }
    if !steps.is_empty() {
        return Plan { steps, ..Plan::default() };
    }
    let Some(disks) = &facts.disks else { return Plan { requeue_after: Some(LOOK_AGAIN), ..Plan::default() } };
    let root = std::iter::once((&machine.root.volume, machine.root.capacity));
    let all = root.chain(machine.disks.iter().map(|disk| (&disk.volume, disk.capacity)));
    let smaller = all.filter(|(volume, capacity)| disks.size(volume).is_some_and(|size| size < *capacity));
    steps.extend(smaller.map(|(volume, capacity)| Step::GrowDisk { volume: volume.clone(), bytes: capacity }));
    steps.push(Step::DeleteVolume(names::clone_record(&machine.identity.uid)));
    steps.push(recorded(None));
    Plan { steps, ..Plan::default() }
}

#[cfg(test)]
#[path = "clone_tests.rs"]
mod tests;
