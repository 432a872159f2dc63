//! `GET /ws/vnc`

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;

use super::console::{Console, ConsoleParams, console};
use crate::app::AppState;
use crate::console::Kind;
use crate::error::ApiError;
use crate::extract::Params;
use crate::socket::Opening;

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
    responses(Console)
)]
pub async fn open_console(
    State(app): State<AppState>,
    opening: Opening,
    Params(ConsoleParams { id }): Params<ConsoleParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    console(app, &opening, &id, upgrade, Kind::Display).await
}
