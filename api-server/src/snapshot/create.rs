//! Taking a snapshot: the object is written, the cluster controller counts it and gives it its number, the host takes
//! it, and then there is an answer. What is refused or fails is taken back.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use kvmoor_crds::{
    SnapshotPhase, VirtualMachine, VirtualMachineSnapshot, VirtualMachineSnapshotSpec, conditions, names,
};
use sha2::{Digest, Sha256};

use super::api_in;
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::snapshot_message;
use crate::vm::verdict::refusal;

/// How long the cluster controller may take to admit it.
const ADMISSION: Duration = Duration::from_secs(5);
/// How long the answer waits for the host; after that it tells that the snapshot is being taken.
const TAKEN: Duration = Duration::from_secs(20);
/// How long an answer waits at most for the cache to have forgotten what was taken back.
const GONE: Duration = Duration::from_secs(3);
/// The annotation with the id of the request that created the object.
const REQUEST: &str = "kvmoor.dev/request";

/// A snapshot to take, checked.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Name for people.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
}

/// Takes a snapshot of `vm`. Not to be dropped before its end: what is refused would stay.
pub async fn create(
    app: &App,
    vm: &VirtualMachine,
    new: &NewSnapshot,
) -> Result<Arc<VirtualMachineSnapshot>, ApiError> {
    let namespace = vm.namespace().unwrap_or_default();
    if vm.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::Conflict("The VM is being deleted".to_owned()));
    }
    let clash = || ApiError::Conflict(format!("The VM has a snapshot named {} already", new.name));
    let is_taken = app
        .stores
        .snapshots()?
        .read()
        .in_namespace(&namespace)
        .any(|other| other.spec.vm_name == vm.name_any() && other.spec.display_name.as_ref() == Some(&new.name));
    if is_taken {
        return Err(clash());
    }
    let api = api_in(app, &namespace);
    let created = match post(app, &api, &object(vm, new)).await {
        Err(ApiError::Conflict(_)) => return Err(clash()),
        other => other?,
    };
    let uid = created.uid().unwrap_or_default();
    let outcome = settle(app, &uid).await;
    if outcome.is_err() {
        take_back(&api, &created.name_any(), Some(uid.clone()), None).await;
        // What the caller is told not to have must not be in its next listing.
        app.stores.snapshots()?.wait(GONE, |snapshots| snapshots.by_uid(&uid).is_none().then_some(())).await;
    }
    outcome
}

/// Waits for the verdict of the cluster controller, then for the host as long as there is time.
async fn settle(app: &App, uid: &str) -> Result<Arc<VirtualMachineSnapshot>, ApiError> {
    let snapshots = app.stores.snapshots()?;
    let admitted = snapshots.wait(ADMISSION, |snapshots| judged(snapshots.by_uid(uid)?)).await;
    let late = || ApiError::unavailable("No cluster controller has admitted the snapshot in time; it was not taken");
    let admitted = admitted.unwrap_or_else(|| Err(late()))?;
    let taken = snapshots.wait(TAKEN, |snapshots| match snapshots.by_uid(uid) {
        None => Some(Err(ApiError::Conflict("The snapshot was deleted at the same time".to_owned()))),
        Some(snapshot) => match snapshot.status.as_ref().and_then(|status| status.phase)? {
            SnapshotPhase::Ready => Some(Ok(snapshot.clone())),
            SnapshotPhase::Failed => {
                let message = snapshot_message(snapshot);
                Some(Err(ApiError::Conflict(message.unwrap_or_else(|| "The snapshot could not be taken".to_owned()))))
            }
            SnapshotPhase::Pending | SnapshotPhase::Creating | SnapshotPhase::Deleting => None,
        },
    });
    let newest = || snapshots.read().by_uid(uid).cloned().unwrap_or(admitted);
    taken.await.unwrap_or_else(|| Ok(newest()))
}

/// What the cluster controller said, once it has.
fn judged(snapshot: &Arc<VirtualMachineSnapshot>) -> Option<Result<Arc<VirtualMachineSnapshot>, ApiError>> {
    let status = snapshot.status.as_ref()?;
    let verdict = conditions::find(&status.conditions, conditions::types::ADMITTED)?;
    match verdict.status.as_str() {
        "True" => status.id.map(|_| Ok(snapshot.clone())),
        _ => Some(Err(refusal(&verdict.reason, verdict.message.clone()))),
    }
}

/// The object. Its name follows from the virtual machine's and its own, so that the Kubernetes API itself keeps two of
/// one name from being there.
fn object(vm: &VirtualMachine, new: &NewSnapshot) -> VirtualMachineSnapshot {
    let digest = Sha256::digest(new.name.as_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mut object = VirtualMachineSnapshot::new(
        &format!("{}-{hash}", vm.name_any()),
        VirtualMachineSnapshotSpec {
            vm_name: vm.name_any(),
            display_name: Some(new.name.clone()),
            description: new.description.clone(),
            include_memory: true,
            node_name: None,
        },
    );
    object.annotations_mut().insert(REQUEST.to_owned(), uuid::Uuid::new_v4().to_string());
    object
}

async fn post(
    app: &App,
    api: &Api<VirtualMachineSnapshot>,
    object: &VirtualMachineSnapshot,
) -> Result<VirtualMachineSnapshot, ApiError> {
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, object).await {
        Ok(created) => Ok(created),
        Err(error) => {
            if !matches!(&error, kube::Error::Api(status) if status.code < 500) {
                // It may have been written all the same.
                let (api, name) = (api.clone(), object.name_any());
                let request = object.annotations().get(REQUEST).cloned();
                app.tasks.spawn(async move { take_back(&api, &name, None, request).await });
            }
            Err(from_kube(Noun::Snapshot, error))
        }
    }
}

/// Deletes what the caller is told not to have: the object with that UID, or the one made by that request.
async fn take_back(api: &Api<VirtualMachineSnapshot>, name: &str, mut uid: Option<String>, request: Option<String>) {
    for pause in [50, 500, 2000] {
        if uid.is_none() {
            match api.get_opt(name).await {
                Ok(Some(found)) if found.annotations().get(REQUEST) == request.as_ref() => uid = found.uid(),
                Ok(_) => return,
                Err(_) => {}
            }
        }
        if let Some(uid) = &uid {
            let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
            match api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return,
                Err(error) => {
                    let error = crate::error::describe(&error);
                    tracing::warn!(snapshot.name = name, error, "cannot take back a snapshot yet");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    tracing::error!(snapshot.name = name, "a snapshot may stay that its caller was told not to have");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_clash_within_a_vm_only() {
        let vm = |name: &str| -> VirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": name },
                "spec": { "cpu": 1, "memory": "1Gi" },
            }))
            .unwrap()
        };
        let new = |name: &str| NewSnapshot { name: name.into(), description: None };
        let name = |vm_name: &str, name: &str| object(&vm(vm_name), &new(name)).name_any();
        assert_eq!(name("web", "Snapshot 1"), name("web", "Snapshot 1"));
        assert_ne!(name("web", "Snapshot 1"), name("web", "Snapshot 2"));
        assert_ne!(name("web", "Snapshot 1"), name("mail", "Snapshot 1"));
        assert!(object(&vm("web"), &new("x")).spec.include_memory);
    }
}
