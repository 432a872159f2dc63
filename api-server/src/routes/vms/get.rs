//! `GET /api/vms/{id}`

use axum::Json;
use axum::extract::State;

use super::show;
use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::ApiError;
use crate::model::Vm;

/// One virtual machine
#[utoipa::path(
    get,
    path = "/vms/{id}",
    operation_id = "get_vm",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 200, description = "The virtual machine", body = Vm))
)]
pub async fn get_vm(State(app): State<AppState>, target: OwnedVm) -> Result<Json<Vm>, ApiError> {
    show(&app, &target.vm)
}
