//! `GET /api/ready`

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::error::ApiError;

/// That requests can be served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ok`
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Whether requests can be served
///
/// They can when the cluster's state has been read, the keys for sessions are there, and the server is not being stopped.
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "ready",
    tag = "health",
    responses((status = 200, description = "They can", body = Ready))
)]
pub async fn ready(State(app): State<AppState>) -> Result<Json<Ready>, ApiError> {
    app.ready()?;
    Ok(Json(Ready { status: "ok" }))
}
