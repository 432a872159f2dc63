//! `POST /api/snapshots/{id}/restore`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::AppState;
use crate::auth::extract::OwnedSnapshot;
use crate::error::{ApiError, ErrorBody};
use crate::model::Restored;
use crate::snapshot::answer;
use crate::snapshot::restore::{Progress, restore};

/// Bring a virtual machine back to a snapshot
///
/// The virtual machine ends in the power state that it has now. One that is on goes on from the snapshot's memory, where
/// it holds any.
#[utoipa::path(
    post,
    path = "/snapshots/{id}/restore",
    operation_id = "restore_snapshot",
    tag = "snapshots",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the snapshot", minimum = 1)),
    responses(
        (status = 200, description = "The virtual machine is what it was", body = Restored),
        (status = 202, description = "It takes longer; the virtual machine is in phase Restoring until it is done", body = Restored),
        (status = 409, description = "It cannot be restored now; the message says why", body = ErrorBody),
    )
)]
pub async fn restore_snapshot(
    State(app): State<AppState>,
    target: OwnedSnapshot,
) -> Result<(StatusCode, Json<Restored>), ApiError> {
    let (status, message) = match restore(&app, &target.snapshot).await? {
        Progress::Done => (StatusCode::OK, "Snapshot restored successfully"),
        Progress::UnderWay => (StatusCode::ACCEPTED, "The snapshot is being restored"),
    };
    let snapshot = answer(&app, &target.snapshot)?;
    Ok((status, Json(Restored { message: message.to_owned(), snapshot })))
}
