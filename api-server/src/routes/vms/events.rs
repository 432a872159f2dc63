//! `GET /api/vms/{id}/events`

use axum::Json;
use axum::extract::State;
use k8s_openapi::api::events::v1;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::Event;

/// Most events in an answer.
const MOST: u32 = 500;

/// What happened to a virtual machine lately
#[utoipa::path(
    get,
    path = "/vms/{id}/events",
    operation_id = "list_vm_events",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 200, description = "Events, the oldest first", body = Vec<Event>))
)]
pub async fn list_vm_events(State(app): State<AppState>, target: OwnedVm) -> Result<Json<Vec<Event>>, ApiError> {
    let api: Api<v1::Event> = Api::namespaced(app.client.clone(), &target.vm.namespace().unwrap_or_default());
    let of_this = format!("regarding.uid={}", target.vm.uid().unwrap_or_default());
    let list = api.list(&ListParams::default().fields(&of_this).limit(MOST)).await;
    let list = list.map_err(|error| from_kube(Noun::Vm, error))?;
    let mut events: Vec<_> = list.items.into_iter().map(Event::from).collect();
    events.sort_by_key(|event| event.last_seen);
    Ok(Json(events))
}
