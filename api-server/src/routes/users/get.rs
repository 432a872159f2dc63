//! `GET /api/admin/users/{id}`

use axum::Json;

use super::show;
use crate::auth::extract::TargetUser;
use crate::error::ApiError;
use crate::model::User;

/// One user
#[utoipa::path(
    get,
    path = "/admin/users/{id}",
    operation_id = "get_user",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the user", minimum = 1)),
    responses((status = 200, description = "The user", body = User))
)]
pub async fn get_user(target: TargetUser) -> Result<Json<User>, ApiError> {
    show(&target.user)
}
