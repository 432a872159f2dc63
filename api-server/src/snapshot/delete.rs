//! Deleting a snapshot. The answer comes when the host has done it, or soon will.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use kvmoor_crds::VirtualMachineSnapshot;

use super::api_in;
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::{SnapshotDeleted, now};

/// How long the answer waits for it to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Deletes exactly this snapshot. One that is being deleted or just gone is no error.
pub async fn delete(app: &App, snapshot: &VirtualMachineSnapshot, id: i64) -> Result<SnapshotDeleted, ApiError> {
    let uid = snapshot.uid().unwrap_or_default();
    let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
    let api = api_in(app, &snapshot.namespace().unwrap_or_default());
    match api.delete(&snapshot.name_any(), &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => return Err(from_kube(Noun::Snapshot, error)),
    }
    app.stores.snapshots()?.wait(GONE, |snapshots| snapshots.by_uid(&uid).is_none().then_some(())).await;
    Ok(SnapshotDeleted { deleted: true, snapshot_id: id, timestamp: now() })
}
