//! Who calls: the API server, or the node controller of another host, proved by a token for our audience.

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use kvmoor_crds::agent::AUDIENCE;

use super::answer::Refusal;
use crate::https::{node, review};

/// Those who may call.
pub type Callers = review::Callers<Caller>;

/// One who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The API server: whatever its users may see, and files of images to store.
    ApiServer,
    /// The node controller of a host: files of images to read, and nothing else.
    Node,
}

impl Caller {
    /// Refuses everybody else.
    pub fn must_be(self, expected: Self) -> Result<(), Refusal> {
        if self == expected { Ok(()) } else { Err(Refusal::forbidden("this account has no business here")) }
    }
}

/// The API server and the node controllers of that installation.
pub fn callers(client: Client, system_namespace: &str) -> Callers {
    let (api_server, nodes) = (account(system_namespace), node::account(system_namespace));
    Callers::new(client, AUDIENCE, move |user| judge(user, &api_server, &nodes))
}

fn account(system_namespace: &str) -> String {
    format!("system:serviceaccount:{system_namespace}:kvmoor-api-server")
}

fn judge(user: &UserInfo, api_server: &str, nodes: &str) -> Option<Caller> {
    if user.username.as_deref() == Some(api_server) {
        return Some(Caller::ApiServer);
    }
    node::node(user, nodes).map(|_| Caller::Node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::https::review::Verdict;

    fn verdict(status: serde_json::Value) -> Verdict<Caller> {
        let review = serde_json::json!({ "spec": {}, "status": status });
        let review = serde_json::from_value(review).unwrap();
        review::judge(&review, AUDIENCE, |user| judge(user, &account("s"), &node::account("s")))
    }

    #[test]
    fn only_tokens_of_ours_for_our_audience_are_good() {
        let user = |name: &str| serde_json::json!({ "username": name });
        let api = user("system:serviceaccount:s:kvmoor-api-server");
        let ours = serde_json::json!([AUDIENCE]);
        let status = |authenticated: bool, user: &serde_json::Value, audiences: &serde_json::Value| {
            verdict(serde_json::json!({ "authenticated": authenticated, "user": user, "audiences": audiences }))
        };
        assert_eq!(status(true, &api, &ours), Verdict::Welcome(Caller::ApiServer));
        assert_eq!(status(false, &api, &ours), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!(["https://kubernetes.default.svc"])), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!([])), Verdict::Bad);
        let other = user("system:serviceaccount:t:kvmoor-api-server");
        assert_eq!(status(true, &other, &ours), Verdict::SomebodyElse);
        let mut node = user("system:serviceaccount:s:kvmoor-controller-node");
        assert_eq!(status(true, &node, &ours), Verdict::SomebodyElse, "issued for no node");
        node["extra"] = serde_json::json!({ "authentication.kubernetes.io/node-name": ["host-1"] });
        assert_eq!(status(true, &node, &ours), Verdict::Welcome(Caller::Node));
    }

    #[test]
    fn nobody_is_taken_for_somebody_else() {
        assert!(Caller::Node.must_be(Caller::Node).is_ok());
        assert!(Caller::Node.must_be(Caller::ApiServer).is_err());
        assert!(Caller::ApiServer.must_be(Caller::Node).is_err());
    }
}
