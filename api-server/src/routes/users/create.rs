//! `POST /api/admin/users`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::show;
use crate::app::AppState;
use crate::auth::extract::Admin;
use crate::auth::password::Password;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::{Role, User};
use crate::user::create::{NewUser, create, wait_until_set_up};

/// A user to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Name to log in with; unique without regard to case.
    #[schema(
        example = "newuser",
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub username: String,
    /// Password, at least 8 characters.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 256, example = "password")]
    pub password: Password,
    /// What the user may do.
    #[serde(default)]
    pub role: Role,
    /// E-mail address.
    #[schema(example = "user@example.com", format = Email, max_length = 254)]
    pub email: Option<String>,
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
    let new = NewUser { username, password, email, role: role.into(), approved: true };
    new.check()?;
    let work = app.clone();
    let created = app.to_completion(async move { create(&work, new).await }).await?;
    let user = wait_until_set_up(&app, &created).await?;
    Ok((StatusCode::CREATED, show(&user)?))
}
