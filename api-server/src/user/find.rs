//! Finding users by the name they log in with.

use std::sync::Arc;

use kube::ResourceExt;
use kvmoor_crds::{User, names};

use crate::model::login_name;
use crate::store::{Key, Objects};

/// Whether that user logs in with that name. Case does not matter.
fn answers_to(user: &User, name: &str) -> bool {
    login_name(user).to_lowercase() == name
}

/// The user who logs in with that name. Should two have come to share one, it is the one created under it, or else the
/// older; with whose password the other cannot log in.
pub fn by_login_name(users: &Objects<User>, name: &str) -> Option<Arc<User>> {
    let lower = name.to_lowercase();
    let alive = |user: &&Arc<User>| user.metadata.deletion_timestamp.is_none() && answers_to(user, &lower);
    let created_under_it = users.get(&Key::namespaced("", &names::user_object(name))).filter(alive);
    let found = created_under_it.or_else(|| {
        users.all().filter(alive).min_by_key(|user| (user.creation_timestamp().map(|time| time.0), user.name_any()))
    });
    found.cloned()
}

/// Whether a user other than `except` logs in with that name or was created under it.
pub fn is_taken(users: &Objects<User>, name: &str, except: &str) -> bool {
    let lower = name.to_lowercase();
    users.all().any(|user| {
        user.name_any() != except && (answers_to(user, &lower) || user.spec.username.to_lowercase() == lower)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn users(given: &[(&str, Option<&str>)]) -> Objects<User> {
        let mut objects = Objects::default();
        for (username, login_name) in given {
            let object = json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User",
                "metadata": { "name": names::user_object(username), "uid": username },
                "spec": { "username": username, "loginName": login_name },
            });
            objects.put(serde_json::from_value(object).unwrap());
        }
        objects
    }

    fn found(users: &Objects<User>, name: &str) -> Option<String> {
        by_login_name(users, name).map(|user| user.spec.username.clone())
    }

    #[test]
    fn case_does_not_matter_and_old_names_do_not_count() {
        let users = users(&[("Admin", None), ("old", Some("New")), ("사용자", None)]);
        assert_eq!(found(&users, "aDMIN").as_deref(), Some("Admin"));
        assert_eq!(found(&users, "new").as_deref(), Some("old"));
        assert_eq!(found(&users, "old"), None);
        assert_eq!(found(&users, "사용자").as_deref(), Some("사용자"));
        assert_eq!(found(&users, "nobody"), None);
    }

    #[test]
    fn nobody_takes_over_a_name_by_renaming() {
        let users = users(&[("admin", None), ("mallory", Some("ADMIN"))]);
        assert_eq!(found(&users, "admin").as_deref(), Some("admin"));
        assert!(is_taken(&users, "Admin", "mallory"));
        assert!(is_taken(&users, "mallory", "admin"), "the name under which somebody was created stays taken");
        assert!(!is_taken(&users, "fresh", ""));
    }
}
