//! `GET /api/auth/me`

use axum::Json;

use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::model::User;

/// The account of this session
#[utoipa::path(
    get,
    path = "/auth/me",
    operation_id = "me",
    tag = "auth",
    security(("bearer" = [])),
    responses((status = 200, description = "The account", body = User))
)]
pub async fn me(caller: Authn) -> Result<Json<User>, ApiError> {
    User::new(&caller.user).map(Json).ok_or(ApiError::unavailable("Your account has no number yet"))
}
