//! `DELETE /api/snapshots/{id}`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::OwnedSnapshot;
use crate::error::ApiError;
use crate::model::SnapshotDeleted;
use crate::snapshot::delete::delete;

/// Delete a snapshot; those taken after it stay
#[utoipa::path(
    delete,
    path = "/snapshots/{id}",
    operation_id = "delete_snapshot",
    tag = "snapshots",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the snapshot", minimum = 1)),
    responses((status = 200, description = "It is gone, or soon will be", body = SnapshotDeleted))
)]
pub async fn delete_snapshot(
    State(app): State<AppState>,
    target: OwnedSnapshot,
) -> Result<Json<SnapshotDeleted>, ApiError> {
    Ok(Json(delete(&app, &target.snapshot, target.id).await?))
}
