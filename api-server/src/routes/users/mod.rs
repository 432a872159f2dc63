//! Accounts, for admins.

pub mod approve;
pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod role;
pub mod update;

use axum::Json;

use crate::error::ApiError;
use crate::model::User;

/// The answer that shows a user.
fn show(user: &kvmoor_crds::User) -> Result<Json<User>, ApiError> {
    User::new(user).map(Json).ok_or(ApiError::unavailable("The user has no number yet; try again in a moment"))
}
