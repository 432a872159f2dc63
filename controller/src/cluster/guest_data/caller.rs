//! Who calls: a node controller, known with its node. A token that was issued for no node is of no use.

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use kvmoor_crds::guest_data::AUDIENCE;

use crate::https::review;

/// What a token says of the node that it was issued for, as the policy `kvmoor-node-restriction` reads it too.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// Those who may call, with the names of their nodes.
pub type Callers = review::Callers<String>;

/// The node controllers of that installation.
pub fn node_controllers(client: Client, system_namespace: &str) -> Callers {
    let account = format!("system:serviceaccount:{system_namespace}:kvmoor-controller-node");
    Callers::new(client, AUDIENCE, move |user| node(user, &account))
}

fn node(user: &UserInfo, account: &str) -> Option<String> {
    if user.username.as_deref() != Some(account) {
        return None;
    }
    match user.extra.as_ref()?.get(NODE_CLAIM)?.as_slice() {
        [node] if !node.is_empty() => Some(node.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_node_controller_with_a_node_may_call() {
        let of = |user: serde_json::Value| node(&serde_json::from_value(user).unwrap(), "ours");
        let extra = json!({ NODE_CLAIM: ["host-0"] });
        assert_eq!(of(json!({ "username": "ours", "extra": extra })), Some("host-0".to_owned()));
        assert_eq!(of(json!({ "username": "theirs", "extra": extra })), None);
        assert_eq!(of(json!({ "username": "ours" })), None);
        assert_eq!(of(json!({ "username": "ours", "extra": { NODE_CLAIM: [] } })), None);
        assert_eq!(of(json!({ "username": "ours", "extra": { NODE_CLAIM: ["a", "b"] } })), None);
        assert_eq!(of(json!({ "username": "ours", "extra": { NODE_CLAIM: [""] } })), None);
    }
}
