//! `DELETE /api/admin/users/{id}`

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::AppState;
use crate::auth::extract::TargetUser;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Params;
use crate::model::{login_name, now};
use crate::user::delete::delete;

/// How to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeleteParams {
    /// Delete the user's virtual machines too, with their disks.
    #[serde(default)]
    #[param(default = false)]
    pub force: bool,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserDeleted {
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
    /// Number of the user.
    #[schema(example = 1)]
    pub user_id: i64,
    /// Name of the user.
    #[schema(example = "user")]
    pub username: String,
    /// When the deletion was asked for.
    pub timestamp: Timestamp,
}

/// Delete a user
#[utoipa::path(
    delete,
    path = "/admin/users/{id}",
    operation_id = "delete_user",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the user", minimum = 1), DeleteParams),
    responses(
        (status = 200, description = "The user is gone", body = UserDeleted),
        (status = 409, description = "The user has virtual machines, or is the last admin", body = ErrorBody),
    )
)]
pub async fn delete_user(
    State(app): State<AppState>,
    target: TargetUser,
    Params(DeleteParams { force }): Params<DeleteParams>,
) -> Result<Json<UserDeleted>, ApiError> {
    let username = login_name(&target.user).to_owned();
    let user_id = target.id;
    let work = app.clone();
    app.to_completion(async move { delete(&work, &target.user, force).await }).await?;
    Ok(Json(UserDeleted { deleted: true, user_id, username, timestamp: now() }))
}
