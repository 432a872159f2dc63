//! `GET /ws/vm-status`

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use serde::Deserialize;
use tracing::Instrument;
use utoipa::IntoParams;

use crate::app::AppState;
use crate::error::{ApiError, ErrorBody, Noun};
use crate::extract::Params;
use crate::feed::{Scope, serve};
use crate::socket::Opening;
use crate::store::Stored;

/// Most bytes of what a peer may send: nothing that it could say is longer.
const MESSAGE: usize = 4 << 10;
/// Bytes to read at a time.
const READ_BUFFER: usize = 4 << 10;
/// Bytes to write at a time. What is beyond them waits in the queue, where it is counted.
const WRITE_BUFFER: usize = 16 << 10;

/// What to follow.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedParams {
    /// Number of a virtual machine; without it, all that one may see are followed.
    #[param(value_type = Option<i64>, minimum = 1, nullable = false)]
    pub vm_id: Option<String>,
}

/// Follow what changes of one's virtual machines, over a WebSocket
///
/// Text frames, see VMFrame: first `vm_list` (with `vm_id`: `vm_update`), then `vm_update` for each change and
/// `vm_deleted`, in order and without gaps. Who cannot keep up is closed with 1013, and whose session ends with 1008;
/// when the server stops the code is 1001, and when the one virtual machine is gone 1000. The server pings every 15 s.
/// Web pages must be of the server's own origin, or of one that the operator has listed.
#[utoipa::path(
    get,
    path = "/ws/vm-status",
    operation_id = "follow_vms",
    tag = "vms",
    security(("ticket" = []), ("token" = []), ("bearer" = [])),
    params(FeedParams),
    responses(
        (status = 101, description = "From here on, text frames"),
        (status = 403, description = "The page's origin may not connect", body = ErrorBody),
        (status = 404, description = "Not there, or somebody else's", body = ErrorBody),
        (status = 429, description = "Too many connections of this user are open", body = ErrorBody),
    )
)]
pub async fn vm_status(
    State(app): State<AppState>,
    opening: Opening,
    Params(FeedParams { vm_id }): Params<FeedParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let scope = match vm_id {
        Some(id) => Scope::One(opening.vm(&app, &id).await?.id().ok_or(ApiError::NotFound(Noun::Vm))?),
        None => {
            opening.check_for_all()?;
            match opening.caller.is_admin() {
                true => Scope::Everything,
                false => Scope::Namespace(opening.caller.namespace()?.to_owned()),
            }
        }
    };
    let (upgrade, seat) = opening.accept(&app, upgrade)?;
    let subscription = app.feed.subscribe(scope.clone())?;
    let session = opening.caller.session;
    let work = app.clone();
    let span = tracing::Span::current();
    let following = move |socket| {
        let following = async move {
            serve(&work, socket, &session, scope, subscription).await;
            drop(seat);
        };
        following.instrument(span)
    };
    let upgrade = upgrade
        .max_message_size(MESSAGE)
        .max_frame_size(MESSAGE)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    let tasks = app.tasks.clone();
    Ok(upgrade.on_upgrade(move |socket| tasks.track_future(following(socket))))
}
