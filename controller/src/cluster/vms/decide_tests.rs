use std::collections::BTreeMap;

use kvmoor_crds::VirtualMachine;
use kvmoor_crds::conditions::find;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cluster::mirror::View as _;
use crate::cluster::vms::admission::DEFAULT_LIMITS;

const GIB: u64 = 1 << 30;
const NOW: &str = "2026-01-01T00:01:00Z";

/// A virtual machine, with `extra` merged over its object.
fn vm(name: &str, cpu: u64, extra: Value) -> Vm {
    let mut object = json!({
        "apiVersion": "kvmoor.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "cpu": cpu, "memory": "1Gi" },
    });
    merge(&mut object, extra);
    let object: VirtualMachine = serde_json::from_value(object).unwrap();
    Vm::of(object, None)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn admitted(cpu: u64) -> Value {
    json!({ "cpu": cpu, "memory": "1Gi", "disk": "10Gi" })
}

/// What its status is once it is admitted and bound to `host`.
fn bound(name: &str, cpu: u64, host: &str) -> Vm {
    let condition = |type_: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        })
    };
    let scheduled = format!("placed on host {host}");
    vm(
        name,
        cpu,
        json!({
            "metadata": { "finalizers": ["kvmoor.dev/host"], "generation": 2 },
            "spec": { "nodeName": host },
            "status": {
                "id": 1,
                "admitted": admitted(cpu),
                "conditions": [
                    condition("Admitted", "WithinQuota", "within quota"),
                    condition("Scheduled", "Placed", &scheduled),
                ],
            },
        }),
    )
}

fn row(vm: &Vm) -> Row<'_> {
    Row { vm, assumed: None, is_busy: false }
}

fn host(name: &str, cpu: u64) -> Candidate {
    Candidate {
        name: name.to_owned(),
        liveness: Liveness::Live,
        libvirt_connected: true,
        cordoned: false,
        labels: Some(BTreeMap::new()),
        architecture: None,
        features: Vec::new(),
        capacity: Resources { cpu, memory: 1000 * GIB, disk: 0 },
        allocated: Resources::default(),
    }
}

fn snapshot(vms: Vec<Row<'_>>) -> Snapshot<'_> {
    Snapshot {
        vms,
        now: NOW.parse().unwrap(),
        limits: BTreeMap::new(),
        default_limits: DEFAULT_LIMITS,
        hosts: vec![host("n1", 100)],
        liveness: BTreeMap::from([("n1".to_owned(), Liveness::Live)]),
        images: BTreeMap::new(),
        classes: BTreeMap::new(),
    }
}

fn of<'d>(decisions: &'d [Decision], uid: &str) -> &'d Decision {
    decisions.iter().find(|decision| decision.uid == uid).unwrap()
}

fn desired(decision: &Decision) -> &Desired {
    &decision.status.as_ref().unwrap().1
}

/// One whose maker waits for the verdict, refused at that time.
fn refused_at(time: &str) -> Vm {
    let verdict = json!({
        "type": "Admitted", "status": "False", "reason": "QuotaExceeded", "message": "quota exceeded: by far",
        "lastTransitionTime": time, "observedGeneration": 1,
    });
    let annotations = json!({ "kvmoor.dev/refuse-over-quota": "true" });
    vm("a", 2, json!({ "metadata": { "annotations": annotations }, "status": { "id": 1, "conditions": [verdict] } }))
}

#[test]
fn what_its_maker_was_refused_stays_refused_though_there_is_room() {
    let vm = refused_at("2026-01-01T00:00:50Z");
    let (decisions, usage) = decide(snapshot(vec![row(&vm)]));
    assert!(decisions.iter().all(|decision| decision.bind.is_none() && !decision.delete), "{decisions:?}");
    assert!(usage.is_empty(), "{usage:?}");
    assert_eq!(deleted_at(&vm), Some("2026-01-01T00:01:10Z".parse().unwrap()));
}

#[test]
fn what_its_maker_was_refused_and_left_behind_is_deleted() {
    let vm = refused_at("2026-01-01T00:00:40Z");
    let (decisions, _) = decide(snapshot(vec![row(&vm)]));
    let [decision] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert!(decision.delete && decision.status.is_none() && decision.bind.is_none());
}

#[test]
fn nothing_admitted_and_nothing_that_waits_is_deleted() {
    let mark = json!({ "kvmoor.dev/refuse-over-quota": "true" });
    let mut admitted = bound("a", 2, "n1");
    let mut waiting = refused_at("2025-01-01T00:00:00Z");
    admitted.object.metadata.annotations = serde_json::from_value(mark).unwrap();
    waiting.object.metadata.annotations = None;
    assert_eq!((deleted_at(&admitted), deleted_at(&waiting)), (None, None));
    let (decisions, _) = decide(snapshot(vec![row(&waiting)]));
    assert_eq!(of(&decisions, "a").bind.as_deref(), Some("n1"), "there is room by now");
}

#[test]
fn a_new_one_is_admitted_placed_and_its_phase_left_to_the_host() {
    let vm = vm("a", 2, json!({}));
    let (decisions, usage) = decide(snapshot(vec![row(&vm)]));
    let [decision] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert_eq!(decision.bind.as_deref(), Some("n1"));
    assert_eq!(desired(decision).voice, Voice::Host);
    assert_eq!(desired(decision).admitted, Some(Resources { cpu: 2, memory: GIB, disk: 10 * GIB }));
    assert_eq!(usage["ns"].vms, 1);
}

#[test]
fn nothing_is_done_where_nothing_changed() {
    let vm = bound("a", 2, "n1");
    let (decisions, usage) = decide(snapshot(vec![row(&vm)]));
    assert_eq!(decisions, []);
    assert_eq!(usage["ns"].resources.cpu, 2);
}

#[test]
fn what_a_guest_has_until_its_restart_is_charged_until_then() {
    let shrinking = |in_force: Value| {
        let mut object = serde_json::to_value(&bound("a", 4, "n1").object).unwrap();
        merge(&mut object, json!({ "spec": { "cpu": 1 }, "status": { "resources": in_force } }));
        Vm::of(serde_json::from_value(object).unwrap(), None)
    };
    let charged = |vm: &Vm| {
        let (_, usage) = decide(snapshot(vec![row(vm)]));
        usage.get("ns").map(|usage| usage.resources.cpu)
    };
    let running = shrinking(json!({ "cpu": 4, "memory": "1Gi" }));
    assert_eq!(charged(&running), Some(4));
    let restarted = shrinking(json!({ "cpu": 1, "memory": "1Gi" }));
    let (decisions, _) = decide(snapshot(vec![row(&restarted)]));
    assert_eq!(desired(of(&decisions, "a")).admitted.map(|admitted| admitted.cpu), Some(1));
    let boasting = shrinking(json!({ "cpu": 400, "memory": "1Gi" }));
    assert_eq!(charged(&boasting), Some(4), "a host's word counts for no more than was admitted");
}

#[test]
fn the_older_gets_what_is_left_and_a_smaller_one_may_pass() {
    let young = vm("a", 12, json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:05Z" } }));
    let old = vm("b", 12, json!({}));
    let small = vm("c", 8, json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:09Z" } }));
    let (decisions, usage) = decide(snapshot(vec![row(&young), row(&old), row(&small)]));
    assert!(of(&decisions, "b").bind.is_some() && of(&decisions, "c").bind.is_some());
    let refused = of(&decisions, "a");
    assert_eq!((&refused.bind, desired(refused).admitted), (&None, None));
    let message = "quota exceeded: cpu 12 used + 12 requested > 20 allowed";
    let Voice::Say { phase, message: said, ready } = &desired(refused).voice else { panic!() };
    assert_eq!((*phase, said.as_str(), ready.reason), (Phase::Pending, message, reasons::QUOTA_EXCEEDED));
    assert_eq!(usage["ns"], Usage { vms: 2, resources: Resources { cpu: 20, memory: 2 * GIB, disk: 20 * GIB } });
}

#[test]
fn what_is_being_deleted_or_under_way_counts() {
    let deleting = json!({ "metadata": { "deletionTimestamp": "2026-01-01T01:00:00Z" } });
    let mut old = bound("a", 10, "n1").object;
    merge_object(&mut old, deleting);
    let old = Vm::of(old, None);
    let flying = vm("b", 10, json!({}));
    let assumed = Assumed { admitted: Some(Resources { cpu: 10, ..Resources::default() }), node: None };
    let new = vm("c", 1, json!({}));
    let busy = Row { vm: &flying, assumed: Some(&assumed), is_busy: true };
    let (decisions, usage) = decide(snapshot(vec![row(&old), busy, row(&new)]));
    assert_eq!(decisions.len(), 1);
    assert_eq!(desired(of(&decisions, "c")).admitted, None);
    assert_eq!(usage["ns"].resources.cpu, 20);
}

fn merge_object(object: &mut VirtualMachine, extra: Value) {
    let mut value = serde_json::to_value(&*object).unwrap();
    merge(&mut value, extra);
    *object = serde_json::from_value(value).unwrap();
}

#[test]
fn a_write_of_unknown_outcome_is_repeated_for_the_same_host() {
    let open = vm("a", 2, json!({}));
    let assumed =
        Assumed { admitted: Some(Resources { cpu: 2, memory: GIB, disk: 10 * GIB }), node: Some("n2".to_owned()) };
    let mut snapshot = snapshot(vec![Row { vm: &open, assumed: Some(&assumed), is_busy: false }]);
    snapshot.hosts.push(host("n2", 1));
    let (decisions, usage) = decide(snapshot);
    assert_eq!(of(&decisions, "a").bind.as_deref(), Some("n2"));
    assert_eq!(usage["ns"].vms, 1);
}

#[test]
fn growth_is_judged_and_refused_growth_keeps_what_it_had() {
    let mut object = bound("a", 4, "n1").object;
    object.spec.cpu = 30;
    let grown = Vm::of(object.clone(), None);
    let (decisions, _) = decide(snapshot(vec![row(&grown)]));
    let refused = desired(of(&decisions, "a"));
    assert_eq!(refused.admitted.unwrap().cpu, 4);
    let admission = refused.admission.as_ref().unwrap();
    assert_eq!((admission.status, admission.reason), (Truth::False, reasons::QUOTA_EXCEEDED));
    assert_eq!(refused.voice, Voice::Host, "it runs on with what it has");

    object.spec.cpu = 1;
    let shrunk = Vm::of(object.clone(), None);
    let mut lowered = snapshot(vec![row(&shrunk)]);
    lowered.default_limits = Limits { vms: 0, cpu: 0, memory: 0, disk: Some(0) };
    let (decisions, _) = decide(lowered);
    assert_eq!(desired(of(&decisions, "a")).admitted.unwrap().cpu, 1);

    object.spec.cpu = 8;
    let grown = Vm::of(object, None);
    let mut full = snapshot(vec![row(&grown)]);
    full.hosts = vec![host("n1", 6)];
    let (decisions, _) = decide(full);
    let admission = desired(of(&decisions, "a")).admission.clone().unwrap();
    let said = (admission.reason, admission.message.as_str());
    assert_eq!(said, (reasons::HOST_FULL, "host n1 has 2 CPUs free of 4 more needed"));
}

#[test]
fn a_request_that_was_changed_back_is_judged_again() {
    let object = bound("a", 4, "n1").object;
    let seen = Vm::of(object.clone(), None);
    let mut other = object.clone();
    (other.spec.cpu, other.metadata.generation) = (8, Some(3));
    let other = Vm::of(other, Some(&seen));
    let mut back = object;
    back.metadata.generation = Some(4);
    let back = Vm::of(back, Some(&other));
    let (decisions, _) = decide(snapshot(vec![row(&back)]));
    let (change, desired) = of(&decisions, "a").status.clone().unwrap();
    assert_eq!(change, Change::Facts);
    let written = status::document(&back, &desired, 1, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(written.pointer("/status/conditions/0/observedGeneration"), Some(&json!(4)));
}

#[test]
fn without_a_host_it_waits_and_says_why() {
    let waiting = vm("a", 2, json!({}));
    let mut without = snapshot(vec![row(&waiting)]);
    without.hosts.clear();
    let (decisions, _) = decide(without);
    let decision = of(&decisions, "a");
    assert_eq!(decision.bind, None);
    assert!(desired(decision).admitted.is_some(), "quota is charged while it waits");
    assert_eq!(desired(decision).scheduled.as_ref().unwrap().reason, reasons::UNSCHEDULABLE);
}

#[test]
fn a_lost_host_is_told_once_and_not_contradicted() {
    let vm = bound("a", 2, "n1");
    let lost = |vm| {
        let mut lost = snapshot(vec![row(vm)]);
        lost.liveness.insert("n1".to_owned(), Liveness::Lost);
        decide(lost).0
    };
    let decisions = lost(&vm);
    let told = desired(of(&decisions, "a"));
    assert!(matches!(&told.voice, Voice::Say { phase: Phase::Unknown, .. }));
    assert_eq!(of(&decisions, "a").bind, None);

    // As it stands after that write: ours.
    let document = status::document(&vm, told, 1, jiff::Timestamp::UNIX_EPOCH);
    let mut object = vm.object.clone();
    merge_object(&mut object, json!({ "status": document["status"] }));
    let mut ours = Vm::of(object.clone(), None);
    ours.owns_phase = true;
    assert_eq!(lost(&ours), []);

    // The host writes though it does not renew its Lease.
    merge_object(&mut object, json!({ "status": { "phase": "Running" } }));
    assert_eq!(lost(&Vm::of(object, None)), []);

    // It is back: said once, phase and Ready left as they are until the host speaks.
    let (decisions, _) = decide(snapshot(vec![row(&ours)]));
    let back = desired(of(&decisions, "a"));
    assert_eq!(back.voice, Voice::Host);
    let document = status::document(&ours, back, 1, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(document["status"]["phase"], json!("Unknown"));
    let mut object = ours.object.clone();
    merge_object(&mut object, json!({ "status": document["status"] }));
    assert_eq!(find(&object.status.as_ref().unwrap().conditions, "HostReachable").unwrap().status, "True");
    assert_eq!(decide(snapshot(vec![row(&Vm::of(object, None))])).0, []);
}

#[test]
fn the_finalizer_is_dropped_when_the_host_let_go_and_not_before() {
    let deleting = json!({ "metadata": { "deletionTimestamp": "2026-01-01T01:00:00Z" } });
    let mut object = bound("a", 2, "n1").object;
    merge_object(&mut object, deleting);
    assert_eq!(decide(snapshot(vec![row(&Vm::of(object.clone(), None))])).0, []);
    let released = kvmoor_crds::conditions::Finding::new(types::RELEASED, true, "Released", "");
    let released = released.into_condition(&[], None, jiff::Timestamp::UNIX_EPOCH);
    object.status.as_mut().unwrap().conditions.push(released);
    let (decisions, _) = decide(snapshot(vec![row(&Vm::of(object, None))]));
    assert!(of(&decisions, "a").release);
}

#[test]
fn a_finalizer_that_somebody_removed_comes_back() {
    let mut object = bound("a", 2, "n1").object;
    object.metadata.finalizers = None;
    let (decisions, _) = decide(snapshot(vec![row(&Vm::of(object, None))]));
    assert_eq!(of(&decisions, "a").bind.as_deref(), Some("n1"));
    assert_eq!(of(&decisions, "a").status, None);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_field() {
    let odd = vm("a", 1, json!({ "spec": { "memory": "a lot" } }));
    let (decisions, _) = decide(snapshot(vec![row(&odd)]));
    let admission = desired(of(&decisions, "a")).admission.clone().unwrap();
    assert_eq!(admission.reason, reasons::INVALID_SPEC);
    assert!(admission.message.contains("a lot"), "{}", admission.message);
}

/// A cluster of virtual machines whose writes are answered late, lost, or done without an answer.
mod model {
    use super::*;

    #[derive(Debug, Clone)]
    pub enum Event {
        Create {
            cpu: u64,
        },
        Resize {
            at: usize,
            cpu: u64,
        },
        /// The next turn of the leader: writes start.
        Turn,
        /// A write under way ends; `done` says whether it happened, `answered` whether that is known.
        Finish {
            at: usize,
            done: bool,
            answered: bool,
        },
        Delete {
            at: usize,
        },
        /// A new leader knows what stands there and nothing else.
        Restart,
    }

    pub fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (1..8_u64).prop_map(|cpu| Event::Create { cpu }),
            2 => (any::<usize>(), 1..12_u64).prop_map(|(at, cpu)| Event::Resize { at, cpu }),
            4 => Just(Event::Turn),
            6 => (any::<usize>(), any::<bool>(), any::<bool>())
                .prop_map(|(at, done, answered)| Event::Finish { at, done, answered }),
            1 => any::<usize>().prop_map(|at| Event::Delete { at }),
            1 => Just(Event::Restart),
        ]
    }

    struct Flight {
        assumed: Assumed,
        base: u64,
        running: bool,
    }

    #[derive(Default)]
    pub struct Cluster {
        /// What stands in etcd: requested and admitted CPUs, and the version.
        objects: BTreeMap<String, (u64, Option<u64>, u64)>,
        flights: BTreeMap<String, Flight>,
        created: usize,
    }

    impl Cluster {
        pub fn happen(&mut self, event: Event) {
            let pick = |map: &BTreeMap<String, (u64, Option<u64>, u64)>, at: usize| {
                map.keys().nth(at % map.len().max(1)).cloned()
            };
            match event {
                Event::Create { cpu } => {
                    self.created += 1;
                    self.objects.insert(format!("{:05}", self.created), (cpu, None, 1));
                }
                Event::Resize { at, cpu } => {
                    if let Some(uid) = pick(&self.objects, at) {
                        let object = self.objects.get_mut(&uid).unwrap();
                        *object = (cpu, object.1, object.2 + 1);
                    }
                }
                Event::Delete { at } => {
                    if let Some(uid) = pick(&self.objects, at) {
                        self.objects.remove(&uid);
                        self.flights.remove(&uid);
                    }
                }
                Event::Restart => self.flights.clear(),
                Event::Turn => self.turn(),
                Event::Finish { at, done, answered } => {
                    let running: Vec<String> =
                        self.flights.iter().filter(|(_, flight)| flight.running).map(|(uid, _)| uid.clone()).collect();
                    if let Some(uid) = running.get(at % running.len().max(1)) {
                        self.finish(uid, done, answered);
                    }
                }
            }
        }

        fn turn(&mut self) {
            self.flights.retain(|uid, flight| flight.running || self.objects[uid].2 <= flight.base);
            let vms: Vec<Vm> = self.objects.iter().map(|(uid, object)| view(uid, *object)).collect();
            let rows = vms.iter().map(|vm| {
                let flight = self.flights.get(&vm.uid);
                Row {
                    vm,
                    assumed: flight.map(|flight| &flight.assumed),
                    is_busy: flight.is_some_and(|flight| flight.running),
                }
            });
            let (decisions, _) = decide(snapshot(rows.collect()));
            for decision in decisions {
                let Some((_, desired)) = decision.status else { continue };
                let base = self.objects[&decision.uid].2;
                let mut assumed = Assumed { admitted: desired.admitted, node: None };
                if let Some(before) = self.flights.get(&decision.uid) {
                    assumed.admitted = match (assumed.admitted, before.assumed.admitted) {
                        (Some(now), Some(before)) => Some(now.at_most(before)),
                        (now, before) => now.or(before),
                    };
                }
                self.flights.insert(decision.uid, Flight { assumed, base, running: true });
            }
        }

        fn finish(&mut self, uid: &str, done: bool, answered: bool) {
            let flight = self.flights.get_mut(uid).unwrap();
            let object = self.objects.get_mut(uid).unwrap();
            if done && object.2 == flight.base {
                *object = (object.0, flight.assumed.admitted.map(|admitted| admitted.cpu), object.2 + 1);
            }
            if answered {
                self.flights.remove(uid);
            } else {
                flight.running = false;
            }
        }

        pub fn used(&self) -> u64 {
            self.objects.values().filter_map(|object| object.1).sum()
        }

        pub fn settle(&mut self) {
            for _ in 0..3 {
                self.turn();
                let flying: Vec<String> = self.flights.keys().cloned().collect();
                for uid in flying {
                    self.finish(&uid, true, true);
                }
            }
        }

        /// What is admitted and what would still fit.
        pub fn waiting_that_fit(&self) -> usize {
            let left = DEFAULT_LIMITS.cpu - self.used();
            self.objects.values().filter(|object| object.1.is_none() && object.0 <= left).count()
        }
    }

    fn view(uid: &str, (cpu, charged, version): (u64, Option<u64>, u64)) -> Vm {
        let mut object = json!({ "metadata": { "resourceVersion": version.to_string() } });
        if let Some(charged) = charged {
            merge(&mut object, json!({ "status": { "id": 1, "admitted": admitted(charged) } }));
        }
        vm(uid, cpu, object)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_lost_the_quota_holds(events in prop::collection::vec(model::event(), 0..80)) {
        let mut cluster = model::Cluster::default();
        for event in events {
            cluster.happen(event);
            prop_assert!(cluster.used() <= DEFAULT_LIMITS.cpu, "{} CPUs are admitted", cluster.used());
        }
        cluster.settle();
        prop_assert_eq!(cluster.waiting_that_fit(), 0);
    }
}

#[test]
fn what_shrinks_is_free_only_when_that_is_written() {
    let mut object = bound("a", 20, "n1").object;
    object.spec.cpu = 10;
    let shrunk = Vm::of(object, None);
    let new = vm("b", 10, json!({}));
    let (decisions, usage) = decide(snapshot(vec![row(&shrunk), row(&new)]));
    assert_eq!(desired(of(&decisions, "a")).admitted.unwrap().cpu, 10);
    assert_eq!(desired(of(&decisions, "b")).admitted, None);
    assert_eq!(usage["ns"].resources.cpu, 20);
}

/// A virtual machine of a class.
fn of_class(name: &str, extra: Value) -> Vm {
    let mut class = json!({ "spec": { "cpu": 0, "memory": "", "className": "small" } });
    merge(&mut class, extra);
    vm(name, 0, class)
}

fn with_small(vms: Vec<Row<'_>>) -> Snapshot<'_> {
    let small = Class { cpu: 3, memory: 2 * GIB, disk: Some(20 * GIB) };
    Snapshot { classes: BTreeMap::from([("small", small)]), ..snapshot(vms) }
}

#[test]
fn a_class_is_what_is_admitted() {
    let plain = of_class("a", json!({}));
    let (decisions, usage) = decide(with_small(vec![row(&plain)]));
    let desired = desired(of(&decisions, "a"));
    assert_eq!(desired.admitted, Some(Resources { cpu: 3, memory: 2 * GIB, disk: 20 * GIB }));
    assert_eq!(desired.root_disk, Some(20 * GIB));
    assert_eq!(usage["ns"].resources.cpu, 3);
    let with_disk = of_class("a", json!({ "spec": { "disk": { "size": "5Gi" } } }));
    let (decisions, _) = decide(with_small(vec![row(&with_disk)]));
    let desired = self::desired(of(&decisions, "a"));
    assert_eq!((desired.admitted.unwrap().disk, desired.root_disk), (5 * GIB, None));
}

#[test]
fn without_its_class_nothing_is_admitted_and_what_was_stays() {
    let new = of_class("a", json!({}));
    let (decisions, _) = decide(snapshot(vec![row(&new)]));
    let said = desired(of(&decisions, "a")).admission.clone().unwrap();
    assert_eq!((said.status, said.reason), (Truth::False, reasons::CLASS_NOT_FOUND));
    assert!(said.message.contains("there is no VirtualMachineClass small"), "{}", said.message);
    let had = json!({ "cpu": 3, "memory": "2Gi", "disk": "20Gi", "rootDisk": "20Gi" });
    let old = of_class("a", json!({ "spec": { "nodeName": "n1" }, "status": { "id": 1, "admitted": had } }));
    let (decisions, _) = decide(snapshot(vec![row(&old)]));
    let desired = desired(of(&decisions, "a"));
    assert_eq!(desired.admitted, Some(Resources { cpu: 3, memory: 2 * GIB, disk: 20 * GIB }));
    assert_eq!(desired.root_disk, Some(20 * GIB));
}

/// A clone of `source`, with `extra` merged over its object.
fn clone_of(source: &str, extra: Value) -> Vm {
    let mut object = json!({
        "metadata": { "creationTimestamp": "2026-01-01T00:00:30Z" }, "spec": { "source": { "vmName": source } },
    });
    merge(&mut object, extra);
    vm("clone", 1, object)
}

fn admission(decision: &Decision) -> &Finding {
    desired(decision).admission.as_ref().unwrap()
}

#[test]
fn a_clone_goes_to_the_host_of_its_source_and_nowhere_else() {
    let (source, clone) = (bound("a", 2, "n1"), clone_of("a", json!({})));
    let rows = || vec![row(&source), row(&clone)];
    let mut world = snapshot(rows());
    // Another host has more room.
    world.hosts = vec![host("n1", 3), host("n2", 100)];
    assert_eq!(of(&decide(world).0, "clone").bind.as_deref(), Some("n1"));
    let mut world = snapshot(rows());
    world.hosts = vec![host("n1", 2), host("n2", 100)];
    let (decisions, _) = decide(world);
    let scheduled = desired(of(&decisions, "clone")).scheduled.as_ref().unwrap();
    assert_eq!((scheduled.status, scheduled.reason), (Truth::False, reasons::UNSCHEDULABLE));
    assert_eq!(
        scheduled.message,
        "it goes to n1, the host of its source a: 0/1 hosts fit: 1 has 0 CPUs free of 1 needed"
    );
    let unbound = vm("a", 2, json!({ "status": { "id": 1, "admitted": admitted(2) } }));
    let mut world = snapshot(vec![row(&unbound), row(&clone)]);
    world.hosts = Vec::new();
    let (decisions, _) = decide(world);
    let scheduled = desired(of(&decisions, "clone")).scheduled.as_ref().unwrap();
    assert!(scheduled.message.contains("its source a has no host yet"), "{scheduled:?}");
}

#[test]
fn a_clone_is_charged_with_the_disk_of_its_source() {
    let source = |extra: Value| {
        let mut object = json!({ "spec": { "nodeName": "n1", "disk": { "size": "30Gi" } } });
        merge(&mut object, extra);
        vm("a", 2, object)
    };
    let charged = |source: &Vm, clone: &Vm| {
        let (decisions, _) = decide(snapshot(vec![row(source), row(clone)]));
        let desired = desired(of(&decisions, "clone")).clone();
        (desired.admitted.unwrap().disk / GIB, desired.root_disk.map(|bytes| bytes / GIB))
    };
    let plain = clone_of("a", json!({}));
    assert_eq!(charged(&source(json!({})), &plain), (30, Some(30)));
    let larger = clone_of("a", json!({ "spec": { "disk": { "size": "40Gi" } } }));
    assert_eq!(charged(&source(json!({})), &larger), (40, None));
    let more = clone_of("a", json!({ "spec": { "disks": [{ "name": "x", "size": "1Gi" }] } }));
    assert_eq!(charged(&source(json!({})), &more), (31, Some(30)));
    // The source is a clone itself: what it was admitted with counts.
    let unsized_source = vm(
        "a",
        2,
        json!({
            "spec": { "nodeName": "n1", "source": { "vmName": "gone" } },
            "status": { "id": 1, "admitted": { "cpu": 2, "memory": "1Gi", "disk": "50Gi", "rootDisk": "50Gi" } },
        }),
    );
    assert_eq!(charged(&unsized_source, &plain), (50, Some(50)));
    // What it was admitted with stays, though the source is gone.
    let admitted = clone_of(
        "a",
        json!({
            "status": { "id": 2, "admitted": { "cpu": 1, "memory": "1Gi", "disk": "30Gi", "rootDisk": "30Gi" } },
        }),
    );
    let (decisions, _) = decide(snapshot(vec![row(&admitted)]));
    assert_eq!(desired(of(&decisions, "clone")).admitted.unwrap().disk, 30 * GIB);
}

#[test]
fn a_clone_that_cannot_be_is_not_admitted() {
    let source = bound("a", 2, "n1");
    let refused = |clone: &Vm| {
        let (decisions, _) = decide(snapshot(vec![row(&source), row(clone)]));
        let finding = admission(of(&decisions, "clone")).clone();
        assert_eq!(finding.status, Truth::False);
        (finding.reason, finding.message)
    };
    let (reason, message) = refused(&clone_of("none", json!({})));
    assert!(reason == reasons::SOURCE_MISSING && message.contains("none"), "{message}");
    for (spec, word) in [
        (json!({ "osType": "tiny" }), "osType"),
        (json!({ "firmware": "Uefi" }), "firmware"),
        (json!({ "disk": { "size": "9Gi" } }), "10Gi"),
    ] {
        let (reason, message) = refused(&clone_of("a", json!({ "spec": spec })));
        assert!(reason == reasons::INVALID_SPEC && message.contains(word), "{message}");
    }
    let elsewhere = clone_of("a", json!({ "metadata": { "namespace": "other" } }));
    assert_eq!(refused(&elsewhere).0, reasons::SOURCE_MISSING);
}
