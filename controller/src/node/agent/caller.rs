//! Who calls: only the API server's service account, proved by a token for our audience.

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use kvmoor_crds::agent::AUDIENCE;

use crate::https::review;

/// Those who may call. Nothing more is to be known of them.
pub type Callers = review::Callers<()>;

/// The API server of that installation.
pub fn api_server(client: Client, system_namespace: &str) -> Callers {
    let account = account(system_namespace);
    Callers::new(client, AUDIENCE, move |user| judge(user, &account))
}

fn account(system_namespace: &str) -> String {
    format!("system:serviceaccount:{system_namespace}:kvmoor-api-server")
}

fn judge(user: &UserInfo, account: &str) -> Option<()> {
    (user.username.as_deref() == Some(account)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::https::review::Verdict;

    fn verdict(status: serde_json::Value) -> Verdict<()> {
        let review = serde_json::json!({ "spec": {}, "status": status });
        let review = serde_json::from_value(review).unwrap();
        review::judge(&review, AUDIENCE, |user| judge(user, &account("s")))
    }

    #[test]
    fn only_the_api_servers_token_for_our_audience_is_good() {
        let user = |name: &str| serde_json::json!({ "username": name });
        let api = user("system:serviceaccount:s:kvmoor-api-server");
        let ours = serde_json::json!([AUDIENCE]);
        let status = |authenticated: bool, user: &serde_json::Value, audiences: &serde_json::Value| {
            verdict(serde_json::json!({ "authenticated": authenticated, "user": user, "audiences": audiences }))
        };
        assert_eq!(status(true, &api, &ours), Verdict::Welcome(()));
        assert_eq!(status(false, &api, &ours), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!(["https://kubernetes.default.svc"])), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!([])), Verdict::Bad);
        let other = user("system:serviceaccount:t:kvmoor-api-server");
        assert_eq!(status(true, &other, &ours), Verdict::SomebodyElse);
    }
}
