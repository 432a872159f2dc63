//! `POST /api/auth/register`

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kvmoor_crds::UserRole;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Message;
use crate::app::AppState;
use crate::auth::extract::Peer;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::user::create::{NewUser, create};
use crate::user::fields::{Email, NewPassword, Username};

/// Accounts that may wait for approval at the same time.
const PENDING: usize = 1000;

/// Who wants an account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Name to log in with; unique without regard to case.
    pub username: Username,
    /// Password, at least 8 characters.
    pub password: NewPassword,
    /// E-mail address.
    pub email: Option<Email>,
}

/// Ask for an account
///
/// An admin has to approve it before the first login.
#[utoipa::path(
    post,
    path = "/auth/register",
    operation_id = "register",
    tag = "auth",
    request_body = Register,
    responses(
        (status = 201, description = "The account waits for approval", body = Message),
        (status = 409, description = "The name is taken", body = ErrorBody),
        (status = 429, description = "Too many registrations; see Retry-After", body = ErrorBody),
    )
)]
pub async fn register(
    State(app): State<AppState>,
    peer: Peer,
    Body(Register { username, password, email }): Body<Register>,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let new = NewUser::check(username, password, email, UserRole::User, false)?;
    let retry_after = app.throttle.registration_wait(peer.source(), Instant::now());
    if !retry_after.is_zero() {
        return Err(ApiError::TooManyRequests { message: "Too many registrations from your address", retry_after });
    }
    if app.stores.users()?.read().all().filter(|user| !user.spec.approved).count() >= PENDING {
        return Err(ApiError::unavailable("Too many accounts are waiting for approval; try again later"));
    }
    let work = app.clone();
    app.to_completion(async move { create(&work, new).await }).await?;
    let message = "User registered successfully. Waiting for approval.";
    Ok((StatusCode::CREATED, Json(Message { message })))
}
