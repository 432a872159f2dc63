//! `POST /api/auth/password`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Session, session, verify};
use crate::app::AppState;
use crate::auth::extract::{Authn, Peer};
use crate::auth::password::Password;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::login_name;
use crate::user::change::end_sessions;
use crate::user::create::hash;
use crate::user::fields::NewPassword;
use crate::user::secret;

/// A change of password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The password so far.
    pub current_password: Password,
    /// The new one, at least 8 characters.
    pub new_password: NewPassword,
}

/// Change one's own password
///
/// All sessions end; the answer is a new one.
#[utoipa::path(
    post,
    path = "/auth/password",
    operation_id = "change_password",
    tag = "auth",
    security(("bearer" = [])),
    request_body = ChangePassword,
    responses(
        (status = 200, description = "The password is changed; a new session's token", body = Session),
        (status = 403, description = "The current password is wrong", body = ErrorBody),
        (status = 429, description = "Too many failures; see Retry-After", body = ErrorBody),
    )
)]
pub async fn change_password(
    State(app): State<AppState>,
    caller: Authn,
    peer: Peer,
    Body(ChangePassword { current_password, new_password }): Body<ChangePassword>,
) -> Result<Json<Session>, ApiError> {
    let NewPassword(new_password) = new_password;
    let name = login_name(&caller.user);
    new_password.check_new(name).map_err(|message| ApiError::Invalid(message.to_owned()))?;
    if !verify(&app, Some(&caller.user), name, current_password, peer.source()).await? {
        return Err(ApiError::Forbidden("The current password is wrong".to_owned()));
    }
    let work = app.clone();
    let session = app.to_completion(async move {
        let hash = hash(&work, new_password).await?;
        // In this order: once the hash is written no session begins with the old password, then those so far end.
        secret::replace(&work, &caller.user, &hash).await?;
        let user = end_sessions(&work, &caller.user).await?;
        session(&work, &user).await
    });
    Ok(Json(session.await?))
}
