//! Node controllers among the callers, known with their nodes. A token that was issued for no node is of no use.

use k8s_openapi::api::authentication::v1::UserInfo;

/// What a token says of the node that it was issued for, as the policy `kvmoor-node-restriction` reads it too.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// The account of the node controllers of that installation.
pub fn account(system_namespace: &str) -> String {
    format!("system:serviceaccount:{system_namespace}:kvmoor-controller-node")
}

/// The node of a caller of that account.
pub fn node(user: &UserInfo, account: &str) -> Option<String> {
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
