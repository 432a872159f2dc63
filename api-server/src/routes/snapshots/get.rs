//! `GET /api/snapshots/{id}`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::OwnedSnapshot;
use crate::error::ApiError;
use crate::model::Snapshot;
use crate::snapshot::answer;

/// One snapshot
#[utoipa::path(
    get,
    path = "/snapshots/{id}",
    operation_id = "get_snapshot",
    tag = "snapshots",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the snapshot", minimum = 1)),
    responses((status = 200, description = "The snapshot", body = Snapshot))
)]
pub async fn get_snapshot(State(app): State<AppState>, target: OwnedSnapshot) -> Result<Json<Snapshot>, ApiError> {
    answer(&app, &target.snapshot).map(Json)
}
