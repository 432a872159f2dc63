//! `PUT /api/admin/users/{id}`

use axum::Json;
use axum::extract::State;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::show;
use crate::app::AppState;
use crate::auth::extract::TargetUser;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::{User, login_name};
use crate::user::change::{change, end_sessions};
use crate::user::create::hash;
use crate::user::fields::{Email, NewPassword, Username};
use crate::user::{find, secret, validate};

/// What to change of a user. What is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateUser {
    /// Another name to log in with.
    pub username: Option<Username>,
    /// Another e-mail address.
    pub email: Option<Email>,
    /// Another password; ends all sessions of the user.
    pub password: Option<NewPassword>,
}

/// Change a user's name, e-mail address or password
#[utoipa::path(
    put,
    path = "/admin/users/{id}",
    operation_id = "update_user",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the user", minimum = 1)),
    request_body = UpdateUser,
    responses(
        (status = 200, description = "The user", body = User),
        (status = 409, description = "The name is taken", body = ErrorBody),
        (status = 429, description = "Too many passwords to hash; see Retry-After", body = ErrorBody),
    )
)]
pub async fn update_user(
    State(app): State<AppState>,
    target: TargetUser,
    Body(UpdateUser { username, email, password }): Body<UpdateUser>,
) -> Result<Json<User>, ApiError> {
    let username = username.map(|Username(name)| name);
    let email = email.map(|Email(address)| address);
    let password = password.map(|NewPassword(password)| password);
    let name = username.as_deref().unwrap_or(login_name(&target.user));
    validate::username(name)?;
    email.as_deref().map_or(Ok(()), validate::email)?;
    if let Some(password) = &password {
        password.check_new(name).map_err(|message| ApiError::Invalid(message.to_owned()))?;
    }
    if find::is_taken(&app.stores.users()?.read(), name, &target.user.name_any()) {
        return Err(ApiError::Conflict("Username is already taken".to_owned()));
    }
    let work = app.clone();
    let updated = app.to_completion(async move {
        let mut user = change(&work, &target.user, |user| {
            let mut spec = serde_json::Map::new();
            if let Some(name) = username.as_ref().filter(|name| *name != login_name(user)) {
                let other = (*name != user.spec.username).then_some(name);
                spec.insert("loginName".to_owned(), json!(other));
            }
            if let Some(email) = email.as_ref().filter(|email| Some(*email) != user.spec.email.as_ref()) {
                spec.insert("email".to_owned(), json!(email));
            }
            Ok((!spec.is_empty()).then(|| spec.into()))
        })
        .await?;
        if let Some(password) = password {
            let hash = hash(&work, password).await?;
            secret::replace(&work, &user, &hash).await?;
            user = end_sessions(&work, &user).await?;
        }
        Ok(user)
    });
    show(&updated.await?)
}
