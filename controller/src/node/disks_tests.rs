//! Tables of what is done about disks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::desired::{Desired, Extra};
use super::super::guest_data::Told;
use super::super::hypervisor::{Domain, DomainFacts, OffCause};
use super::super::observe::{Facts, Observed};
use super::super::plan;
use super::super::plan::tests::{at, host, machine, started};
use super::*;

const GIB: u64 = 1 << 30;

fn off() -> Power {
    Power::Off(OffCause::Shutdown)
}

/// A machine with a root disk of 10 GiB and the disk `data` of 5 GiB.
fn wanted() -> Machine {
    let mut machine = machine();
    machine.root.capacity = 10 * GIB;
    machine.disk_admitted = 15 * GIB;
    let disk = machine.disks.first_mut().unwrap();
    (disk.volume, disk.name, disk.capacity) = (volume("data"), "data".into(), 5 * GIB);
    machine
}

fn volume(name: &str) -> String {
    names::extra_volume(&machine().identity.uid, name)
}

fn recorded(names: &[&str]) -> Metadata {
    Metadata { disks: names.iter().map(|name| (*name).to_owned()).collect(), ..Metadata::default() }
}

/// All is there as wanted.
fn facts() -> DiskFacts {
    DiskFacts { sizes: vec![("root".into(), 10 * GIB), (volume("data"), 5 * GIB)], snapshots: 0 }
}

/// The domain in that state, with these volumes.
fn domain(power: Power, attached: Vec<String>) -> Domain {
    let (metadata, leases) = (Metadata::default(), Vec::new());
    Domain { power, metadata, cpu: 1, memory_mib: 256, leases, agent: false, attached }
}

/// The domain in that state, with all disks if it is on.
fn whole(power: Power) -> Domain {
    let attached = if power.is_active() { vec!["root".into(), volume("data")] } else { Vec::new() };
    domain(power, attached)
}

/// The domain, running without the disk `data`.
fn without_data() -> Domain {
    domain(Power::Running, vec!["root".into()])
}

fn steps(machine: &Machine, metadata: &Metadata, facts: &DiskFacts, domain: &Domain) -> Vec<&'static str> {
    let plan = super::plan(machine, metadata, facts, domain);
    plan.volumes.iter().chain(&plan.steps).map(Step::name).collect()
}

#[test]
fn nothing_is_done_where_all_is_as_wanted() {
    let done = super::plan(&wanted(), &recorded(&["data"]), &facts(), &whole(Power::Running));
    let names = vec!["data".to_owned()];
    assert_eq!(done, DiskPlan { left: names.clone(), usable: names, ..DiskPlan::default() });
}

#[test]
fn disks_grow_on_and_off_and_never_shrink() {
    let mut machine = wanted();
    machine.root.capacity = 12 * GIB;
    machine.disks[0].capacity = 6 * GIB;
    machine.disk_admitted = 18 * GIB;
    for power in [Power::Running, Power::Paused, off()] {
        let plan = super::plan(&machine, &recorded(&["data"]), &facts(), &whole(power.clone()));
        assert_eq!(
            plan.steps,
            [
                Step::GrowDisk { volume: "root".into(), bytes: 12 * GIB },
                Step::GrowDisk { volume: volume("data"), bytes: 6 * GIB }
            ]
        );
    }
    machine.root.capacity = GIB;
    machine.disks[0].capacity = GIB;
    assert_eq!(steps(&machine, &recorded(&["data"]), &facts(), &whole(Power::Running)), [] as [&str; 0]);
}

#[test]
fn growth_waits_until_it_is_admitted() {
    let mut machine = wanted();
    machine.root.capacity = 11 * GIB;
    let held = super::plan(&machine, &recorded(&["data"]), &facts(), &whole(Power::Running));
    assert_eq!(held.steps, []);
    let blocked = held.blocked.unwrap();
    assert_eq!(blocked.reason, NOT_ADMITTED);
    assert!(blocked.message.contains("16Gi") && blocked.message.contains("15Gi"), "{}", blocked.message);
}

#[test]
fn a_disk_that_is_not_admitted_keeps_no_other_from_the_guest() {
    let mut machine = wanted();
    machine.disks.push(Extra { volume: volume("more"), name: "more".into(), capacity: GIB });
    let held = super::plan(&machine, &recorded(&["data", "more"]), &facts(), &without_data());
    assert_eq!(held.blocked.as_ref().unwrap().reason, NOT_ADMITTED);
    assert_eq!((held.volumes.len(), held.usable), (0, vec!["data".to_owned()]));
    assert_eq!(held.steps.iter().map(Step::name).collect::<Vec<_>>(), ["AttachDisk"]);
}

#[test]
fn what_was_made_before_more_was_charged_for_stands_in_no_way() {
    let machine = Machine { disk_admitted: GIB, ..wanted() };
    let plan = super::plan(&machine, &recorded(&["data"]), &facts(), &whole(off()));
    assert_eq!((plan.blocked, plan.steps.len()), (None, 0));
}

#[test]
fn a_disk_that_is_not_gone_yet_counts() {
    let mut machine = wanted();
    let more = Extra { volume: volume("more"), name: "more".into(), capacity: 5 * GIB };
    machine.disks = vec![more];
    let plan = super::plan(&machine, &recorded(&["data"]), &facts(), &whole(Power::Running));
    assert_eq!(plan.blocked.as_ref().unwrap().reason, NOT_ADMITTED);
    assert_eq!(plan.steps.iter().map(Step::name).collect::<Vec<_>>(), ["DetachDisk", "DeleteVolume"]);
    let mut gone = facts();
    gone.sizes.pop();
    assert_eq!(steps(&machine, &recorded(&["data"]), &gone, &without_data()), ["EnsureVolume", "AttachDisk"]);
}

#[test]
fn a_new_disk_is_made_and_attached_to_what_runs() {
    let mut facts = facts();
    facts.sizes.pop();
    assert_eq!(steps(&wanted(), &recorded(&["data"]), &facts, &without_data()), ["EnsureVolume", "AttachDisk"]);
    assert_eq!(
        steps(&wanted(), &recorded(&["data"]), &facts, &whole(off())),
        ["EnsureVolume"],
        "the next start attaches it"
    );
    facts.sizes.push((volume("data"), 5 * GIB));
    assert_eq!(steps(&wanted(), &recorded(&["data"]), &facts, &without_data()), ["AttachDisk"], "after a crash");
}

#[test]
fn what_is_not_wanted_is_detached_deleted_and_forgotten() {
    let mut machine = wanted();
    machine.disks.clear();
    let mut facts = facts();
    let plan_of = |facts: &DiskFacts, domain: &Domain| super::plan(&machine, &recorded(&["data"]), facts, domain);
    assert_eq!(
        plan_of(&facts, &whole(Power::Running)),
        DiskPlan {
            steps: vec![Step::DetachDisk(volume("data")), Step::DeleteVolume(volume("data"))],
            ..DiskPlan::default()
        }
    );
    assert_eq!(plan_of(&facts, &whole(off())).steps, [Step::DeleteVolume(volume("data"))]);
    facts.sizes.pop();
    assert_eq!(plan_of(&facts, &without_data()), DiskPlan::default(), "only its name is left to forget");
}

#[test]
fn no_disk_is_taken_from_snapshots() {
    let mut machine = wanted();
    machine.disks.clear();
    let facts = DiskFacts { snapshots: 1, ..facts() };
    let held = super::plan(&machine, &recorded(&["data"]), &facts, &whole(Power::Running));
    assert_eq!((held.steps.len(), held.left), (0, vec!["data".to_owned()]));
    assert_eq!(held.blocked.unwrap().reason, IN_SNAPSHOT);
}

#[test]
fn a_pool_that_lost_disks_is_left_alone() {
    let mut machine = wanted();
    machine.disks.clear();
    let without_root = DiskFacts { sizes: vec![(volume("data"), 5 * GIB)], ..facts() };
    assert_eq!(steps(&machine, &recorded(&["data"]), &without_root, &whole(off())), [] as [&str; 0]);
    let mut lost_data = facts();
    lost_data.sizes.pop();
    assert_eq!(steps(&wanted(), &recorded(&["data"]), &lost_data, &whole(Power::Running)), [] as [&str; 0]);
}

#[test]
fn nothing_is_done_to_what_is_changing() {
    let mut machine = wanted();
    machine.disks.clear();
    for power in [Power::Busy, Power::GoingDown, Power::Stuck("x".into()), Power::Asleep] {
        assert_eq!(steps(&machine, &recorded(&["data"]), &facts(), &whole(power.clone())), [] as [&str; 0]);
        assert_eq!(
            super::plan(&machine, &recorded(&["data"]), &facts(), &whole(power.clone())).left,
            ["data"],
            "nor forgotten"
        );
    }
}

/// A running domain, as libvirt would have it.
#[derive(Debug, Clone)]
struct Model {
    metadata: Metadata,
    sizes: BTreeMap<String, u64>,
    attached: BTreeSet<String>,
}

impl Model {
    fn observe(&self) -> Observed {
        let domain = Domain {
            power: Power::Running,
            metadata: self.metadata.clone(),
            cpu: 1,
            memory_mib: 256,
            leases: Vec::new(),
            agent: false,
            attached: self.attached.iter().cloned().collect(),
        };
        let disks = DiskFacts { sizes: self.sizes.clone().into_iter().collect(), snapshots: 0 };
        Observed::Complete(Box::new(Facts {
            host: host(),
            domain: DomainFacts::Ours(Box::new(domain)),
            image: None,
            disks: Some(disks),
            import: None,
            cloned: Default::default(),
            volumes: Vec::new(),
            room: None,
            addresses: None,
            remembered: Default::default(),
            told: Told::NotAsked,
        }))
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Define(_, metadata) | Step::Record(metadata) => self.metadata = (**metadata).clone(),
            Step::EnsureVolume(volume) => {
                let name = volume.name.strip_prefix(&volume_prefix()).unwrap().strip_suffix(".qcow2").unwrap();
                assert!(self.metadata.disks.contains(&name.to_owned()), "made before it was recorded: {name}");
                self.sizes.entry(volume.name.clone()).or_insert(volume.capacity);
            }
            Step::GrowDisk { volume, bytes } => {
                assert!(self.sizes.insert(volume.clone(), *bytes).unwrap() < *bytes, "shrunk");
            }
            Step::AttachDisk(disk) => {
                assert!(self.sizes.contains_key(&disk.volume) && self.attached.insert(disk.volume.clone()));
            }
            Step::DetachDisk(volume) => assert!(self.attached.remove(volume)),
            Step::DeleteVolume(volume) => {
                assert!(!self.attached.contains(volume), "deleted under the guest");
                assert!(self.sizes.remove(volume).is_some());
            }
            other => panic!("{other:?}"),
        }
    }
}

fn volume_prefix() -> String {
    volume("").trim_end_matches(".qcow2").to_owned()
}

fn with_disks(disks: &BTreeMap<String, u64>) -> Machine {
    let disks =
        disks.iter().map(|(name, capacity)| Extra { volume: volume(name), name: name.clone(), capacity: *capacity });
    Machine { disks: disks.collect(), nics: Vec::new(), ..wanted() }
}

proptest! {
    /// Through any specs one after another, with the process ending after any step: what is there is what the last asks.
    #[test]
    fn disks_converge_whatever_crashes_when(
        specs in prop::collection::vec(prop::collection::btree_map("[a-d]", GIB..4 * GIB, 0..4), 1..5),
        mut crashes in prop::collection::vec(0_usize..4, 0..12),
    ) {
        let mut model = Model {
            metadata: started(&with_disks(&BTreeMap::new())),
            sizes: BTreeMap::from([("root".into(), 10 * GIB)]),
            attached: BTreeSet::from(["root".into()]),
        };
        for spec in &specs {
            let machine = Machine { disk_admitted: u64::MAX, ..with_disks(spec) };
            let desired = Desired::Present(Box::new(machine.clone()));
            for round in 0.. {
                prop_assert!(round < 40, "does not end");
                let decided = plan::plan(&desired, &model.observe(), at(0));
                if decided.steps.is_empty() && decided.disks.is_empty() {
                    break;
                }
                let end = crashes.pop().unwrap_or(usize::MAX);
                decided.steps.iter().chain(&decided.disks).take(end).for_each(|step| model.apply(step));
            }
            let names: Vec<String> = spec.keys().cloned().collect();
            prop_assert_eq!(&model.metadata.disks, &names);
            for (name, size) in spec {
                prop_assert!(model.sizes[&volume(name)] >= *size && model.attached.contains(&volume(name)));
            }
            prop_assert_eq!(model.sizes.len(), spec.len() + 1);
            prop_assert_eq!(model.attached.len(), spec.len() + 1);
        }
    }
}
