//! `POST /api/auth/login`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Session, session, verify};
use crate::app::{App, AppState};
use crate::auth::extract::Peer;
use crate::auth::password::Password;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::user::find;

/// Who wants in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Name; case does not matter.
    #[schema(example = "admin")]
    pub username: String,
    /// Password.
    pub password: Password,
}

/// Begin a session
///
/// It lasts 12 hours. A wrong password and an unknown name are answered alike.
#[utoipa::path(
    post,
    path = "/auth/login",
    operation_id = "login",
    tag = "auth",
    request_body = Login,
    responses(
        (status = 200, description = "The session's token", body = Session),
        (status = 401, description = "Wrong name or password", body = ErrorBody),
        (status = 403, description = "The right password of an account that is not approved yet", body = ErrorBody),
        (status = 429, description = "Too many failures; see Retry-After", body = ErrorBody),
    )
)]
pub async fn login(
    State(app): State<AppState>,
    peer: Peer,
    Body(Login { username, password }): Body<Login>,
) -> Result<Json<Session>, ApiError> {
    let outcome = begin(&app, peer, &username, password).await;
    app.metrics.login(&outcome);
    outcome.map(Json)
}

async fn begin(app: &App, peer: Peer, username: &str, password: Password) -> Result<Session, ApiError> {
    let user = find::by_login_name(&app.stores.users()?.read(), username);
    let matches = verify(app, user.as_deref(), username, password, peer.source()).await?;
    let user = user.filter(|_| matches).ok_or(ApiError::Unauthorized("Invalid username or password"))?;
    if !user.spec.approved {
        return Err(ApiError::Forbidden("Your account is waiting for approval by an admin".to_owned()));
    }
    session(app, &user).await
}
