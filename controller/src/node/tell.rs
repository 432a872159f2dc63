//! The status of snapshots and restores: server-side apply on `/status`, only if something differs, only on the object
//! that it was decided for.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use kvmoor_crds::conditions::{self, Finding, types};
use kvmoor_crds::{
    RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineRestoreStatus, VirtualMachineSnapshot,
    VirtualMachineSnapshotStatus, names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::metadata::Freeze;
use super::operation::{Kind, Operation, Outcome};
use super::publish::{DEADLINE, PublishError, is_newer};
use super::queue::Request;
use super::snapshot_xml::SnapshotFacts;

/// How far an operation is.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// It is being done, or tried again after this failure.
    Begun(Option<&'a str>),
    /// It is over.
    Over(&'a Outcome),
}

/// The last version written of each object: the watch lags behind our own writes.
pub struct Told<K>(Mutex<HashMap<String, Arc<K>>>);

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource> Told<K> {
    /// The newest version known: what the watch brought, or what was written since.
    pub fn newest(&self, object: Arc<K>) -> Arc<K> {
        let (Some(uid), Some(version)) = (&object.meta().uid, &object.meta().resource_version) else { return object };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get(uid) {
            Some(ours) if ours.meta().resource_version.as_ref().is_some_and(|ours| is_newer(ours, version)) => {
                Arc::clone(ours)
            }
            _ => {
                told.remove(uid);
                object
            }
        }
    }

    fn keep(&self, object: K) {
        if let Some(uid) = object.meta().uid.clone() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, Arc::new(object));
        }
    }

    /// Forgets objects that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
    }
}

/// What was told of all snapshots and restores.
#[derive(Default)]
pub struct AllTold {
    /// Snapshots.
    pub snapshots: Told<VirtualMachineSnapshot>,
    /// Restores.
    pub restores: Told<VirtualMachineRestore>,
}

/// Tells how far an operation is.
pub async fn tell(
    client: &Client,
    told: &AllTold,
    operation: &Operation,
    request: &Request,
    progress: Progress<'_>,
) -> Result<(), PublishError> {
    let now = Timestamp::now();
    match request {
        Request::Snapshot(snapshot) => {
            let next = snapshot_status(snapshot, operation, progress, now);
            write(client, &told.snapshots, snapshot, &owned_by_snapshot(snapshot), &next).await
        }
        Request::Restore(restore) => {
            let next = restore_status(restore, progress, now);
            write(client, &told.restores, restore, &restore.status.clone().unwrap_or_default(), &next).await
        }
    }
}

fn owned_by_snapshot(snapshot: &VirtualMachineSnapshot) -> VirtualMachineSnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    (status.id, status.vm_uid) = (None, None);
    status.conditions.retain(|condition| [types::READY, types::RELEASED].contains(&condition.type_.as_str()));
    status
}

fn snapshot_status(
    snapshot: &VirtualMachineSnapshot,
    operation: &Operation,
    progress: Progress<'_>,
    now: Timestamp,
) -> VirtualMachineSnapshotStatus {
    let mut status = owned_by_snapshot(snapshot);
    let is_deletion = operation.kind == Kind::Delete;
    let mut findings = Vec::new();
    let ready = |is, reason, message: &str| Finding::new(types::READY, is, reason, message);
    status.libvirt_name = Some(operation.libvirt_name.clone());
    status.phase = Some(match progress {
        Progress::Over(Outcome::Taken(facts)) => {
            status.created_at = Timestamp::from_second(facts.created_at).ok().map(Time);
            status.has_memory = Some(facts.has_memory);
            status.indications = indications(facts).iter().map(|word| (*word).to_owned()).collect();
            findings.push(ready(true, "Taken", "It can be restored."));
            SnapshotPhase::Ready
        }
        Progress::Over(Outcome::Deleted) => {
            findings.push(ready(false, "Deleted", "The host has deleted it."));
            findings.push(Finding::new(types::RELEASED, true, "Released", "The host has deleted it."));
            SnapshotPhase::Deleting
        }
        Progress::Over(Outcome::Failed { reason, message }) => {
            findings.push(ready(false, reason, message));
            findings.push(Finding::new(types::STALLED, true, reason, message.as_str()));
            SnapshotPhase::Failed
        }
        Progress::Begun(failure) if is_deletion => {
            let message = failure.unwrap_or("The host is deleting it.");
            findings.push(ready(false, "Deleting", message));
            SnapshotPhase::Deleting
        }
        Progress::Begun(failure) => {
            findings.push(ready(false, "Creating", failure.unwrap_or("The host is taking it.")));
            SnapshotPhase::Creating
        }
        // Not an outcome of a snapshot.
        Progress::Over(Outcome::Restored) => SnapshotPhase::Ready,
    });
    put(&mut status.conditions, findings, snapshot.metadata.generation, now);
    status
}

/// How it was taken, in KubeVirt's words.
fn indications(facts: &SnapshotFacts) -> &'static [&'static str] {
    match (facts.has_memory, facts.freeze) {
        (false, _) => &[],
        (true, Some(Freeze::Done)) => &["Online", "GuestAgent"],
        // With its memory a guest goes on where it was, frozen or not.
        (true, Some(Freeze::Begun | Freeze::Failed)) => &["Online", "QuiesceFailed"],
        (true, None) => &["Online", "NoGuestAgent"],
    }
}

fn restore_status(
    restore: &VirtualMachineRestore,
    progress: Progress<'_>,
    now: Timestamp,
) -> VirtualMachineRestoreStatus {
    let mut status = restore.status.clone().unwrap_or_default();
    let (phase, findings) = match progress {
        Progress::Begun(failure) => {
            let message = failure.unwrap_or("The host is restoring the snapshot.");
            (RestorePhase::Restoring, vec![Finding::new(types::READY, false, "Restoring", message)])
        }
        Progress::Over(Outcome::Failed { reason, message }) => {
            let found = |type_, is| Finding::new(type_, is, reason, message.as_str());
            (RestorePhase::Failed, vec![found(types::READY, false), found(types::STALLED, true)])
        }
        Progress::Over(_) => {
            status.restored_at = Some(conditions::whole_seconds(now));
            let message = "The virtual machine is what it was.";
            (RestorePhase::Succeeded, vec![Finding::new(types::READY, true, "Restored", message)])
        }
    };
    status.phase = Some(phase);
    put(&mut status.conditions, findings, restore.metadata.generation, now);
    status
}

fn put(conditions: &mut Vec<Condition>, findings: Vec<Finding>, generation: Option<i64>, now: Timestamp) {
    for finding in findings {
        let condition = finding.into_condition(conditions, generation, now);
        conditions.retain(|old| old.type_ != condition.type_);
        conditions.push(condition);
    }
}

async fn write<K, S>(client: &Client, told: &Told<K>, object: &K, before: &S, next: &S) -> Result<(), PublishError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    S: Serialize + PartialEq,
{
    if before == next {
        return Ok(());
    }
    let meta = object.meta();
    let (name, namespace) = (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "namespace": namespace, "resourceVersion": meta.resource_version },
        "status": next,
    });
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    // Forced: the phase and Ready are handed over from the cluster controller when it binds the object.
    let params = PatchParams::apply(names::NODE_MANAGER).force();
    match tokio::time::timeout(DEADLINE, api.patch_status(&name, &params, &Patch::Apply(&patch))).await {
        Err(_) => Err(PublishError::Timeout),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(PublishError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(PublishError::Gone),
        Ok(Err(kube::Error::Api(status))) => Err(PublishError::Refused(status.message.clone())),
        Ok(Err(error)) => Err(PublishError::Refused(error.to_string())),
        Ok(Ok(written)) => {
            crate::fault::side_effect();
            told.keep(written);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indications_say_how_it_was_taken() {
        let of = |has_memory, freeze| indications(&SnapshotFacts { has_memory, freeze, ..SnapshotFacts::default() });
        assert_eq!(of(false, None), [""; 0]);
        assert_eq!(of(true, None), ["Online", "NoGuestAgent"]);
        assert_eq!(of(true, Some(Freeze::Done)), ["Online", "GuestAgent"]);
        assert_eq!(of(true, Some(Freeze::Failed)), ["Online", "QuiesceFailed"]);
    }
}
