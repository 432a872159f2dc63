//! `GET /ws/serial`

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;

use super::console;
use super::vnc::ConsoleParams;
use crate::app::AppState;
use crate::console::Kind;
use crate::error::{ApiError, ErrorBody};
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
    responses(
        (status = 101, description = "From here on, binary messages"),
        (status = 403, description = "The page's origin may not connect", body = ErrorBody),
        (status = 404, description = "Not there, or somebody else's", body = ErrorBody),
        (status = 409, description = "The virtual machine is off", body = ErrorBody),
        (status = 429, description = "Too many connections of this user, or consoles of this VM, are open", body = ErrorBody),
    )
)]
pub async fn open_serial_console(
    State(app): State<AppState>,
    opening: Opening,
    Params(ConsoleParams { id }): Params<ConsoleParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    console(app, &opening, &id, upgrade, Kind::Serial).await
}
