//! `GET /api/health`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;

/// Whether the server works.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `error` while the store cannot be reached.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// `connected` or `disconnected`: whether the Kubernetes API, which is the store, can be reached.
    #[schema(example = "connected")]
    pub db: &'static str,
}

/// Whether the server and its store can be reached
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "health",
    responses(
        (status = 200, description = "They can", body = Health),
        (status = 503, description = "The Kubernetes API cannot be reached", body = Health),
    )
)]
pub async fn health(State(app): State<AppState>) -> Response {
    let (code, health) = if app.kubernetes_answers().await {
        (StatusCode::OK, Health { status: "ok", db: "connected" })
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Health { status: "error", db: "disconnected" })
    };
    (code, Json(health)).into_response()
}
