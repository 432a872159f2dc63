//! Quotas: their ids, the default one, and what is used. Whether something fits is decided with the virtual machines.

mod usage;

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::StreamExt as _;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use kvmoor_crds::{Quota, QuotaSpec, QuotaStatus, QuotaUsed, names, quantity};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::backoff::Backoff;
use crate::cluster::ids;
use crate::cluster::mirror::{Mirror, changes};
use crate::cluster::snapshots::CountByNamespace;
use crate::cluster::vms::{DEFAULT_LIMITS, UsageByNamespace};
use crate::cluster::writer::{WriteError, Writer};

/// How long to wait when the default Quota cannot be made or ids cannot be reserved.
const RETRY: Duration = Duration::from_secs(1);

/// What the loop works with.
pub struct Context {
    /// For watches.
    pub client: Client,
    /// For writes.
    pub writer: Writer,
    /// The ids of Quotas.
    pub ids: ids::Source,
    /// Where the default Quota is.
    pub system_namespace: String,
    /// What each namespace uses.
    pub usage: watch::Receiver<UsageByNamespace>,
    /// How many snapshots each namespace has.
    pub snapshots: watch::Receiver<CountByNamespace>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// Runs until told to stop.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let mut inputs = changes(Api::all(context.client.clone()), watcher::Config::default());
    let reconciles = context.writer.reconciles();
    let mut books = Books { context, quotas: Mirror::default(), written: HashMap::new(), backoff: Backoff::default() };
    let mut wake = None;
    loop {
        tokio::select! {
            () = books.context.stop.cancelled() => break,
            Some(change) = inputs.next() => {
                for uid in books.quotas.apply(change) {
                    books.backoff.forget(&uid);
                    books.written.remove(&uid);
                }
            }
            Ok(()) = books.context.usage.changed() => {}
            Ok(()) = books.context.snapshots.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
        }
        wake = if books.quotas.is_complete() { reconciles.time(books.turn()).await } else { None };
    }
    books.context.ids.settle().await;
    Ok(())
}

struct Books {
    context: Context,
    quotas: Mirror<Quota>,
    /// When the status of each was last written.
    written: HashMap<String, Instant>,
    backoff: Backoff,
}

impl Books {
    /// Writes what is due. Answers when to come again though nothing happens.
    async fn turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if !self.quotas.values().any(|quota| quota.namespace().as_deref() == Some(&self.context.system_namespace)) {
            // Its event comes soon and is the next turn.
            return match self.create_default().await {
                Ok(()) => None,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot make the default Quota, trying again");
                    Some(now + RETRY)
                }
            };
        }
        let mut missing = 0;
        for quota in self.quotas.values() {
            match quota.status.as_ref().and_then(|status| status.id) {
                Some(id) => self.context.ids.seen(id),
                None => missing += 1,
            }
        }
        if let Err(error) = self.context.ids.reserve(missing).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids, trying again");
            return Some(now + RETRY);
        }
        let usage = self.context.usage.borrow_and_update().clone()?;
        let snapshots = self.context.snapshots.borrow_and_update().clone()?;
        let mut quotas: Vec<_> = self.quotas.values().cloned().collect();
        quotas.sort_by_key(|quota| (quota.creation_timestamp().map(|time| time.0), quota.namespace()));
        let mut wake = None;
        for quota in quotas {
            let namespace = quota.namespace().unwrap_or_default();
            let used = usage::used(
                usage.get(&namespace).copied().unwrap_or_default(),
                snapshots.get(&namespace).copied().unwrap_or_default(),
            );
            wake = [wake, self.keep(&quota, used, now).await].into_iter().flatten().min();
        }
        wake
    }

    /// Writes the status of one Quota if that is due; answers when it will be otherwise.
    async fn keep(&mut self, quota: &Quota, used: QuotaUsed, now: Instant) -> Option<Instant> {
        let uid = quota.uid()?;
        let due = usage::due(quota.status.as_ref(), &used, self.written.get(&uid).copied(), now)?;
        let due = self.backoff.due_after(&uid, now).map_or(due, |backoff| backoff.max(due));
        if due > now {
            return Some(due);
        }
        match self.write_status(quota, used).await {
            Ok(Some(written)) => {
                self.backoff.forget(&uid);
                self.written.insert(uid, now);
                self.quotas.absorb(written);
                None
            }
            // Its next event, or there is none to come.
            Ok(None) | Err(WriteError::Gone | WriteError::Conflict) => None,
            Err(error) => {
                let (namespace, error) = (quota.namespace(), &error as &dyn std::error::Error);
                tracing::warn!(namespace, error, "cannot write the status of a Quota, trying again");
                self.backoff.failed(&uid, now);
                self.backoff.due_after(&uid, now)
            }
        }
    }

    async fn write_status(&mut self, quota: &Quota, used: QuotaUsed) -> Result<Option<Quota>, WriteError> {
        let id = match quota.status.as_ref().and_then(|status| status.id) {
            Some(id) => id,
            None => match self.context.ids.take() {
                Some(id) => id,
                None => return Ok(None),
            },
        };
        let (name, namespace) = (quota.name_any(), quota.namespace().unwrap_or_default());
        let api: Api<Quota> = Api::namespaced(self.context.client.clone(), &namespace);
        let body = json!({
            "apiVersion": Quota::api_version(&()),
            "kind": Quota::kind(&()),
            "metadata": { "name": name, "namespace": namespace, "resourceVersion": quota.resource_version() },
            "status": QuotaStatus { id: Some(id), used: Some(used) },
        });
        let params = PatchParams::apply(names::CLUSTER_MANAGER);
        self.context.writer.write(api.patch_status(&name, &params, &Patch::Apply(body))).await.map(Some)
    }

    /// Makes the Quota that holds for every namespace without one of its own.
    async fn create_default(&self) -> Result<(), WriteError> {
        let quota = Quota {
            metadata: ObjectMeta {
                name: Some(names::QUOTA_NAME.to_owned()),
                namespace: Some(self.context.system_namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: QuotaSpec {
                max_vms: i64::try_from(DEFAULT_LIMITS.vms).unwrap_or(i64::MAX),
                max_cpu: i64::try_from(DEFAULT_LIMITS.cpu).unwrap_or(i64::MAX),
                max_memory: quantity::from_bytes(DEFAULT_LIMITS.memory),
                max_snapshots: None,
                max_disk: DEFAULT_LIMITS.disk.map(quantity::from_bytes),
            },
            status: None,
        };
        let api: Api<Quota> = Api::namespaced(self.context.client.clone(), &self.context.system_namespace);
        let params = PostParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PostParams::default() };
        match self.context.writer.write(api.create(&params, &quota)).await {
            Ok(_) => {
                tracing::info!("made the default Quota");
                Ok(())
            }
            Err(WriteError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
