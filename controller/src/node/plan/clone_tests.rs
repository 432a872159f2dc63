//! A model of a clone's disks: whatever crashes when, no guest starts from disks that are not what was asked for.

use std::collections::BTreeSet;

use kvmoor_crds::names;
use proptest::prelude::*;

use super::super::tests::{at, host, machine};
use super::*;
use crate::node::desired::{CloneOf, Desired};
use crate::node::guest_data::Told;
use crate::node::hypervisor::{DiskFacts, DomainFacts, OffCause, Power};
use crate::node::observe::Observed;
use crate::node::plan::{Blocked, plan};

fn clone() -> Machine {
    let mut machine = machine();
    machine.source = Some(CloneOf { vm_name: "template".into(), snapshot_name: None });
    machine
}

fn facts(domain: DomainFacts, cloned: Cloned, disks: Option<DiskFacts>) -> Observed {
    Observed::Complete(Box::new(Facts {
        host: host(),
        domain,
        image: None,
        import: None,
        room: None,
        disks,
        cloned,
        volumes: Vec::new(),
        addresses: None,
        remembered: Default::default(),
        told: Told::Data(Default::default()),
    }))
}

fn decide(cloned: Cloned) -> Plan {
    plan(&Desired::Present(Box::new(clone())), &facts(DomainFacts::Missing, cloned, None), at(0))
}

fn steps(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::name).collect()
}

#[test]
fn no_disk_is_made_blank_in_the_place_of_a_copy() {
    assert_eq!(steps(&decide(Cloned::Unknown)), [""; 0]);
    let blocked = Blocked { reason: "SourceRunning", message: "it is on".into() };
    let waits = decide(Cloned::Waits(blocked.clone()));
    assert_eq!((steps(&waits), waits.blocked), (vec![], Some(blocked)));
    let whole = decide(Cloned::Whole(Record { is_whole: true, ..Record::default() }));
    assert_eq!(steps(&whole), ["WriteSeed", "Define"]);
}

#[test]
fn one_that_has_lost_its_domain_keeps_its_disks() {
    let plan = decide(Cloned::HasDisks);
    assert_eq!(steps(&plan), ["WriteSeed", "EnsureVolume", "EnsureVolume", "Define", "Start", "Record"]);
}

/// The clone on its host, from the moment in which its copies are whole.
#[derive(Debug)]
struct Model {
    record: Option<Record>,
    metadata: Option<Metadata>,
    power: Power,
    /// Whether the disks hold what they held when the snapshot was taken.
    is_of_snapshot: bool,
    snapshots: BTreeSet<String>,
    root: u64,
    has_data: bool,
}

impl Model {
    fn observe(&self) -> Observed {
        let attached = if self.power.is_active() { vec!["root".into(), "data".into()] } else { Vec::new() };
        let domain = self.metadata.as_ref().map_or(DomainFacts::Missing, |metadata| {
            DomainFacts::Ours(Box::new(Domain {
                power: self.power.clone(),
                metadata: metadata.clone(),
                cpu: 1,
                memory_mib: 256,
                leases: Vec::new(),
                agent: false,
                attached,
            }))
        });
        let data = self.has_data.then(|| ("data".to_owned(), 5));
        let sizes = [("root".to_owned(), self.root)].into_iter().chain(data).collect();
        let disks = DiskFacts { sizes, snapshots: 0 };
        facts(domain, self.record.clone().map_or(Cloned::HasDisks, Cloned::Whole), Some(disks))
    }

    fn apply(&mut self, step: &Step, wanted: &Record) {
        match step {
            Step::WriteSeed(_) => {}
            Step::Define(_, metadata) | Step::Record(metadata) => self.metadata = Some((**metadata).clone()),
            Step::GoBack(name) => {
                assert!(!self.power.is_active() && self.snapshots.contains(name), "there is nothing to go back to");
                (self.is_of_snapshot, self.root) = (true, 7);
            }
            Step::ForgetSnapshots(names) => self.snapshots.retain(|name| !names.contains(name)),
            Step::GrowDisk { volume, bytes } => {
                assert!(volume == "root" && *bytes > self.root);
                self.root = *bytes;
            }
            Step::EnsureVolume(volume) => self.has_data |= volume.name == "data",
            Step::DeleteVolume(name) => {
                assert_eq!(*name, names::clone_record(&machine().identity.uid), "no disk is deleted");
                self.record = None;
            }
            Step::Start { .. } => {
                assert!(!self.power.is_active(), "started twice");
                assert_eq!(self.is_of_snapshot, wanted.apply.is_some(), "started from the wrong disks");
                assert_eq!((self.snapshots.len(), self.root, self.has_data, &self.record), (0, 10, true, &None));
                self.power = Power::Running;
            }
            Step::Destroy => self.power = Power::Off(OffCause::Other),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn it_starts_from_the_disks_that_were_asked_for_whatever_crashes_when(
        snapshots in prop::collection::btree_set("s[0-9]", 0..4),
        goes_back in any::<bool>(),
        has_data in any::<bool>(),
        root in 5_u64..=10,
        mut crashes in prop::collection::vec(0_usize..6, 0..16),
    ) {
        let record = Record {
            is_whole: true,
            disks: if has_data { vec!["data".into()] } else { Vec::new() },
            apply: snapshots.first().filter(|_| goes_back).cloned(),
            snapshots: snapshots.iter().cloned().collect(),
        };
        let mut model = Model {
            record: Some(record.clone()), metadata: None, power: Power::Off(OffCause::Other), is_of_snapshot: false,
            snapshots, root, has_data,
        };
        let desired = Desired::Present(Box::new(Machine { nics: Vec::new(), ..clone() }));
        for round in 0.. {
            prop_assert!(round < 60, "does not end: {model:?}");
            let decided = plan(&desired, &model.observe(), at(0));
            if decided.steps.is_empty() && decided.disks.is_empty() {
                break;
            }
            let end = crashes.pop().unwrap_or(usize::MAX);
            decided.steps.iter().chain(&decided.disks).take(end).for_each(|step| model.apply(step, &record));
        }
        prop_assert_eq!(model.power, Power::Running);
        prop_assert_eq!(model.metadata.unwrap().settling, None);
    }
}
