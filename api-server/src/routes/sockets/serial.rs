//! `GET /ws/serial`

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

/// Open the serial console of a virtual machine, over a WebSocket
///
/// What the guest says comes in binary messages; what is typed may be sent in binary or text messages. Whoever looks on
/// sees the same, and what any of them types goes in. Who does not read as fast as the guest talks loses output, and
/// finds in its place a line that says how much. What was said before is not told again: `GET /api/vms/{id}/log` has it.
/// Pings, close codes and the origins of web pages are as with `/ws/vnc`.
#[utoipa::path(
    get,
    path = "/ws/serial",
    operation_id = "open_serial_console",
    tag = "vms",
    security(("ticket" = []), ("token" = []), ("bearer" = [])),
    params(ConsoleParams),
    responses(Console)
)]
pub async fn open_serial_console(
    State(app): State<AppState>,
    opening: Opening,
    Params(ConsoleParams { id }): Params<ConsoleParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    console(app, &opening, &id, upgrade, Kind::Serial).await
}
