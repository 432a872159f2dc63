//! `GET` and `PUT /api/auth/ssh-keys`

use axum::Json;
use axum::extract::State;
use kvmoor_crds::User;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::routes::vms::create::{SshKey, keys};
use crate::user::change::change;

/// The public keys of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SshKeys {
    /// Public keys that may log in to each virtual machine that the user makes from now on, in the format of
    /// authorized_keys.
    #[schema(max_items = 64)]
    pub ssh_authorized_keys: Vec<SshKey>,
}

fn show(user: &User) -> Json<SshKeys> {
    Json(SshKeys { ssh_authorized_keys: user.spec.ssh_authorized_keys.iter().cloned().map(SshKey).collect() })
}

/// One's own public keys
#[utoipa::path(
    get,
    path = "/auth/ssh-keys",
    operation_id = "get_ssh_keys",
    tag = "auth",
    security(("bearer" = [])),
    responses((status = 200, description = "The keys", body = SshKeys))
)]
pub async fn get_ssh_keys(caller: Authn) -> Json<SshKeys> {
    show(&caller.user)
}

/// Set one's own public keys
///
/// They are given to virtual machines when these are made, beside the keys named there.
#[utoipa::path(
    put,
    path = "/auth/ssh-keys",
    operation_id = "set_ssh_keys",
    tag = "auth",
    security(("bearer" = [])),
    request_body = SshKeys,
    responses(
        (status = 200, description = "The keys", body = SshKeys),
        (status = 409, description = "The account is being changed by others", body = ErrorBody),
    )
)]
pub async fn set_ssh_keys(
    State(app): State<AppState>,
    caller: Authn,
    Body(body): Body<SshKeys>,
) -> Result<Json<SshKeys>, ApiError> {
    let keys = keys(body.ssh_authorized_keys)?;
    let user = change(&app, &caller.user, |user| {
        Ok((user.spec.ssh_authorized_keys != keys).then(|| json!({ "sshAuthorizedKeys": keys })))
    })
    .await?;
    Ok(show(&user))
}
