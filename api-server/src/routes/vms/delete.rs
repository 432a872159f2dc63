//! `DELETE /api/vms/{id}`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::ApiError;
use crate::model::Deleted;
use crate::vm::delete::delete;

/// Delete a virtual machine with its disks
#[utoipa::path(
    delete,
    path = "/vms/{id}",
    operation_id = "delete_vm",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 200, description = "It is being deleted", body = Deleted))
)]
pub async fn delete_vm(State(app): State<AppState>, target: OwnedVm) -> Result<Json<Deleted>, ApiError> {
    Ok(Json(delete(&app, &target.vm, target.id).await?))
}
