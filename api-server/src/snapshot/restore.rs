//! Restoring a snapshot: a VirtualMachineRestore is written, and the answer waits for the host to be done with it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{
    RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineRestoreSpec, VirtualMachineSnapshot, names,
};

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::{snapshot_message, snapshot_phase};

/// How long the answer waits for the host.
const RESTORED: Duration = Duration::from_secs(25);

/// Where a restore is when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// It goes on.
    UnderWay,
}

/// Brings the virtual machine back to `snapshot`.
pub async fn restore(app: &App, snapshot: &VirtualMachineSnapshot) -> Result<Progress, ApiError> {
    match snapshot_phase(snapshot) {
        SnapshotPhase::Ready => {}
        SnapshotPhase::Deleting => return Err(ApiError::Conflict("The snapshot is being deleted".to_owned())),
        SnapshotPhase::Pending | SnapshotPhase::Creating => {
            return Err(ApiError::Conflict("The snapshot is not taken yet; try again when it is Ready".to_owned()));
        }
        SnapshotPhase::Failed => {
            let why = snapshot_message(snapshot).unwrap_or_default();
            return Err(ApiError::Conflict(format!("The snapshot could not be taken: {why}")));
        }
    }
    let api: Api<VirtualMachineRestore> =
        Api::namespaced(app.client.clone(), &snapshot.namespace().unwrap_or_default());
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    let created = api.create(&params, &object(snapshot)).await.map_err(|error| from_kube(Noun::Snapshot, error))?;
    let uid = created.uid().unwrap_or_default();
    let restores = app.stores.restores()?;
    restores.wait_until_seen(&created).await;
    let outcome = restores.wait(RESTORED, |restores| match restores.by_uid(&uid) {
        None => Some(Err(ApiError::Conflict("The restore was taken back at the same time".to_owned()))),
        Some(restore) => {
            let status = restore.status.as_ref()?;
            match status.phase? {
                RestorePhase::Succeeded => Some(Ok(Progress::Done)),
                RestorePhase::Failed => {
                    let ready = conditions::find(&status.conditions, types::READY);
                    let why = ready.map_or("The snapshot could not be restored", |ready| ready.message.as_str());
                    Some(Err(ApiError::Conflict(why.to_owned())))
                }
                RestorePhase::Pending | RestorePhase::Restoring => None,
            }
        }
    });
    outcome.await.unwrap_or(Ok(Progress::UnderWay))
}

fn object(snapshot: &VirtualMachineSnapshot) -> VirtualMachineRestore {
    let name = snapshot.name_any();
    let stem: String = name.chars().take(200).collect();
    let suffix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(10).collect();
    let mut object = VirtualMachineRestore::new(
        &format!("{stem}-{suffix}"),
        VirtualMachineRestoreSpec { snapshot_name: name.clone(), node_name: None },
    );
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: VirtualMachineSnapshot::api_version(&()).into_owned(),
        kind: VirtualMachineSnapshot::kind(&()).into_owned(),
        name,
        uid: snapshot.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    object
}
