//! Snapshots: their ids, and how many each namespace has.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use kvmoor_crds::{VirtualMachineSnapshot, VirtualMachineSnapshotStatus, names};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::backoff::Backoff;
use crate::cluster::ids;
use crate::cluster::mirror::{Mirror, changes};
use crate::cluster::writer::{WriteError, Writer};

/// How long to wait when ids cannot be reserved.
const IDS_RETRY: Duration = Duration::from_millis(500);

/// How many snapshots each namespace has; nothing until that is known.
pub type CountByNamespace = Option<BTreeMap<String, u64>>;

/// What the loop works with.
pub struct Context {
    /// For watches.
    pub client: Client,
    /// For writes.
    pub writer: Writer,
    /// The ids of snapshots.
    pub ids: ids::Source,
    /// Where to tell how many there are.
    pub count: watch::Sender<CountByNamespace>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// Runs until told to stop.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(mut context: Context) -> anyhow::Result<()> {
    let mut inputs = changes(Api::<_>::all(context.client.clone()), watcher::Config::default());
    let mut known: Mirror<VirtualMachineSnapshot> = Mirror::default();
    let mut backoff = Backoff::default();
    let mut wake = None;
    loop {
        tokio::select! {
            () = context.stop.cancelled() => break,
            Some(change) = inputs.next() => {
                for uid in known.apply(change) {
                    backoff.forget(&uid);
                }
            }
            () = tokio::time::sleep_until(wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
        }
        wake = if known.is_complete() { turn(&mut context, &mut known, &mut backoff).await } else { None };
    }
    context.ids.settle().await;
    Ok(())
}

/// Gives ids to those without one. Answers when to come again though nothing happens.
async fn turn(
    context: &mut Context,
    known: &mut Mirror<VirtualMachineSnapshot>,
    backoff: &mut Backoff,
) -> Option<Instant> {
    let mut counts = BTreeMap::new();
    let mut waiting = Vec::new();
    for snapshot in known.values() {
        *counts.entry(snapshot.namespace().unwrap_or_default()).or_insert(0) += 1;
        match snapshot.status.as_ref().and_then(|status| status.id) {
            Some(id) => context.ids.seen(id),
            None if snapshot.metadata.deletion_timestamp.is_none() => waiting.push(snapshot.clone()),
            None => {}
        }
    }
    context.count.send_if_modified(|told| {
        let differs = told.as_ref() != Some(&counts);
        if differs {
            *told = Some(counts);
        }
        differs
    });
    let now = Instant::now();
    if let Err(error) = context.ids.reserve(waiting.len()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids, trying again");
        return Some(now + IDS_RETRY);
    }
    waiting.sort_by_key(|snapshot| (snapshot.creation_timestamp().map(|time| time.0), snapshot.name_any()));
    let mut wake: Option<Instant> = None;
    for snapshot in waiting {
        let uid = snapshot.uid().unwrap_or_default();
        let due = match backoff.due_after(&uid, now) {
            Some(due) => Some(due),
            None => match number(context, &snapshot).await {
                Ok(written) => {
                    backoff.forget(&uid);
                    written.into_iter().for_each(|written| known.absorb(written));
                    None
                }
                Err(WriteError::Gone) => None,
                Err(error) => {
                    let (namespace, name) = (snapshot.namespace(), snapshot.name_any());
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(namespace, name, error, "cannot write the id of a snapshot, trying again");
                    backoff.failed(&uid, now);
                    backoff.due_after(&uid, now)
                }
            },
        };
        wake = [wake, due].into_iter().flatten().min();
    }
    wake
}

async fn number(
    context: &mut Context,
    snapshot: &VirtualMachineSnapshot,
) -> Result<Option<VirtualMachineSnapshot>, WriteError> {
    let Some(id) = context.ids.take() else { return Ok(None) };
    let (name, namespace) = (snapshot.name_any(), snapshot.namespace().unwrap_or_default());
    let api: Api<VirtualMachineSnapshot> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": VirtualMachineSnapshot::api_version(&()),
        "kind": VirtualMachineSnapshot::kind(&()),
        "metadata": { "name": name, "namespace": namespace, "resourceVersion": snapshot.resource_version() },
        "status": VirtualMachineSnapshotStatus { id: Some(id), ..VirtualMachineSnapshotStatus::default() },
    });
    let params = PatchParams::apply(names::CLUSTER_MANAGER);
    context.writer.write(api.patch_status(&name, &params, &Patch::Apply(body))).await.map(Some)
}
