//! Whether the disks of a clone can be copied now, and if not, why. Pure.

use kvmoor_crds::{names, quantity};

use super::super::desired::{Identity, Machine};
use super::super::disks;
use super::super::hypervisor::libvirt::VolumeCopy;
use super::super::hypervisor::{DiskFacts, DomainFacts};
use super::super::plan::Blocked;
use super::copier::Order;
use super::record::Record;

/// Reason of the condition while the disks are copied: no failure, only a wait.
pub const COPYING: &str = "Copying";
/// Reason of the condition: the source is on.
const SOURCE_RUNNING: &str = "SourceRunning";
/// Reason of the condition: the source is not there yet, or changes.
pub const SOURCE_NOT_READY: &str = "SourceNotReady";
/// Reason of the condition: the snapshot is not taken yet.
const SNAPSHOT_PENDING: &str = "SnapshotPending";

/// Whether a reason is that of a wait for what others do, and no failure.
pub fn is_wait(reason: &str) -> bool {
    [COPYING, SOURCE_RUNNING, SOURCE_NOT_READY, SNAPSHOT_PENDING].contains(&reason)
}

/// Where a clone without domain stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cloned {
    /// It was not looked at.
    #[default]
    Unknown,
    /// It has its disks already, and had a domain with them.
    HasDisks,
    /// All copies are there.
    Whole(Record),
    /// They are not; that is why.
    Waits(Blocked),
}

/// The snapshot that a clone is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// There is none of that name, or not of this source.
    Missing,
    /// It is not taken yet.
    Pending,
    /// It is there, by that name in libvirt.
    Ready(String),
}

/// What is known of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Which virtual machine it is; `None` where there is none of the name on this host, or where it is being deleted.
    pub identity: Option<Identity>,
    /// The snapshot, where the spec names one.
    pub snapshot: Option<SnapshotState>,
    /// Its domain.
    pub domain: DomainFacts,
    /// Its disks; none where they cannot be looked at.
    pub disks: Option<DiskFacts>,
}

fn blocked(reason: &'static str, message: String) -> Blocked {
    Blocked { reason, message }
}

/// What to copy, or why not now.
pub fn obstacle(machine: &Machine, source: &SourceFacts) -> Result<Order, Blocked> {
    let (name, snapshot) = match &machine.source {
        Some(source) => (source.vm_name.as_str(), source.snapshot_name.as_deref()),
        None => return Err(blocked(COPYING, "It is no clone".to_owned())),
    };
    let not_ready =
        |why: &str| Err(blocked(SOURCE_NOT_READY, format!("Its source {name} {why}; it goes on when that is over")));
    let Some(identity) = &source.identity else {
        let message = format!(
            "There is no virtual machine {name} to copy the disks from, or it is being deleted: make this one anew from another"
        );
        return Err(blocked("SourceMissing", message));
    };
    let domain = match &source.domain {
        DomainFacts::Ours(domain) => domain,
        DomainFacts::Missing | DomainFacts::Foreign(_) => return not_ready("has no disks yet"),
    };
    if domain.metadata.restoring.is_some() || domain.metadata.settling.is_some() {
        return not_ready("is being changed");
    }
    if domain.power.is_active() {
        let message = format!("Its source {name} is on: stop it, and the disks are copied when it is off");
        return Err(blocked(SOURCE_RUNNING, message));
    }
    let apply = match (&source.snapshot, snapshot.unwrap_or_default()) {
        (None, _) => None,
        (Some(SnapshotState::Ready(libvirt_name)), _) => Some(libvirt_name.clone()),
        (Some(SnapshotState::Pending), snapshot) => {
            let message = format!("The snapshot {snapshot} is not taken yet; it goes on when it is");
            return Err(blocked(SNAPSHOT_PENDING, message));
        }
        (Some(SnapshotState::Missing), snapshot) => {
            let message = format!("Its source {name} has no snapshot {snapshot}: make this one anew from another");
            return Err(blocked("SnapshotMissing", message));
        }
    };
    let Some(facts) = &source.disks else { return not_ready("has disks that cannot be looked at") };
    let Some(root) = facts.size(&names::root_volume(&identity.uid)) else {
        return not_ready("has no root disk in the storage pool");
    };
    if machine.root.is_explicit && machine.root.capacity < root {
        return Err(too_small("disk.size", name, root));
    }
    let mut sum = root.max(machine.root.capacity);
    let copy = |from: String, to: &str, size| VolumeCopy { from, to: to.to_owned(), size };
    let mut copied = Vec::new();
    for disk in &machine.disks {
        let from = names::extra_volume(&identity.uid, &disk.name);
        match facts.size(&from) {
            Some(size) if disk.capacity < size => {
                return Err(too_small(&format!("the size of the disk {}", disk.name), name, size));
            }
            Some(size) => copied.push((disk.name.clone(), copy(from, &disk.volume, size))),
            None => {}
        }
        sum = sum.saturating_add(disk.capacity);
    }
    disks::within(machine, sum)?;
    let root = copy(names::root_volume(&identity.uid), &machine.root.volume, root);
    Ok(Order { source: identity.clone(), clone: machine.identity.clone(), root, disks: copied, apply })
}

fn too_small(field: &str, source: &str, size: u64) -> Blocked {
    let size = quantity::from_bytes(size).0;
    let message = format!(
        "The disk of its source {source} has {size}, which is larger than {field}: raise that to {size} at least"
    );
    blocked("DiskTooSmall", message)
}

#[cfg(test)]
mod tests {
    use super::super::super::desired::CloneOf;
    use super::super::super::hypervisor::{Domain, OffCause, Power};
    use super::super::super::metadata::{Metadata, Settling};
    use super::super::super::plan::tests::machine;
    use super::*;

    const SOURCE: &str = "11111111-1111-1111-1111-111111111111";

    fn clone(snapshot: Option<&str>) -> Machine {
        let mut machine = machine();
        machine.source = Some(CloneOf { vm_name: "template".into(), snapshot_name: snapshot.map(str::to_owned) });
        machine
    }

    fn domain(power: Power, metadata: Metadata) -> DomainFacts {
        DomainFacts::Ours(Box::new(Domain {
            power,
            metadata,
            cpu: 1,
            memory_mib: 64,
            leases: Vec::new(),
            agent: false,
            attached: Vec::new(),
        }))
    }

    fn off() -> Power {
        Power::Off(OffCause::Shutdown)
    }

    /// A source that is off, with a root disk of 10 bytes and the disk `data` of 5.
    fn source() -> SourceFacts {
        let sizes = vec![(names::root_volume(SOURCE), 10), (names::extra_volume(SOURCE, "data"), 5)];
        SourceFacts {
            identity: Some(Identity { uid: SOURCE.into(), namespace: "ns".into(), name: "template".into() }),
            snapshot: None,
            domain: domain(off(), Metadata::default()),
            disks: Some(DiskFacts { sizes, ..DiskFacts::default() }),
        }
    }

    #[test]
    fn the_root_disk_is_copied_and_those_of_the_same_names() {
        let mut machine = clone(None);
        let order = obstacle(&machine, &source()).unwrap();
        let root = VolumeCopy { from: names::root_volume(SOURCE), to: "root".into(), size: 10 };
        let data = VolumeCopy { from: names::extra_volume(SOURCE, "data"), to: "data".into(), size: 5 };
        assert_eq!((order.root, order.disks, order.apply), (root, vec![("data".to_owned(), data)], None));
        machine.disks[0].name = "other".into();
        assert_eq!(obstacle(&machine, &source()).unwrap().disks, []);
        let ready = SourceFacts { snapshot: Some(SnapshotState::Ready("kvmoor-s".into())), ..source() };
        assert_eq!(obstacle(&clone(Some("s")), &ready).unwrap().apply.as_deref(), Some("kvmoor-s"));
    }

    #[test]
    fn says_why_not_and_which_of_it_is_a_wait() {
        let restoring = Metadata { restoring: Some("r".into()), ..Metadata::default() };
        let settling = Metadata { settling: Some(Settling::default()), ..Metadata::default() };
        let cases = [
            (SourceFacts { identity: None, ..source() }, "SourceMissing", false),
            (SourceFacts { domain: DomainFacts::Missing, ..source() }, "SourceNotReady", true),
            (SourceFacts { domain: domain(off(), restoring), ..source() }, "SourceNotReady", true),
            (SourceFacts { domain: domain(off(), settling), ..source() }, "SourceNotReady", true),
            (SourceFacts { domain: domain(Power::Paused, Metadata::default()), ..source() }, "SourceRunning", true),
            (SourceFacts { disks: None, ..source() }, "SourceNotReady", true),
            (SourceFacts { disks: Some(DiskFacts::default()), ..source() }, "SourceNotReady", true),
            (SourceFacts { snapshot: Some(SnapshotState::Pending), ..source() }, "SnapshotPending", true),
            (SourceFacts { snapshot: Some(SnapshotState::Missing), ..source() }, "SnapshotMissing", false),
        ];
        for (facts, reason, waits) in cases {
            let blocked = obstacle(&clone(Some("s")), &facts).unwrap_err();
            assert_eq!((blocked.reason, is_wait(blocked.reason)), (reason, waits), "{}", blocked.message);
        }
    }

    #[test]
    fn no_disk_shrinks_nor_is_larger_than_admitted() {
        let mut machine = clone(None);
        machine.root.is_explicit = true;
        machine.root.capacity = 9;
        let blocked = obstacle(&machine, &source()).unwrap_err();
        assert!(blocked.reason == "DiskTooSmall" && blocked.message.contains("disk.size"), "{}", blocked.message);
        machine.root.is_explicit = false;
        machine.disk_admitted = 15;
        assert!(obstacle(&machine, &source()).is_ok());
        machine.disk_admitted = 14;
        assert_eq!(obstacle(&machine, &source()).unwrap_err().reason, disks::NOT_ADMITTED);
        machine.disks[0].capacity = 4;
        let blocked = obstacle(&machine, &source()).unwrap_err();
        assert!(blocked.reason == "DiskTooSmall" && blocked.message.contains("data"), "{}", blocked.message);
    }
}
