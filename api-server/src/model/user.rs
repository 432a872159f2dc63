//! A user over REST.

use jiff::Timestamp;
use kube::ResourceExt;
use kvmoor_crds::UserRole;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::Stored;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, with everybody's virtual machines.
    Admin,
    /// Its own virtual machines.
    #[default]
    User,
}

impl From<UserRole> for Role {
    fn from(role: UserRole) -> Self {
        match role {
            UserRole::Admin => Self::Admin,
            UserRole::User => Self::User,
        }
    }
}

impl From<Role> for UserRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::User => Self::User,
        }
    }
}

/// The name to log in with and to show.
pub fn login_name(user: &kvmoor_crds::User) -> &str {
    user.spec.login_name.as_deref().unwrap_or(&user.spec.username)
}

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Number, never given twice.
    #[schema(minimum = 1, example = 2)]
    pub id: i64,
    /// UUID of the user.
    #[schema(format = Uuid)]
    pub uuid: String,
    /// Name to log in with.
    #[schema(example = "newuser")]
    pub username: String,
    /// E-mail address, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "user@example.com")]
    pub email: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may log in.
    pub approved: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Namespace of the user's virtual machines, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "kvmoor-user-newuser")]
    pub namespace: Option<String>,
}

impl User {
    /// The user over REST; `None` as long as it has no number.
    pub fn new(user: &kvmoor_crds::User) -> Option<Self> {
        let created_at = user.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let changes = user.managed_fields().iter().filter_map(|entry| entry.time.as_ref()).map(|time| time.0);
        Some(Self {
            id: user.id()?,
            uuid: user.uid().unwrap_or_default(),
            username: login_name(user).to_owned(),
            email: user.spec.email.clone(),
            role: user.spec.role.into(),
            approved: user.spec.approved,
            created_at,
            updated_at: changes.fold(created_at, Timestamp::max),
            namespace: user.tenant_namespace().map(str::to_owned),
        })
    }
}

/// The user of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionUser {
    /// Number.
    #[schema(minimum = 1, example = 1)]
    pub id: i64,
    /// Name to log in with.
    #[schema(example = "admin")]
    pub username: String,
    /// What the user may do.
    pub role: Role,
}

impl SessionUser {
    /// The user of a session, with its number.
    pub fn new(user: &kvmoor_crds::User, id: i64) -> Self {
        Self { id, username: login_name(user).to_owned(), role: user.spec.role.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_the_login_name_and_the_newest_change() {
        let user: kvmoor_crds::User = serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User",
            "metadata": {
                "name": "newuser", "uid": "u", "creationTimestamp": "2024-12-23T10:00:00Z",
                "managedFields": [{ "manager": "kvmoor-api-server", "operation": "Update", "time": "2024-12-23T11:00:00Z" }],
            },
            "spec": { "username": "newuser", "loginName": "Renamed", "approved": true },
            "status": { "id": 2, "namespace": "kvmoor-user-newuser" },
        }))
        .unwrap();
        let value = serde_json::to_value(User::new(&user).unwrap()).unwrap();
        let expected = json!({
            "id": 2, "uuid": "u", "username": "Renamed", "role": "user", "approved": true,
            "created_at": "2024-12-23T10:00:00Z", "updated_at": "2024-12-23T11:00:00Z", "namespace": "kvmoor-user-newuser",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn roles_convert_both_ways() {
        for role in [Role::Admin, Role::User] {
            assert_eq!(Role::from(UserRole::from(role)), role);
        }
    }
}
