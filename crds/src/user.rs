//! User: somebody who may log in over REST. The password's hash stands in a Secret, never here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Somebody who may log in over REST and owns a namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kvmoor.dev",
    version = "v1alpha1",
    kind = "User",
    plural = "users",
    shortname = "kvmuser",
    category = "kvmoor",
    status = "UserStatus",
    derive = "PartialEq",
    doc = "Somebody who may log in over REST and owns a namespace.",
    printcolumn(name = "Username", type_ = "string", json_path = ".spec.username"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Approved", type_ = "boolean", json_path = ".spec.approved"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.username == oldSelf.username").message("username cannot change; loginName can"),
    validation = Rule::new("self.sessionEpoch >= oldSelf.sessionEpoch").message("sessionEpoch must not go back: ended sessions would live again")
)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// The name under which the user was created. Unique without regard to case, because the object's name derives from it.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')").message("username must not hold control characters"))]
    pub username: String,
    /// The name to log in with and to show, where it differs from username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub login_name: Option<String>,
    /// E-mail address, as the user gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    pub email: Option<String>,
    /// What the user may do.
    #[serde(default)]
    pub role: UserRole,
    /// Whether the user may log in.
    #[serde(default)]
    pub approved: bool,
    /// The Secret in the system namespace with the password's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretReference>,
    /// Sessions of another epoch are refused: raise it to end all sessions of the user.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub session_epoch: i64,
    /// Public keys that may log in to each of the user's virtual machines made from now on, in the format of OpenSSH's authorized_keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 8192)))]
    pub ssh_authorized_keys: Vec<String>,
}

/// What a user may do.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// Everything, with everybody's virtual machines.
    Admin,
    /// Its own virtual machines.
    #[default]
    User,
}

/// A Secret of the system namespace.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What is, as the cluster controller knows it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// Small number of the user in the REST API; never given twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The user's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Conditions, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
