//! `PUT /api/admin/users/{id}/approve`

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::show;
use crate::app::AppState;
use crate::auth::extract::TargetUser;
use crate::error::{ApiError, ErrorBody};
use crate::model::User;
use crate::user::change::change;
use crate::user::create::wait_until_set_up;

/// Let a user log in
#[utoipa::path(
    put,
    path = "/admin/users/{id}/approve",
    operation_id = "approve_user",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the user", minimum = 1)),
    responses(
        (status = 200, description = "The user", body = User),
        (status = 409, description = "Somebody else changes the user at the same time", body = ErrorBody),
    )
)]
pub async fn approve_user(State(app): State<AppState>, target: TargetUser) -> Result<Json<User>, ApiError> {
    let approve = |user: &kvmoor_crds::User| Ok((!user.spec.approved).then(|| json!({ "approved": true })));
    let approved = change(&app, &target.user, approve).await?;
    show(&*wait_until_set_up(&app, &approved).await?)
}
