//! `POST /api/admin/users`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::show;
use crate::app::AppState;
use crate::auth::extract::Admin;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::{Role, User};
use crate::user::create::{NewUser, create, wait_until_set_up};
use crate::user::fields::{Email, NewPassword, Username};

/// A user to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Name to log in with; unique without regard to case.
    pub username: Username,
    /// Password, at least 8 characters.
    pub password: NewPassword,
    /// What the user may do.
    #[serde(default)]
    pub role: Role,
    /// E-mail address.
    pub email: Option<Email>,
}

/// Create a user who may log in at once
#[utoipa::path(
    post,
    path = "/admin/users",
    operation_id = "create_user",
    tag = "users",
    security(("bearer" = [])),
    request_body = CreateUser,
    responses(
        (status = 201, description = "The user", body = User),
        (status = 409, description = "The name is taken", body = ErrorBody),
        (status = 429, description = "Too many passwords to hash; see Retry-After", body = ErrorBody),
    )
)]
pub async fn create_user(
    State(app): State<AppState>,
    _: Admin,
    Body(CreateUser { username, password, role, email }): Body<CreateUser>,
) -> Result<(StatusCode, Json<User>), ApiError> {
    let new = NewUser::check(username, password, email, role.into(), true)?;
    let work = app.clone();
    let created = app.to_completion(async move { create(&work, new).await }).await?;
    let user = wait_until_set_up(&app, &created).await?;
    Ok((StatusCode::CREATED, show(&user)?))
}
