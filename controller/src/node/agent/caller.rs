//! Who calls: the API server, proved by a token for this host alone, or the node controller of another host. What the API
//! server shows to one host is of no use at another.

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use kvmoor_crds::agent::{PEER_AUDIENCE, audience};

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

/// The API server and the node controllers of that installation, as callers of that host.
pub fn callers(client: Client, system_namespace: &str, host: &str) -> Callers {
    let known = Known::new(system_namespace, host);
    Callers::new(client, known.audiences(), move |user, granted| known.judge(user, granted))
}

/// Whom a host knows.
struct Known {
    /// The API server's account, and the audience of its tokens.
    api_server: (String, String),
    /// The node controllers' account.
    nodes: String,
}

impl Known {
    fn new(system_namespace: &str, host: &str) -> Self {
        let api_server = format!("system:serviceaccount:{system_namespace}:kvmoor-api-server");
        Self { api_server: (api_server, audience(host)), nodes: node::account(system_namespace) }
    }

    fn audiences(&self) -> Vec<String> {
        vec![self.api_server.1.clone(), PEER_AUDIENCE.to_owned()]
    }

    fn judge(&self, user: &UserInfo, granted: &[&str]) -> Option<Caller> {
        let (api_server, audience) = &self.api_server;
        if user.username.as_ref() == Some(api_server) && granted.contains(&audience.as_str()) {
            return Some(Caller::ApiServer);
        }
        granted.contains(&PEER_AUDIENCE).then(|| node::node(user, &self.nodes).map(|_| Caller::Node)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::https::review::Verdict;

    fn verdict(status: serde_json::Value) -> Verdict<Caller> {
        let review = serde_json::json!({ "spec": {}, "status": status });
        let review = serde_json::from_value(review).unwrap();
        let known = Known::new("s", "host-0");
        review::judge(&review, &known.audiences(), |user, granted| known.judge(user, granted))
    }

    #[test]
    fn only_tokens_of_ours_for_this_host_are_good() {
        let user = |name: &str| serde_json::json!({ "username": name });
        let api = user("system:serviceaccount:s:kvmoor-api-server");
        let ours = serde_json::json!(["kvmoor-node/host-0"]);
        let peers = serde_json::json!(["kvmoor-node"]);
        let status = |authenticated: bool, user: &serde_json::Value, audiences: &serde_json::Value| {
            verdict(serde_json::json!({ "authenticated": authenticated, "user": user, "audiences": audiences }))
        };
        assert_eq!(status(true, &api, &ours), Verdict::Welcome(Caller::ApiServer));
        assert_eq!(status(false, &api, &ours), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!(["https://kubernetes.default.svc"])), Verdict::Bad);
        assert_eq!(status(true, &api, &serde_json::json!([])), Verdict::Bad);
        assert_eq!(
            status(true, &api, &serde_json::json!(["kvmoor-node/host-1"])),
            Verdict::Bad,
            "shown to another host"
        );
        assert_eq!(status(true, &api, &peers), Verdict::SomebodyElse, "it is no host");
        let other = user("system:serviceaccount:t:kvmoor-api-server");
        assert_eq!(status(true, &other, &ours), Verdict::SomebodyElse);
        let mut node = user("system:serviceaccount:s:kvmoor-controller-node");
        assert_eq!(status(true, &node, &peers), Verdict::SomebodyElse, "issued for no node");
        node["extra"] = serde_json::json!({ "authentication.kubernetes.io/node-name": ["host-1"] });
        assert_eq!(status(true, &node, &peers), Verdict::Welcome(Caller::Node));
        assert_eq!(status(true, &node, &ours), Verdict::SomebodyElse, "it is not the API server");
    }

    #[test]
    fn nobody_is_taken_for_somebody_else() {
        assert!(Caller::Node.must_be(Caller::Node).is_ok());
        assert!(Caller::Node.must_be(Caller::ApiServer).is_err());
        assert!(Caller::ApiServer.must_be(Caller::Node).is_err());
    }
}
