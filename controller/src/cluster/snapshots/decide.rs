//! What to do about each snapshot and restore. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kvmoor_crds::conditions::{self, Finding, find, reasons, types};
use kvmoor_crds::{RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineSnapshot, names};

/// A restore that names a snapshot which is not there waits for it this long: both may be applied together.
const SNAPSHOT_COMES: SignedDuration = SignedDuration::from_secs(10);
/// A finished restore is kept this long as a record.
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// What matters of a virtual machine here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// metadata.uid
    pub uid: String,
    /// The host that it is bound to.
    pub node: Option<String>,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

/// Virtual machines by namespace and name.
pub type Vms = BTreeMap<(String, String), Vm>;

/// What to do about a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is as it should be.
    Nothing,
    /// Write its status, and then bind it to the host of its virtual machine.
    Tell {
        /// `Admitted` and, if that is so, `Scheduled`.
        findings: Vec<Finding>,
        /// The virtual machine to bind it to, if it is to be.
        bind: Option<(String, Vm)>,
    },
    /// Drop its finalizer.
    Release,
    /// Delete it: its virtual machine is gone or going.
    Delete,
}

/// Decides about all snapshots, the oldest first, so that quota goes to who asked first. `limit` is how many a namespace
/// may have. Answers in the given order.
pub fn decide(
    snapshots: &[std::sync::Arc<VirtualMachineSnapshot>],
    vms: &Vms,
    limit: impl Fn(&str) -> Option<u64>,
) -> Vec<Decision> {
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| is_admitted(snapshot)) {
        *used.entry(snapshot.namespace().unwrap_or_default()).or_insert(0) += 1;
    }
    let judged = snapshots.iter().map(|snapshot| {
        let namespace = snapshot.namespace().unwrap_or_default();
        let vm = vms.get(&(namespace.clone(), snapshot.spec.vm_name.clone()));
        if snapshot.metadata.deletion_timestamp.is_some() {
            return leaving(snapshot);
        }
        if let Some(bound_to) = snapshot.status.as_ref().and_then(|status| status.vm_uid.as_ref())
            && vm.is_none_or(|vm| vm.uid != *bound_to || vm.is_leaving)
        {
            return Decision::Delete;
        }
        let used = used.entry(namespace.clone()).or_insert(0);
        match limit(&namespace).filter(|limit| !is_admitted(snapshot) && *used >= *limit) {
            Some(limit) => {
                let message = format!("quota exceeded: snapshots {used} used + 1 requested > {limit} allowed");
                tell(snapshot, vec![Finding::new(types::ADMITTED, false, reasons::QUOTA_EXCEEDED, message)], None)
            }
            None => {
                *used += u64::from(!is_admitted(snapshot));
                admitted(snapshot, vm)
            }
        }
    });
    judged.collect()
}

/// Whether it counts against the quota.
pub fn is_admitted(snapshot: &VirtualMachineSnapshot) -> bool {
    snapshot.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, types::ADMITTED))
}

fn leaving(snapshot: &VirtualMachineSnapshot) -> Decision {
    let is_held = snapshot.finalizers().iter().any(|finalizer| finalizer == names::VM_FINALIZER);
    let status = snapshot.status.as_ref();
    let is_released = status.is_some_and(|status| conditions::is_true(&status.conditions, types::RELEASED));
    if is_held && (is_released || snapshot.spec.node_name.is_none()) { Decision::Release } else { Decision::Nothing }
}

fn admitted(snapshot: &VirtualMachineSnapshot, vm: Option<&Vm>) -> Decision {
    let name = &snapshot.spec.vm_name;
    let mut findings = vec![Finding::new(types::ADMITTED, true, reasons::WITHIN_QUOTA, "")];
    let scheduled = |is, reason, message: String| Finding::new(types::SCHEDULED, is, reason, message);
    let bind = match vm.filter(|vm| !vm.is_leaving) {
        None => {
            let message = format!("There is no virtual machine {name} in this namespace; it is taken when there is.");
            findings.push(scheduled(false, "VirtualMachineMissing", message));
            None
        }
        Some(vm) => match &vm.node {
            None => {
                let message = format!("The virtual machine {name} has no host yet; it is taken when it has one.");
                findings.push(scheduled(false, "VirtualMachineUnbound", message));
                None
            }
            Some(node) => {
                findings.push(scheduled(true, reasons::PLACED, format!("It is on {node}, with its virtual machine.")));
                snapshot.spec.node_name.is_none().then(|| (node.clone(), vm.clone()))
            }
        },
    };
    tell(snapshot, findings, bind)
}

/// A decision to tell what differs from what stands there.
fn tell(snapshot: &VirtualMachineSnapshot, findings: Vec<Finding>, bind: Option<(String, Vm)>) -> Decision {
    let status = snapshot.status.as_ref();
    let told = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let is_told = |finding: &Finding| {
        find(told, finding.type_).is_some_and(|condition| {
            condition.status == finding.status.as_str()
                && condition.reason == finding.reason
                && condition.message == finding.message
        })
    };
    let has_id = status.is_some_and(|status| status.id.is_some());
    if has_id && bind.is_none() && findings.iter().all(is_told) {
        return Decision::Nothing;
    }
    Decision::Tell { findings, bind }
}

/// What to do about a restore.
#[derive(Debug, Clone, PartialEq)]
pub enum RestoreDecision {
    /// Nothing, or not before that time.
    Nothing(Option<Timestamp>),
    /// Write its phase, with `Ready`.
    Tell(RestorePhase, Finding),
    /// Bind it to that host; it belongs to the snapshot with that UID.
    Bind(String, String),
    /// It was kept for long enough.
    Delete,
}

/// Decides about a restore; `snapshot` is the one that it names.
pub fn decide_restore(
    restore: &VirtualMachineRestore,
    snapshot: Option<&VirtualMachineSnapshot>,
    now: Timestamp,
) -> RestoreDecision {
    let status = restore.status.as_ref();
    let phase = status.and_then(|status| status.phase);
    if restore.metadata.deletion_timestamp.is_some() {
        return RestoreDecision::Nothing(None);
    }
    if matches!(phase, Some(RestorePhase::Succeeded | RestorePhase::Failed)) {
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let over = find(conditions, types::READY).map_or(now, |condition| condition.last_transition_time.0);
        let due = over.saturating_add(KEPT).unwrap_or(Timestamp::MAX);
        return if due <= now { RestoreDecision::Delete } else { RestoreDecision::Nothing(Some(due)) };
    }
    if restore.spec.node_name.is_some() {
        return RestoreDecision::Nothing(None);
    }
    let name = &restore.spec.snapshot_name;
    let snapshot = snapshot.filter(|snapshot| snapshot.metadata.deletion_timestamp.is_none());
    let (phase, reason, message) = match snapshot {
        Some(snapshot) => match (&snapshot.spec.node_name, &snapshot.metadata.uid) {
            (Some(node), Some(uid)) => return RestoreDecision::Bind(node.clone(), uid.clone()),
            _ if snapshot.status.as_ref().and_then(|status| status.phase) == Some(SnapshotPhase::Failed) => {
                (RestorePhase::Failed, "SnapshotFailed", format!("The snapshot {name} could not be taken."))
            }
            _ => (RestorePhase::Pending, "SnapshotPending", format!("The snapshot {name} is not taken yet.")),
        },
        None => {
            let created = restore.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
            let due = created.saturating_add(SNAPSHOT_COMES).unwrap_or(Timestamp::MAX);
            if now < due {
                return RestoreDecision::Nothing(Some(due));
            }
            let message = format!("There is no snapshot {name} in this namespace; restore one that is there.");
            (RestorePhase::Failed, "SnapshotMissing", message)
        }
    };
    let is_told = status.is_some_and(|status| {
        status.phase == Some(phase)
            && find(&status.conditions, types::READY).is_some_and(|ready| ready.message == message)
    });
    if is_told {
        return RestoreDecision::Nothing(None);
    }
    RestoreDecision::Tell(phase, Finding::new(types::READY, false, reason, message))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn snapshot(name: &str, change: Value) -> Arc<VirtualMachineSnapshot> {
        let mut object = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineSnapshot",
            "metadata": { "name": name, "namespace": "ns", "uid": name },
            "spec": { "vmName": "web" },
        });
        for (key, part) in change.as_object().unwrap() {
            for (inner, value) in part.as_object().unwrap() {
                object[key][inner] = value.clone();
            }
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn admitted_one(name: &str, change: Value) -> Arc<VirtualMachineSnapshot> {
        let mut change = change;
        change["status"] = json!({ "id": 1, "vmUid": "u", "conditions": [
            condition("Admitted", "True", "WithinQuota", ""),
            condition("Scheduled", "True", "Placed", "It is on host, with its virtual machine."),
        ]});
        snapshot(name, change)
    }

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    fn vms(node: Option<&str>, is_leaving: bool) -> Vms {
        let vm = Vm { uid: "u".into(), node: node.map(str::to_owned), is_leaving };
        BTreeMap::from([(("ns".to_owned(), "web".to_owned()), vm)])
    }

    fn reason(decision: &Decision) -> (&'static str, bool) {
        match decision {
            Decision::Tell { findings, bind } => (findings.last().unwrap().reason, bind.is_some()),
            Decision::Nothing => ("Nothing", false),
            Decision::Release => ("Release", false),
            Decision::Delete => ("Delete", false),
        }
    }

    #[test]
    fn goes_to_the_host_of_its_virtual_machine() {
        let one = |vms: &Vms| reason(&decide(&[snapshot("a", json!({}))], vms, |_| None)[0]);
        assert_eq!(one(&Vms::new()), ("VirtualMachineMissing", false));
        assert_eq!(one(&vms(None, false)), ("VirtualMachineUnbound", false));
        assert_eq!(one(&vms(Some("host"), false)), ("Placed", true));
        assert_eq!(one(&vms(Some("host"), true)), ("VirtualMachineMissing", false));
        let bound = admitted_one("a", json!({ "spec": { "nodeName": "host" } }));
        assert_eq!(decide(&[bound], &vms(Some("host"), false), |_| Some(0)), [Decision::Nothing]);
    }

    #[test]
    fn the_oldest_are_admitted_and_stay_so() {
        let new = |name| snapshot(name, json!({}));
        let old = admitted_one("z", json!({ "spec": { "nodeName": "host" } }));
        let decisions = decide(&[new("a"), new("b"), old.clone()], &vms(Some("host"), false), |_| Some(2));
        let reasons: Vec<_> = decisions.iter().map(reason).collect();
        assert_eq!(reasons, [("Placed", true), ("QuotaExceeded", false), ("Nothing", false)]);
        let Decision::Tell { findings, .. } = &decisions[1] else { panic!() };
        assert_eq!(findings[0].message, "quota exceeded: snapshots 2 used + 1 requested > 2 allowed");
        let room = decide(&[new("b"), old], &vms(Some("host"), false), |_| Some(2));
        assert_eq!(reason(&room[0]), ("Placed", true));
    }

    #[test]
    fn goes_with_its_virtual_machine() {
        let bound = || admitted_one("a", json!({ "spec": { "nodeName": "host" } }));
        assert_eq!(decide(&[bound()], &Vms::new(), |_| None), [Decision::Delete]);
        assert_eq!(decide(&[bound()], &vms(Some("host"), true), |_| None), [Decision::Delete]);
        let mut another = vms(Some("host"), false);
        another.values_mut().for_each(|vm| vm.uid = "other".into());
        assert_eq!(decide(&[bound()], &another, |_| None), [Decision::Delete]);
    }

    #[test]
    fn is_let_go_when_the_host_says_so_or_there_is_none() {
        let leaving = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kvmoor.dev/host"] });
        let unbound = snapshot("a", json!({ "metadata": leaving }));
        let held = snapshot("a", json!({ "metadata": leaving, "spec": { "nodeName": "host" } }));
        let released = json!({ "conditions": [condition("Released", "True", "Released", "")] });
        let done = snapshot("a", json!({ "metadata": leaving, "spec": { "nodeName": "host" }, "status": released }));
        let decisions = decide(&[unbound, held, done], &Vms::new(), |_| None);
        assert_eq!(decisions, [Decision::Release, Decision::Nothing, Decision::Release]);
    }

    #[test]
    fn a_restore_follows_its_snapshot_and_is_not_kept_for_ever() {
        let restore = |status: Value| -> VirtualMachineRestore {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineRestore",
                "metadata": { "name": "r", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "snapshotName": "a" }, "status": status,
            }))
            .unwrap()
        };
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (created, later) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:11Z"));
        let bound = admitted_one("a", json!({ "spec": { "nodeName": "host" } }));
        let fresh = restore(json!(null));
        let decision = decide_restore(&fresh, Some(&bound), created);
        assert_eq!(decision, RestoreDecision::Bind("host".into(), "a".into()));
        assert!(matches!(decide_restore(&fresh, None, created), RestoreDecision::Nothing(Some(_))));
        let decision = decide_restore(&fresh, None, later);
        assert!(matches!(decision, RestoreDecision::Tell(RestorePhase::Failed, _)));
        let pending = decide_restore(&fresh, Some(&snapshot("a", json!({}))), created);
        assert!(matches!(pending, RestoreDecision::Tell(RestorePhase::Pending, _)));
        let over = restore(json!({ "phase": "Succeeded", "conditions": [condition("Ready", "True", "Restored", "")] }));
        assert!(matches!(decide_restore(&over, None, later), RestoreDecision::Nothing(Some(_))));
        assert_eq!(decide_restore(&over, None, at("2026-01-01T01:00:00Z")), RestoreDecision::Delete);
    }
}
