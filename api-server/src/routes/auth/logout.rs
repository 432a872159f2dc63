//! `POST /api/auth/logout`

use axum::Json;
use axum::extract::State;

use super::Message;
use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::user::change::end_sessions;

/// End all sessions of this account
#[utoipa::path(
    post,
    path = "/auth/logout",
    operation_id = "logout",
    tag = "auth",
    security(("bearer" = [])),
    responses((status = 200, description = "No token of before is taken any more", body = Message))
)]
pub async fn logout(State(app): State<AppState>, caller: Authn) -> Result<Json<Message>, ApiError> {
    end_sessions(&app, &caller.user).await?;
    Ok(Json(Message { message: "All your sessions have ended." }))
}
