//! Changes of a user's spec that hold only for what was read.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvmoor_crds::{User, names};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::vm::apply::{TRIES, is_conflict, pause};

/// Reads the user, writes what `change` makes of it, and tries again when somebody was faster. `change` answers `None`
/// when all is as it should be.
pub async fn change(
    app: &App,
    seen: &User,
    change: impl Fn(&User) -> Result<Option<Value>, ApiError>,
) -> Result<User, ApiError> {
    let users: Api<User> = Api::all(app.client.clone());
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    for attempt in 0..TRIES {
        let user = users.get(&seen.name_any()).await.map_err(|error| from_kube(Noun::User, error))?;
        if user.metadata.uid != seen.metadata.uid || user.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::NotFound(Noun::User));
        }
        let Some(spec) = change(&user)? else { return Ok(user) };
        let patch = json!({
            "metadata": { "uid": user.metadata.uid, "resourceVersion": user.metadata.resource_version },
            "spec": spec,
        });
        match users.patch(&user.name_any(), &params, &Patch::Merge(patch)).await {
            Ok(written) => {
                app.stores.users()?.wait_until_seen(&written).await;
                return Ok(written);
            }
            Err(error) if is_conflict(&error) => pause(attempt).await,
            Err(error) => return Err(from_kube(Noun::User, error)),
        }
    }
    Err(ApiError::Conflict("User is being changed by others at the same time; try again".to_owned()))
}

/// Ends all sessions of a user.
pub async fn end_sessions(app: &App, seen: &User) -> Result<User, ApiError> {
    change(app, seen, |user| Ok(Some(json!({ "sessionEpoch": user.spec.session_epoch.saturating_add(1) })))).await
}
