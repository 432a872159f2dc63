//! `GET /api/vms/{id}/snapshots`

use axum::Json;
use axum::extract::State;
use kube::ResourceExt;

use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::ApiError;
use crate::model::Snapshot;
use crate::snapshot::vm_of;

/// The snapshots of a virtual machine
#[utoipa::path(
    get,
    path = "/vms/{id}/snapshots",
    operation_id = "list_snapshots",
    tag = "snapshots",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 200, description = "Snapshots by number", body = Vec<Snapshot>))
)]
pub async fn list_snapshots(State(app): State<AppState>, target: OwnedVm) -> Result<Json<Vec<Snapshot>>, ApiError> {
    let namespace = target.vm.namespace().unwrap_or_default();
    let all: Vec<_> = app.stores.snapshots()?.read().in_namespace(&namespace).cloned().collect();
    let vms = app.stores.vms()?.read();
    let is_of_this = |snapshot: &kvmoor_crds::VirtualMachineSnapshot| {
        vm_of(snapshot, &vms).is_some_and(|vm| vm.metadata.uid == target.vm.metadata.uid)
    };
    let of_this = all.iter().filter(|snapshot| is_of_this(snapshot));
    let mut shown: Vec<_> = of_this.filter_map(|snapshot| Snapshot::new(snapshot, target.id)).collect();
    shown.sort_by_key(|snapshot| snapshot.id);
    Ok(Json(shown))
}
