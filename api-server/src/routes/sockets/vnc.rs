//! `GET /ws/vnc`

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::console;
use crate::app::AppState;
use crate::console::Kind;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Params;
use crate::socket::Opening;

/// Which virtual machine's.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConsoleParams {
    /// Number of a virtual machine.
    #[param(value_type = i64, minimum = 1)]
    pub id: String,
}

/// Open the display of a virtual machine, over a WebSocket
///
/// Binary messages that carry the RFB protocol, as noVNC speaks it. A second viewer shares the display. The server pings
/// every 15 s. It closes with 1000 when the guest goes off, 1001 when the server stops, 1008 when the session ends and
/// 1011 when the guest's host fails. Web pages must be of the server's own origin, or of one that the operator has
/// listed.
#[utoipa::path(
    get,
    path = "/ws/vnc",
    operation_id = "open_console",
    tag = "vms",
    security(("ticket" = []), ("token" = []), ("bearer" = [])),
    params(ConsoleParams),
    responses(
        (status = 101, description = "From here on, binary messages"),
        (status = 403, description = "The page's origin may not connect", body = ErrorBody),
        (status = 404, description = "Not there, or somebody else's", body = ErrorBody),
        (status = 409, description = "The virtual machine is off", body = ErrorBody),
        (status = 429, description = "Too many connections of this user, or consoles of this VM, are open", body = ErrorBody),
    )
)]
pub async fn open_console(
    State(app): State<AppState>,
    opening: Opening,
    Params(ConsoleParams { id }): Params<ConsoleParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    console(app, &opening, &id, upgrade, Kind::Display).await
}
