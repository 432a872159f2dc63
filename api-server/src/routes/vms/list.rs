//! `GET /api/vms`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::model::Vm;
use crate::vm::owner::Owners;

/// One's own virtual machines; for an admin, all
#[utoipa::path(
    get,
    path = "/vms",
    operation_id = "list_vms",
    tag = "vms",
    security(("bearer" = [])),
    responses((status = 200, description = "Virtual machines by number", body = Vec<Vm>))
)]
pub async fn list_vms(State(app): State<AppState>, caller: Authn) -> Result<Json<Vec<Vm>>, ApiError> {
    let visible: Vec<_> = {
        let vms = app.stores.vms()?.read();
        vms.numbered().filter(|(_, vm)| caller.may_use(vm)).map(|(_, vm)| vm.clone()).collect()
    };
    let users = app.stores.users()?.read();
    let owners = Owners::new(&users);
    Ok(Json(visible.iter().filter_map(|vm| owners.show(vm)).collect()))
}
