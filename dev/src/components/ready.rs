//! When a cluster can be used: the API server serves, a cluster controller leads, every host's controller lives.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kvmoor_crds::names;

use super::{Components, SYSTEM_NAMESPACE, node_name};
use crate::deadline::until;

/// Generous: a leader that was killed holds its Lease for some time.
const READY: Duration = Duration::from_secs(90);
const PROBE: Duration = Duration::from_secs(3);

/// Waits for all of it. Leases renewed before `since` are those of an earlier run; so is that of a leader that was killed
/// and started again, until it leads anew.
pub(crate) async fn wait_ready(
    components: &Components,
    client: &Client,
    listen: SocketAddr,
    since: Timestamp,
) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let leads_since = components.cluster_controller.started_at().map_or(since, |started| started.max(since));
    let mut fresh = vec![(names::LEADER_LEASE.to_owned(), leads_since)];
    fresh.extend((0..components.node_controllers.len()).map(|host| (names::host_lease(&node_name(host)), since)));
    let http = reqwest::Client::builder().timeout(PROBE).no_proxy().build()?;
    // That it reaches the Kubernetes API; and that it has read from there what it answers from.
    let probes = ["health", "ready"].map(|probe| format!("http://{listen}/api/{probe}"));
    let ready = || async {
        for part in components.all() {
            if part.is_wanted() && part.id().is_none() {
                bail!(part.epitaph());
            }
        }
        for (name, since) in &fresh {
            if !leases.get_opt(name).await?.is_some_and(|lease| is_fresh(&lease, *since)) {
                return Ok(false);
            }
        }
        for probe in &probes {
            if !http.get(probe).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    until(READY, "the controllers hold their leases and the API server serves", ready).await
}

fn is_fresh(lease: &Lease, since: Timestamp) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).is_some_and(|time| time.0 >= since)
}
