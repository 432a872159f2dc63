//! What is left of virtual machines that are no longer here.
//!
//! Domains that carry our name but belong to no virtual machine of this host are reported and never touched: that an
//! object is not in a list proves nothing. What this process remembers of one that is gone is forgotten.

use std::collections::HashSet;

use kube::Resource;
use kube::runtime::reflector::Store;
use kvmoor_crds::names;

use super::context::{Context, Root};
use super::hypervisor::Hypervisor;

/// Forgets what is gone, reports domains that were not reported before, and returns all that there are now.
pub async fn sweep<H: Hypervisor>(
    ctx: &Context<H>,
    machines: &Store<Root>,
    before: &HashSet<String>,
) -> HashSet<String> {
    // Read before the list: whoever is remembered now and not in the list then is gone.
    let remembered = ctx.known.uids();
    let listed = ctx.hypervisor.domains("kvmoor-").await;
    // A guest that is made meanwhile makes its network again if it has to.
    if let Err(error) = ctx.hypervisor.remove_unused_networks(names::NAMESPACE_NETWORK_PREFIX).await {
        tracing::debug!(%error, "cannot remove unused networks");
    }
    let uids: HashSet<String> = machines.state().iter().filter_map(|root| root.meta().uid.clone()).collect();
    for uid in remembered.iter().filter(|uid| !uids.contains(*uid)) {
        ctx.forget(uid);
    }
    let snapshots: HashSet<String> =
        ctx.queue.snapshots().filter_map(|snapshot| snapshot.metadata.uid.clone()).collect();
    ctx.told.snapshots.retain(|uid| snapshots.contains(uid));
    let restores = ctx.queue.restores.state();
    let restores: HashSet<String> = restores.iter().filter_map(|root| root.meta().uid.clone()).collect();
    ctx.told.restores.retain(|uid| restores.contains(uid));
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(%error, "cannot look for orphans");
            return before.clone();
        }
    };
    let names = listed.into_iter().map(|domain| domain.name);
    let orphans: HashSet<String> =
        names.filter(|name| name.strip_prefix("kvmoor-").is_some_and(|uid| !uids.contains(uid))).collect();
    for name in orphans.difference(before) {
        tracing::warn!(domain.name = name, "no virtual machine of this host owns this domain; it is left alone");
    }
    orphans
}
