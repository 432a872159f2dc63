//! The Lease that says that this controller lives. Only the cluster controller draws conclusions from it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kvmoor_crds::names;
use serde_json::json;

/// Time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// After a failure it is tried again soon.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// How long a renewal may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Three renewals may fail before anybody thinks that the host is lost.
const DURATION_SECONDS: i32 = 40;

/// Renews until it is dropped.
pub async fn renew(client: Client, system_namespace: String, node_name: String) {
    let api: Api<Lease> = Api::namespaced(client, &system_namespace);
    loop {
        let wait = match tokio::time::timeout(DEADLINE, once(&api, &node_name)).await {
            Ok(Ok(())) => RENEW_EVERY,
            Ok(Err(error)) => {
                let message = match &error {
                    kube::Error::Api(status) => status.message.clone(),
                    other => other.to_string(),
                };
                tracing::warn!(host.name = node_name, message, "cannot renew the host's lease");
                RETRY_EVERY
            }
            Err(_) => {
                tracing::warn!(host.name = node_name, "cannot renew the host's lease: no answer");
                RETRY_EVERY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn once(api: &Api<Lease>, node_name: &str) -> Result<(), kube::Error> {
    let name = names::host_lease(node_name);
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": { "holderIdentity": node_name, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now },
    });
    api.patch(&name, &PatchParams::apply(names::NODE_MANAGER).force(), &Patch::Apply(&lease)).await.map(|_| ())
}
