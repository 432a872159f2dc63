//! Disks of a domain that exists: those that grow, come and go while it is there. Pure; a part of `plan`.
//!
//! A disk only grows, and only as far as the quota was charged for it. One that the spec no longer names is detached and
//! deleted, data included: its name was recorded in the domain's metadata before it was made, so it is known until it is
//! gone, whatever crashes when. While the domain has snapshots no disk is taken away from it: they could not be restored
//! without it.
//!
//! ```text
//!   recorded ──> volume ──> attached          not wanted: detached ──> volume deleted ──> name forgotten
//! ```

use kvmoor_crds::{names, quantity};

use super::desired::{Extra, Machine};
use super::domain_xml::{Disk, DiskFormat};
use super::hypervisor::{DiskFacts, Domain, Power};
use super::metadata::Metadata;
use super::plan::{Blocked, Step};
use super::volume_xml::Volume;

/// Reason of the condition: the disks together are larger than what the virtual machine was admitted with.
pub const NOT_ADMITTED: &str = "DiskNotAdmitted";
/// Reason of the condition: the domain's snapshots hold the disk that is to go.
pub const IN_SNAPSHOT: &str = "DiskInSnapshot";

/// What to do about the disks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskPlan {
    /// Volumes that are to be made, before anything that needs them.
    pub volumes: Vec<Step>,
    /// What is to be done with disks whose volumes are there.
    pub steps: Vec<Step>,
    /// The names of the disks that the domain can be started with when the volumes are made.
    pub usable: Vec<String>,
    /// The names of the disks that are left when all is done.
    pub left: Vec<String>,
    /// What stands in the way.
    pub blocked: Option<Blocked>,
}

/// The disks that are, or may be, there: those that were recorded and those that are wanted.
pub fn known(machine: &Machine, metadata: &Metadata) -> Vec<String> {
    let mut known = metadata.disks.clone();
    known.extend(machine.disks.iter().map(|disk| disk.name.clone()));
    known.sort();
    known.dedup();
    known
}

/// What is done while nothing is known of the disks, or while the domain changes: nothing.
pub fn unknown(machine: &Machine, metadata: &Metadata) -> DiskPlan {
    let usable = machine.disks.iter().map(|disk| disk.name.clone()).collect();
    DiskPlan { usable, left: known(machine, metadata), ..DiskPlan::default() }
}

/// Decides.
pub fn plan(machine: &Machine, metadata: &Metadata, facts: &DiskFacts, domain: &Domain) -> DiskPlan {
    let mut plan = unknown(machine, metadata);
    // What is about to change is looked at when it has changed.
    if !matches!(domain.power, Power::Running | Power::Paused | Power::Off(_)) {
        return plan;
    }
    // A pool without the root disk is not the pool that it was: nothing new is made in it, and nothing is missed.
    if facts.size(&machine.root.volume).is_none() {
        return plan;
    }
    let more = more(machine, facts, &domain.attached);
    match admitted(machine, metadata, facts) {
        Err(blocked) if !more.is_empty() => plan.blocked = Some(blocked),
        _ => (plan.volumes, plan.steps) = more.into_iter().partition(|step| matches!(step, Step::EnsureVolume(_))),
    }
    let will_be_there = |disk: &Extra| plan.blocked.is_none() || facts.size(&disk.volume).is_some();
    let usable: Vec<&Extra> = machine.disks.iter().filter(|disk| will_be_there(disk)).collect();
    if domain.power.is_active() {
        let attached = |disk: &Extra| domain.attached.contains(&disk.volume);
        plan.steps.extend(usable.iter().filter(|disk| !attached(disk)).map(|disk| attach(disk)));
    }
    plan.usable = usable.into_iter().map(|disk| disk.name.clone()).collect();
    shed(machine, facts, &domain.attached, &mut plan);
    plan
}

/// Whether so many bytes of disks were admitted.
pub fn within(machine: &Machine, sum: u64) -> Result<(), Blocked> {
    if sum <= machine.disk_admitted {
        return Ok(());
    }
    let (sum, admitted) = (quantity::from_bytes(sum).0, quantity::from_bytes(machine.disk_admitted).0);
    let message = format!(
        "Its disks are to have {sum} together, those still to be deleted included, and it is admitted with {admitted}: \
         the condition Admitted says whether there is room in the quota"
    );
    Err(Blocked { reason: NOT_ADMITTED, message })
}

/// Whether all disks are within what was admitted, each as large as it is or is to be. What is to go counts until it is
/// gone, or a guest that lets nothing go could collect disks.
fn admitted(machine: &Machine, metadata: &Metadata, facts: &DiskFacts) -> Result<(), Blocked> {
    let present = |volume: &str| facts.size(volume).unwrap_or_default();
    let mut sum = present(&machine.root.volume).max(machine.root.capacity);
    for name in known(machine, metadata) {
        let wanted = machine.disks.iter().find(|disk| disk.name == name).map_or(0, |disk| disk.capacity);
        let volume = names::extra_volume(&machine.identity.uid, &name);
        sum = sum.saturating_add(present(&volume).max(wanted));
    }
    within(machine, sum)
}

/// What is to be made, and what is to be made larger.
fn more(machine: &Machine, facts: &DiskFacts, attached: &[String]) -> Vec<Step> {
    let root = std::iter::once((&machine.root.volume, machine.root.capacity));
    let all = root.chain(machine.disks.iter().map(|disk| (&disk.volume, disk.capacity)));
    let step = |(volume, capacity): (&String, u64)| match facts.size(volume) {
        Some(size) if size >= capacity => None,
        Some(_) => Some(Step::GrowDisk { volume: volume.clone(), bytes: capacity }),
        // Somebody took it away under the guest, which still has it.
        None if attached.contains(volume) => None,
        None => Some(Step::EnsureVolume(Volume {
            name: volume.clone(),
            capacity,
            format: DiskFormat::Qcow2,
            backing: None,
        })),
    };
    all.filter_map(step).collect()
}

fn attach(disk: &Extra) -> Step {
    Step::AttachDisk(Disk {
        volume: disk.volume.clone(),
        format: DiskFormat::Qcow2,
        serial: Some(disk.name.clone()),
        read_only: false,
    })
}

/// Takes away what is not wanted any more.
fn shed(machine: &Machine, facts: &DiskFacts, attached: &[String], plan: &mut DiskPlan) {
    let wanted = |name: &String| machine.disks.iter().any(|disk| disk.name == *name);
    let (left, going): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.left).into_iter().partition(wanted);
    plan.left = left;
    for name in going {
        let volume = names::extra_volume(&machine.identity.uid, &name);
        let is_attached = attached.contains(&volume);
        let is_there = facts.size(&volume).is_some();
        if (is_attached || is_there) && facts.snapshots > 0 {
            let message = format!(
                "The disk {name} is not deleted while there are snapshots, which could not be restored without it: \
                 delete them first, or put the disk back into the spec"
            );
            plan.blocked.get_or_insert(Blocked { reason: IN_SNAPSHOT, message });
            plan.left.push(name);
            continue;
        }
        if is_attached {
            plan.steps.push(Step::DetachDisk(volume.clone()));
        }
        if is_there {
            plan.steps.push(Step::DeleteVolume(volume));
        }
    }
    plan.left.sort();
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
