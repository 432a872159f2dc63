//! `PUT /api/admin/users/{id}/role`

use axum::Json;
use axum::extract::State;
use kvmoor_crds::UserRole;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::show;
use crate::app::AppState;
use crate::auth::extract::TargetUser;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::{Role, User};
use crate::user::admins::demote;
use crate::user::change::change;

/// Another role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// The role.
    #[schema(example = "admin")]
    pub role: Role,
}

/// Change what a user may do
#[utoipa::path(
    put,
    path = "/admin/users/{id}/role",
    operation_id = "set_role",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the user", minimum = 1)),
    request_body = SetRole,
    responses(
        (status = 200, description = "The user", body = User),
        (status = 409, description = "The user is the last admin", body = ErrorBody),
    )
)]
pub async fn set_role(
    State(app): State<AppState>,
    target: TargetUser,
    Body(SetRole { role }): Body<SetRole>,
) -> Result<Json<User>, ApiError> {
    let work = app.clone();
    let user = app.to_completion(async move {
        match role {
            Role::User if target.user.spec.role == UserRole::Admin => demote(&work, &target.user).await,
            _ => {
                let set = move |user: &kvmoor_crds::User| {
                    Ok((Role::from(user.spec.role) != role).then(|| json!({ "role": role })))
                };
                change(&work, &target.user, set).await
            }
        }
    });
    show(&user.await?)
}
