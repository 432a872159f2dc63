//! The Secret with a user's password hash.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use kvmoor_crds::{User, names};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};

fn api(app: &App) -> Api<Secret> {
    Api::namespaced(app.client.clone(), &app.system_namespace)
}

fn name_for(user: &User) -> String {
    let named = user.spec.password_secret_ref.as_ref().map(|reference| reference.name.clone());
    named.unwrap_or_else(|| names::password_secret(&user.name_any()))
}

/// The hash of `user`'s password. For nobody it asks for the Secret that `login_name` would have, so that the same call
/// is made whether there is such a user or not.
pub async fn hash_of(app: &App, user: Option<&User>, login_name: &str) -> Result<Option<String>, ApiError> {
    let name = user.map_or_else(|| names::password_secret(&names::user_object(login_name)), name_for);
    let secret = api(app).get_opt(&name).await.map_err(|error| from_kube(Noun::User, error))?;
    let (Some(user), Some(secret)) = (user, secret) else { return Ok(None) };
    if !belongs_to(&secret, user) {
        tracing::warn!(secret = name, "left out a password of an earlier user of that name");
        return Ok(None);
    }
    let hash = secret.data.as_ref().and_then(|data| data.get(names::PASSWORD_HASH_KEY));
    Ok(hash.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()))
}

/// Whether the Secret is this user's and not one left over from a user of the same name.
fn belongs_to(secret: &Secret, user: &User) -> bool {
    let mut owners = secret.owner_references().iter().filter(|owner| owner.kind == "User");
    owners.all(|owner| Some(&owner.uid) == user.metadata.uid.as_ref())
}

/// Stores the first hash of a new user's password.
pub async fn create(app: &App, user: &User, hash: &str) -> Result<(), ApiError> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name_for(user)),
            owner_references: Some(vec![owner(user)]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(names::PASSWORD_HASH_KEY.to_owned(), ByteString(hash.as_bytes().to_vec()))])),
        type_: Some("kvmoor.dev/password".to_owned()),
        ..Secret::default()
    };
    let api = api(app);
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    let outcome = match api.create(&params, &secret).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            // Nobody else has this user's name, so it is left over from an earlier one.
            let left_over = api.delete(&name_for(user), &DeleteParams::default()).await;
            left_over.map_err(|error| from_kube(Noun::User, error))?;
            api.create(&params, &secret).await
        }
        outcome => outcome,
    };
    outcome.map(drop).map_err(|error| from_kube(Noun::User, error))
}

/// Stores another hash.
pub async fn replace(app: &App, user: &User, hash: &str) -> Result<(), ApiError> {
    let patch = json!({ "data": { names::PASSWORD_HASH_KEY: ByteString(hash.as_bytes().to_vec()) } });
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    match api(app).patch(&name_for(user), &params, &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => create(app, user, hash).await,
        outcome => outcome.map(drop).map_err(|error| from_kube(Noun::User, error)),
    }
}

fn owner(user: &User) -> OwnerReference {
    OwnerReference {
        api_version: User::api_version(&()).into_owned(),
        kind: User::kind(&()).into_owned(),
        name: user.name_any(),
        uid: user.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_an_earlier_user_does_not_count() {
        let user = |uid: &str| -> User {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User",
                "metadata": { "name": "x", "uid": uid }, "spec": { "username": "x" },
            }))
            .unwrap()
        };
        let mut secret = Secret::default();
        assert!(belongs_to(&secret, &user("now")), "one without an owner is made by hand or by the cluster controller");
        secret.metadata.owner_references = Some(vec![owner(&user("before"))]);
        assert!(!belongs_to(&secret, &user("now")));
        assert!(belongs_to(&secret, &user("before")));
    }
}
