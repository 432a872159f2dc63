//! `GET /api/admin/users`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::Admin;
use crate::error::ApiError;
use crate::model::User;

/// All users, also those who wait for approval
#[utoipa::path(
    get,
    path = "/admin/users",
    operation_id = "list_users",
    tag = "users",
    security(("bearer" = [])),
    responses((status = 200, description = "Users by number", body = Vec<User>))
)]
pub async fn list_users(State(app): State<AppState>, _: Admin) -> Result<Json<Vec<User>>, ApiError> {
    let users = app.stores.users()?.read();
    let alive = users.numbered().filter(|(_, user)| user.metadata.deletion_timestamp.is_none());
    Ok(Json(alive.filter_map(|(_, user)| User::new(user)).collect()))
}
