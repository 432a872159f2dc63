//! Deleting a snapshot. The answer comes when the host has done it, or soon will.

use std::time::Duration;

use kube::ResourceExt;
use kvmoor_crds::VirtualMachineSnapshot;

use super::api_in;
use crate::app::App;
use crate::delete::delete_exactly;
use crate::error::{ApiError, Noun};
use crate::model::{SnapshotDeleted, now};

/// How long the answer waits for it to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Deletes exactly this snapshot. One that is being deleted or just gone is no error.
pub async fn delete(app: &App, snapshot: &VirtualMachineSnapshot, id: i64) -> Result<SnapshotDeleted, ApiError> {
    let uid = snapshot.uid().unwrap_or_default();
    delete_exactly(&api_in(app, &snapshot.namespace().unwrap_or_default()), snapshot, Noun::Snapshot).await?;
    app.stores.snapshots()?.wait(GONE, |snapshots| snapshots.by_uid(&uid).is_none().then_some(())).await;
    Ok(SnapshotDeleted { deleted: true, snapshot_id: id, timestamp: now() })
}
