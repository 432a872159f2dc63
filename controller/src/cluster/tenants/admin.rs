//! The first admin: who it is, and what its Secret may do. Pure.
//!
//! The Secret `kvmoor-admin` makes an admin only where there is none. Later it sets the password of the admin that it
//! names, and of nobody else. There is no default password.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kvmoor_crds::{User, UserRole, names};

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name to log in with.
    pub username: String,
    /// The password. Never logged.
    pub password: String,
    /// Version of the Secret.
    pub version: String,
}

impl Credentials {
    /// Reads the Secret.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn of(secret: &Secret) -> Result<Self, &'static str> {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
            String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
        };
        Ok(Self {
            username: text("username").ok_or("the Secret kvmoor-admin has no username")?,
            password: text("password").ok_or("the Secret kvmoor-admin has no password")?,
            version: secret.resource_version().ok_or("the Secret kvmoor-admin has no version")?,
        })
    }
}

/// What to do for the user that the Secret names.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create it, as an approved admin.
    Create,
    /// Make an existing user an approved admin: nobody else is.
    Promote(Arc<User>),
    /// It is an admin: only its password may be set.
    Keep(Arc<User>),
    /// There are admins and it is none of them.
    Nothing,
}

/// What to do for the user with that name.
pub fn decide(username: &str, users: &[Arc<User>]) -> Action {
    let is_admin = |user: &User| user.spec.role == UserRole::Admin && user.spec.approved;
    let is_there = |user: &User| user.metadata.deletion_timestamp.is_none();
    let has_admin = users.iter().any(|user| is_admin(user) && is_there(user));
    let object = names::user_object(username);
    match users.iter().find(|user| user.name_any() == object) {
        Some(user) if !is_there(user) => Action::Nothing,
        Some(user) if is_admin(user) => Action::Keep(user.clone()),
        Some(user) if !has_admin => Action::Promote(user.clone()),
        None if !has_admin => Action::Create,
        _ => Action::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, role: &str, approved: bool) -> Arc<User> {
        let spec = serde_json::json!({ "username": name, "role": role, "approved": approved });
        Arc::new(User::new(&names::user_object(name), serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn the_secret_makes_an_admin_only_where_there_is_none() {
        assert_eq!(decide("root", &[]), Action::Create);
        assert_eq!(decide("root", &[user("ann", "user", true)]), Action::Create);
        assert_eq!(decide("root", &[user("ann", "admin", false)]), Action::Create);
        assert_eq!(decide("root", &[user("ann", "admin", true)]), Action::Nothing);
    }

    #[test]
    fn it_sets_the_password_of_the_admin_it_names_only() {
        let root = user("root", "admin", true);
        let ann = user("ann", "admin", true);
        assert_eq!(decide("Root", &[root.clone(), ann.clone()]), Action::Keep(root));
        let plain = user("root", "user", true);
        assert_eq!(decide("root", &[plain.clone(), ann]), Action::Nothing);
        assert_eq!(decide("root", std::slice::from_ref(&plain)), Action::Promote(plain));
    }

    #[test]
    fn a_secret_without_a_password_is_refused() {
        assert!(Credentials::of(&Secret::default()).is_err());
    }
}
