//! Sessions and the caller's own account.

pub mod feed_ticket;
pub mod login;
pub mod logout;
pub mod me;
pub mod password;
pub mod register;
pub mod ssh_keys;

use std::time::{Duration, Instant};

use kvmoor_crds::User;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::password::Password;
use crate::auth::throttle::Source;
use crate::error::ApiError;
use crate::model::SessionUser;
use crate::store::Stored;
use crate::user::create::from_password;
use crate::user::secret;

/// A new session.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    /// What to send as `Authorization: Bearer <token>`.
    #[schema(example = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...")]
    pub token: String,
    /// Whose it is.
    pub user: SessionUser,
}

/// That it is done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    /// What is done, in a sentence.
    pub message: &'static str,
}

/// How long a user may take to get its number.
const NUMBER: Duration = Duration::from_secs(2);

/// A session for `user`.
async fn session(app: &App, user: &User) -> Result<Session, ApiError> {
    let uid = user.metadata.uid.clone().unwrap_or_default();
    let id = match user.id() {
        Some(id) => Some(id),
        None => app.stores.users()?.wait(NUMBER, |users| users.by_uid(&uid)?.id()).await,
    };
    let id = id.ok_or(ApiError::unavailable("Your account is still being set up; try again in a moment"))?;
    let token = app.keys.sign(&uid, user.spec.session_epoch)?;
    Ok(Session { token, user: SessionUser::new(user, id) })
}

/// Whether `password` is the one of `user`, who gave `name` to log in. It takes the same time and calls for somebody and
/// for nobody, and guessers wait.
async fn verify(
    app: &App,
    user: Option<&User>,
    name: &str,
    password: Password,
    source: Source,
) -> Result<bool, ApiError> {
    check_throttle(app, name, source)?;
    let hash = secret::hash_of(app, user, name).await?;
    let turn = app.passwords.turn().await.map_err(from_password)?;
    // Again, now that others who waited before have failed.
    check_throttle(app, name, source)?;
    let matches = turn.verify(password, hash).await.map_err(from_password)?;
    if matches {
        app.throttle.login_succeeded(name, source);
    } else {
        app.throttle.login_failed(name, source, Instant::now());
    }
    Ok(matches)
}

fn check_throttle(app: &App, name: &str, source: Source) -> Result<(), ApiError> {
    let retry_after = app.throttle.login_wait(name, source, Instant::now());
    if retry_after.is_zero() {
        Ok(())
    } else {
        Err(ApiError::TooManyRequests { message: "Too many failed logins; wait before you try again", retry_after })
    }
}
