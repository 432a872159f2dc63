//! There is always an admin.
//!
//! Whoever takes the right away from one looks, after the write, whether any other is left, and gives it back if not.
//! The look is a listing of the Kubernetes API itself, so of two who do this to each other at the same time, at
//! different replicas, at least one sees both writes.

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::{User, UserRole};
use serde_json::json;

use super::change::change;
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};

/// The role without the rights.
pub const DEMOTED: &str = "user";

/// Makes `target` a user without special rights, unless it is the last admin.
pub async fn demote(app: &App, target: &User) -> Result<User, ApiError> {
    let _one_at_a_time = app.admins.lock().await;
    let last = || ApiError::Conflict("The last admin can be neither deleted nor demoted".to_owned());
    if !another_admin(app, target).await? {
        return Err(last());
    }
    let demoted = change(app, target, |_| Ok(Some(json!({ "role": DEMOTED })))).await?;
    match another_admin(app, target).await {
        Ok(true) => Ok(demoted),
        Ok(false) => {
            change(app, target, |_| Ok(Some(json!({ "role": "admin" })))).await?;
            Err(last())
        }
        Err(error) => {
            change(app, target, |_| Ok(Some(json!({ "role": "admin" })))).await?;
            Err(error)
        }
    }
}

async fn another_admin(app: &App, target: &User) -> Result<bool, ApiError> {
    let users: Api<User> = Api::all(app.client.clone());
    let all = users.list(&ListParams::default()).await.map_err(|error| from_kube(Noun::User, error))?;
    Ok(all.items.iter().any(|user| user.name_any() != target.name_any() && is_working_admin(user)))
}

/// Whether that user can do an admin's work.
fn is_working_admin(user: &User) -> bool {
    user.spec.role == UserRole::Admin && user.spec.approved && user.metadata.deletion_timestamp.is_none()
}
