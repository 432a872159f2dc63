//! `POST /api/vms/{id}/console-ticket`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::AppState;
use crate::auth::extract::{Authn, OwnedVm};
use crate::error::ApiError;
use crate::model::Ticket;

/// Get a ticket for one WebSocket of a virtual machine
///
/// It stands in the place of a session's token in `?ticket=` of `/ws/vnc`, `/ws/serial` or `/ws/vm-status`, once and
/// within 30 s. Every replica of the server remembers by itself what was used.
#[utoipa::path(
    post,
    path = "/vms/{id}/console-ticket",
    operation_id = "create_console_ticket",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    responses((status = 201, description = "The ticket", body = Ticket))
)]
pub async fn create_console_ticket(
    State(app): State<AppState>,
    caller: Authn,
    target: OwnedVm,
) -> Result<(StatusCode, Json<Ticket>), ApiError> {
    let vm = target.vm.metadata.uid.as_deref().unwrap_or_default();
    Ok((StatusCode::CREATED, Json(Ticket::new(&app, &caller.session, vm)?)))
}
