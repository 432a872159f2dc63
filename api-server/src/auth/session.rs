//! Sessions that outlast a request: what was opened with one is closed when it ends.

use std::time::Duration;

use jiff::Timestamp;
use kvmoor_crds::{User, UserRole};

use crate::app::App;
use crate::store::Objects;

/// How a session stood when something was opened with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// UID of the user.
    pub uid: String,
    /// The user's session epoch.
    pub epoch: i64,
    /// When the session ends, in seconds since 1970.
    pub until: i64,
    /// The user's role.
    pub role: UserRole,
}

impl Session {
    /// Whether sessions of `epoch` are in force for the user as it is now.
    pub fn in_force(user: &User, epoch: i64) -> bool {
        user.spec.approved && user.spec.session_epoch == epoch && user.metadata.deletion_timestamp.is_none()
    }

    /// Waits until the session ends or its user has another role; answers what happened, in a sentence.
    pub async fn ended(&self, app: &App) -> &'static str {
        let Ok(users) = app.stores.users() else { return "The server has lost sight of your account" };
        let mut changes = users.subscribe();
        let changed = async {
            loop {
                if let Some(reason) = self.why_ended(&users.read()) {
                    return reason;
                }
                if changes.changed().await.is_err() {
                    return "The server has lost sight of your account";
                }
            }
        };
        tokio::select! {
            reason = changed => reason,
            () = self.expired() => "Your session has expired",
        }
    }

    fn why_ended(&self, users: &Objects<User>) -> Option<&'static str> {
        let user = users.by_uid(&self.uid);
        match user {
            Some(user) if !Self::in_force(user, self.epoch) => Some("Your session has ended"),
            Some(user) if user.spec.role != self.role => Some("Your role has changed; connect again"),
            Some(_) => None,
            None => Some("Your account is gone"),
        }
    }

    async fn expired(&self) {
        // In short steps, because the clock may be set.
        loop {
            let left = self.until.saturating_sub(Timestamp::now().as_second());
            if left <= 0 {
                return;
            }
            tokio::time::sleep(Duration::from_secs(left.unsigned_abs().min(60))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn users(spec: serde_json::Value) -> Objects<User> {
        let mut spec = spec;
        spec["username"] = json!("u");
        let mut all = Objects::default();
        let user = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User", "metadata": { "name": "u", "uid": "uid" }, "spec": spec,
        });
        all.put(serde_json::from_value(user).unwrap());
        all
    }

    #[test]
    fn ends_with_the_epoch_the_approval_the_role_and_the_user() {
        let session = Session { uid: "uid".into(), epoch: 2, until: i64::MAX, role: UserRole::Admin };
        let good = json!({ "approved": true, "sessionEpoch": 2, "role": "admin" });
        assert_eq!(session.why_ended(&users(good.clone())), None);
        for (field, value) in [("approved", json!(false)), ("sessionEpoch", json!(3)), ("role", json!("user"))] {
            let mut changed = good.clone();
            changed[field] = value;
            assert!(session.why_ended(&users(changed)).is_some(), "{field}");
        }
        assert!(session.why_ended(&Objects::default()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn expires() {
        let begin = tokio::time::Instant::now();
        let until = Timestamp::now().as_second();
        Session { uid: String::new(), epoch: 0, until, role: UserRole::User }.expired().await;
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}
