//! `GET /api/vms/{id}/stats`

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use kvmoor_crds::VirtualMachine;
use kvmoor_crds::agent::{CpuStats, MemoryStats, Stats as Measured};
use kvmoor_crds::quantity;

use crate::agent::AgentError;
use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::ApiError;
use crate::model::Stats;

/// What a virtual machine uses
///
/// Measured by its host at the time of asking. Of a virtual machine that is off, all but its size is zero. Answers 503
/// when its host does not say within 2 s.
#[utoipa::path(
    get,
    path = "/vms/{id}/stats",
    operation_id = "get_vm_stats",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 200, description = "The measurements", body = Stats))
)]
pub async fn get_vm_stats(State(app): State<AppState>, target: OwnedVm) -> Result<Json<Stats>, ApiError> {
    let measured = match app.agents.stats(&app.stores, &target.vm).await {
        Ok(measured) => measured,
        Err(AgentError::NotThere) => nothing(&target.vm),
        Err(error) => return Err(error.into()),
    };
    Ok(Json(Stats::new(target.id, Timestamp::now(), measured)))
}

/// Of what is on no host yet.
fn nothing(vm: &VirtualMachine) -> Measured {
    let size = vm.size();
    let count = size.and_then(|(cpu, _)| u32::try_from(cpu).ok()).unwrap_or_default();
    let total = size.and_then(|(_, memory)| quantity::bytes(memory).ok()).unwrap_or_default();
    Measured {
        state: "no state".to_owned(),
        cpu: CpuStats { count, ..CpuStats::default() },
        memory: MemoryStats { total, ..MemoryStats::default() },
        ..Measured::default()
    }
}
