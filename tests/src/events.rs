//! Events beside an object.

use anyhow::{Context, Result};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use kvmoor_dev::Cluster;

use crate::vm::SOON;
use crate::wait;

/// Waits for a warning with that reason beside the object with that UID: its note.
pub async fn until_warned(cluster: &Cluster, namespace: &str, uid: &str, reason: &str) -> Result<String> {
    let api: Api<Event> = Api::namespaced(cluster.client().await?, namespace);
    let of_this = ListParams::default().fields(&format!("regarding.uid={uid}"));
    let look = || async {
        let events = api.list(&of_this).await?.items;
        let found = events
            .into_iter()
            .find(|event| event.reason.as_deref() == Some(reason) && event.type_.as_deref() == Some("Warning"));
        Ok(found.map(|event| event.note.unwrap_or_default()))
    };
    wait::until(&format!("a warning {reason}"), SOON, look, Option::is_some).await?.context("just seen")
}
