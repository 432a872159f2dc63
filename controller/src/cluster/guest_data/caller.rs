//! Who calls: a node controller, known with its node.

use kube::Client;
use kvmoor_crds::guest_data::AUDIENCE;

use crate::https::{node, review};

/// Those who may call, with the names of their nodes.
pub type Callers = review::Callers<String>;

/// The node controllers of that installation.
pub fn node_controllers(client: Client, system_namespace: &str) -> Callers {
    let account = node::account(system_namespace);
    Callers::new(client, vec![AUDIENCE.to_owned()], move |user, _| node::node(user, &account))
}
