//! What to do next about a virtual machine's snapshots and restores: `decide(…)`. Pure and total, like `plan`.
//!
//! One operation at a time, the oldest first, and only while the domain is what its spec asks for. A restore goes
//!
//! ```text
//!   begin: `restoring` is recorded ──> revert ──> `restored` is there ──> told in its status
//! ```
//!
//! While `restoring` is recorded nothing else is done with the domain. `restored` comes with the revert itself (see
//! `snapshot_xml`), so that a process that ends anywhere knows afterwards whether the restore was done: it is done once.

use jiff::Timestamp;
use kvmoor_crds::{Firmware, PowerState};

use super::desired::Machine;
use super::execute::Failure;
use super::hypervisor::{Domain, Power, Resumption};
use super::metadata::Metadata;
use super::snapshot_xml::SnapshotFacts;

/// An operation that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// UID of the snapshot's or restore's object.
    pub uid: String,
    /// Name of the snapshot in libvirt.
    pub libvirt_name: String,
    /// What is to be done.
    pub kind: Kind,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Take the snapshot.
    Take {
        /// Whether the memory of a guest that is on belongs to it.
        include_memory: bool,
    },
    /// Delete it.
    Delete,
    /// Bring the virtual machine back to it.
    Restore,
}

/// What to do about an operation now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet: the domain is changing.
    Wait,
    /// Take the snapshot.
    Take {
        /// With the guest's file systems frozen by its agent.
        frozen: bool,
    },
    /// Delete the snapshot.
    Delete,
    /// Record that the restore begins, or that it is given up.
    Record(Box<Metadata>),
    /// Bring the domain back.
    Revert {
        /// The domain's metadata after it.
        metadata: Box<Metadata>,
        /// Whether it runs after it.
        resumption: Resumption,
    },
    /// It is over; that is to be told.
    Over(Outcome),
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The snapshot is there.
    Taken(SnapshotFacts),
    /// The snapshot is not there any more.
    Deleted,
    /// The virtual machine is what it was.
    Restored,
    /// It cannot be done.
    Failed {
        /// Reason of the condition.
        reason: &'static str,
        /// A sentence that the user can act on.
        message: String,
    },
}

impl Decision {
    fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Over(Outcome::Failed { reason, message: message.into() })
    }
}

/// Decides. `given_up` is the failure after which the operation is not tried again.
pub fn decide(
    machine: &Machine,
    domain: &Domain,
    boot_id: &str,
    operation: &Operation,
    snapshot: Option<&SnapshotFacts>,
    given_up: Option<Failure>,
    now: Timestamp,
) -> Decision {
    let metadata = &domain.metadata;
    let is_begun = metadata.restoring.as_ref() == Some(&operation.uid);
    if let Some(decision) = over(operation, metadata, snapshot) {
        return if is_begun { without_restoring(metadata) } else { decision };
    }
    if let Some(Failure { reason, message, .. }) = given_up {
        return if is_begun { without_restoring(metadata) } else { Decision::failed(reason, message) };
    }
    if !is_begun && is_changing(machine, domain) {
        return Decision::Wait;
    }
    match (operation.kind, snapshot) {
        (Kind::Take { include_memory }, _) => take(machine, domain, include_memory),
        (Kind::Delete, _) => Decision::Delete,
        (Kind::Restore, None) => Decision::Wait,
        (Kind::Restore, Some(snapshot)) => match unfit(machine, snapshot) {
            Some(_) if is_begun => without_restoring(metadata),
            Some(message) => Decision::failed("MoreThanAdmitted", message),
            None if is_begun => revert(machine, metadata, boot_id, operation, snapshot, now),
            None => Decision::Record(Box::new(Metadata { restoring: Some(operation.uid.clone()), ..metadata.clone() })),
        },
    }
}

/// The metadata of a domain whose restore is not going to happen.
pub fn without_restoring(metadata: &Metadata) -> Decision {
    Decision::Record(Box::new(Metadata { restoring: None, ..metadata.clone() }))
}

/// The outcome, if there is nothing left to do.
fn over(operation: &Operation, metadata: &Metadata, snapshot: Option<&SnapshotFacts>) -> Option<Decision> {
    let outcome = match (operation.kind, snapshot) {
        (Kind::Take { .. }, Some(facts)) => Outcome::Taken(facts.clone()),
        (Kind::Delete, None) => Outcome::Deleted,
        (Kind::Restore, _) if metadata.restored.as_ref() == Some(&operation.uid) => Outcome::Restored,
        (Kind::Restore, None) => Outcome::Failed {
            reason: "SnapshotMissing",
            message: "The host does not have the snapshot any more; delete it and take another.".to_owned(),
        },
        _ => return None,
    };
    Some(Decision::Over(outcome))
}

/// Whether the domain is between two states, so that how it ends up is not known.
fn is_changing(machine: &Machine, domain: &Domain) -> bool {
    let is_on = domain.power.is_active();
    domain.metadata.restoring.is_some()
        || domain.metadata.settling.is_some()
        || domain.metadata.stopping.is_some()
        || matches!(domain.power, Power::Busy | Power::GoingDown)
        || (is_on && machine.power == PowerState::Stopped)
}

fn take(machine: &Machine, domain: &Domain, include_memory: bool) -> Decision {
    if machine.firmware != Firmware::Bios {
        return Decision::failed(
            "FirmwareUnsupported",
            "libvirt cannot take snapshots of guests with UEFI firmware; only those with BIOS can have them.",
        );
    }
    if domain.power.is_active() && !include_memory {
        return Decision::failed(
            "MemoryNeeded",
            "A snapshot of a guest that is on always holds its memory; set includeMemory, or stop it before.",
        );
    }
    // One that does not thaw is not to freeze. Halted, it cannot.
    Decision::Take { frozen: domain.agent && domain.power == Power::Running && domain.metadata.freeze.is_none() }
}

/// Why the guest cannot be what it was within what it is admitted with now.
fn unfit(machine: &Machine, snapshot: &SnapshotFacts) -> Option<String> {
    // Without memory it starts with what it has now.
    let fits = !snapshot.has_memory || (snapshot.cpu <= machine.cpu && snapshot.memory_mib <= machine.memory_mib);
    (!fits).then(|| {
        format!(
            "The guest had {} CPUs and {} MiB of memory when the snapshot was taken, and has {} and {} MiB now; \
             resize it to at least that, then restore again.",
            snapshot.cpu, snapshot.memory_mib, machine.cpu, machine.memory_mib
        )
    })
}

/// The metadata after the revert has the requests of now, not those of then: what was done is not done again.
fn revert(
    machine: &Machine,
    present: &Metadata,
    boot_id: &str,
    operation: &Operation,
    snapshot: &SnapshotFacts,
    now: Timestamp,
) -> Decision {
    let mut metadata = Metadata {
        config: snapshot.config.clone(),
        restoring: None,
        restored: Some(operation.uid.clone()),
        // What its memory was frozen with, it is frozen with again.
        freeze: snapshot.freeze.filter(|_| snapshot.has_memory),
        ..present.clone()
    };
    let resumption = if snapshot.has_memory {
        metadata.forget_run();
        metadata.started = Some(boot_id.to_owned());
        metadata.started_at = Some(now.as_millisecond());
        match machine.power {
            PowerState::Running => Resumption::Running,
            PowerState::Paused => Resumption::Paused,
            PowerState::Stopped => {
                // A snapshot with memory comes back on; it is turned off at once.
                metadata.stopping = Some(0);
                Resumption::Paused
            }
        }
    } else {
        // A guest that went off by itself stays off; any other is started by the plan, with what it has now.
        if metadata.halted.is_none() {
            metadata.forget_run();
        }
        Resumption::Off
    };
    Decision::Revert { metadata: Box::new(metadata), resumption }
}

#[cfg(test)]
mod tests;
