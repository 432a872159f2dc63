//! Snapshots and restores: ids, admission, the host, finalizers; and how many each namespace has.
//!
//! A snapshot is on the host of its virtual machine and goes with it. What is decided is in [`decide`]; writes follow one
//! another, and each answer counts as seen, so that the quota is never charged too little.

mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, SelectAll, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use kvmoor_crds::conditions::{Finding, Truth, find, types};
use kvmoor_crds::{
    Quota, RestorePhase, SnapshotPhase, VirtualMachine, VirtualMachineRestore, VirtualMachineRestoreStatus,
    VirtualMachineSnapshot, VirtualMachineSnapshotStatus, names,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decide::{Decision, RestoreDecision, Vm, Vms, decide, decide_restore, is_admitted};
use crate::cluster::backoff::Backoff;
use crate::cluster::ids;
use crate::cluster::mirror::{Change, Mirror, View, changes};
use crate::cluster::writer::{WriteError, Writer};
use crate::warnings::{Warning, Warnings, about};

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
    /// Where the default Quota is.
    pub system_namespace: String,
    /// Where to tell how many there are.
    pub count: watch::Sender<CountByNamespace>,
    /// Where warnings go.
    pub warnings: Warnings,
    /// When to stop.
    pub stop: CancellationToken,
}

enum Input {
    Snapshot(Change<VirtualMachineSnapshot>),
    Restore(Change<VirtualMachineRestore>),
    Vm(Box<Change<VirtualMachine>>),
    Quota(Change<Quota>),
}

/// A virtual machine with what is asked for here.
#[derive(Debug)]
struct Place {
    key: (String, String),
    vm: Vm,
}

impl View<VirtualMachine> for Place {
    fn of(object: VirtualMachine, _previous: Option<&Self>) -> Self {
        Self {
            key: (object.namespace().unwrap_or_default(), object.name_any()),
            vm: Vm {
                uid: object.uid().unwrap_or_default(),
                is_leaving: object.metadata.deletion_timestamp.is_some(),
                node: object.spec.node_name,
            },
        }
    }
}

/// Runs until told to stop.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let mut inputs = watch_all(&context.client);
    let reconciles = context.writer.reconciles();
    let mut keeper = Keeper {
        context,
        snapshots: Mirror::default(),
        restores: Mirror::default(),
        vms: Mirror::default(),
        quotas: Mirror::default(),
        backoff: Backoff::default(),
    };
    let mut wake = None;
    loop {
        tokio::select! {
            () = keeper.context.stop.cancelled() => break,
            Some(input) = inputs.next() => keeper.heard(input),
            () = tokio::time::sleep_until(wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
        }
        // Whatever else is there belongs to the same turn.
        while let Some(Some(input)) = inputs.next().now_or_never() {
            keeper.heard(input);
        }
        wake = reconciles.time(keeper.turn()).await;
    }
    keeper.context.ids.settle().await;
    Ok(())
}

fn watch_all(client: &Client) -> SelectAll<stream::BoxStream<'static, Input>> {
    let all = watcher::Config::default;
    stream::select_all([
        changes(Api::all(client.clone()), all()).map(Input::Snapshot).boxed(),
        changes(Api::all(client.clone()), all()).map(Input::Restore).boxed(),
        changes(Api::all(client.clone()), all()).map(|change| Input::Vm(Box::new(change))).boxed(),
        changes(Api::all(client.clone()), all()).map(Input::Quota).boxed(),
    ])
}

struct Keeper {
    context: Context,
    snapshots: Mirror<VirtualMachineSnapshot>,
    restores: Mirror<VirtualMachineRestore>,
    vms: Mirror<Place>,
    quotas: Mirror<Quota>,
    backoff: Backoff,
}

impl Keeper {
    fn heard(&mut self, input: Input) {
        let gone = match input {
            Input::Snapshot(change) => self.snapshots.apply(change),
            Input::Restore(change) => self.restores.apply(change),
            Input::Vm(change) => self.vms.apply(*change),
            Input::Quota(change) => self.quotas.apply(change),
        };
        for uid in gone {
            self.backoff.forget(&uid);
        }
    }

    /// Decides and writes. Answers when to come again though nothing happens.
    async fn turn(&mut self) -> Option<Instant> {
        let is_complete = self.snapshots.is_complete()
            && self.restores.is_complete()
            && self.vms.is_complete()
            && self.quotas.is_complete();
        if !is_complete {
            return None;
        }
        let mut snapshots: Vec<_> = self.snapshots.values().cloned().collect();
        snapshots.sort_by_key(|snapshot| {
            let id = snapshot.status.as_ref().and_then(|status| status.id).unwrap_or(i64::MAX);
            (snapshot.creation_timestamp().map(|time| time.0), id, snapshot.name_any())
        });
        self.tell_count(&snapshots);
        let mut missing = 0;
        for snapshot in &snapshots {
            match snapshot.status.as_ref().and_then(|status| status.id) {
                Some(id) => self.context.ids.seen(id),
                None => missing += 1,
            }
        }
        if let Err(error) = self.context.ids.reserve(missing).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids, trying again");
            return Some(Instant::now() + IDS_RETRY);
        }
        let vms: Vms = self.vms.values().map(|place| (place.key.clone(), place.vm.clone())).collect();
        let decisions = decide(&snapshots, &vms, |namespace| self.limit(namespace));
        let mut wake: Option<Instant> = None;
        for (snapshot, decision) in snapshots.iter().zip(decisions) {
            if decision != Decision::Nothing {
                let uid = snapshot.uid().unwrap_or_default();
                let result = match self.backoff.due_after(&uid, Instant::now()) {
                    Some(due) => Err(due),
                    None => Ok(self.carry_out(snapshot, decision).await),
                };
                wake = earliest(wake, self.settle(&uid, &snapshot.name_any(), result));
            }
        }
        for restore in self.restores.values().cloned().collect::<Vec<_>>() {
            wake = earliest(wake, self.look_at_restore(&restore).await);
        }
        wake
    }

    fn tell_count(&self, snapshots: &[Arc<VirtualMachineSnapshot>]) {
        let mut counts = BTreeMap::new();
        for snapshot in snapshots.iter().filter(|snapshot| is_admitted(snapshot)) {
            *counts.entry(snapshot.namespace().unwrap_or_default()).or_insert(0) += 1;
        }
        self.context.count.send_if_modified(|told| {
            let differs = told.as_ref() != Some(&counts);
            if differs {
                *told = Some(counts);
            }
            differs
        });
    }

    /// How many snapshots a namespace may have: by its own Quota, or else by the default one.
    fn limit(&self, namespace: &str) -> Option<u64> {
        let of = |namespace: &str| {
            self.quotas.values().find(|quota| quota.namespace().as_deref() == Some(namespace)).cloned()
        };
        let quota = of(namespace).or_else(|| of(&self.context.system_namespace))?;
        quota.spec.max_snapshots.map(|most| u64::try_from(most).unwrap_or(0))
    }

    /// Takes note of what came of an attempt, or of when it is due.
    fn settle(&mut self, uid: &str, name: &str, result: Result<Result<(), WriteError>, Instant>) -> Option<Instant> {
        match result {
            Err(due) => Some(due),
            Ok(Ok(())) => {
                self.backoff.forget(uid);
                None
            }
            // Its next event.
            Ok(Err(WriteError::Gone | WriteError::Conflict)) => None,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(name, error, "cannot write a snapshot or restore, trying again");
                self.backoff.failed(uid, Instant::now());
                self.backoff.due_after(uid, Instant::now())
            }
        }
    }

    async fn carry_out(&mut self, snapshot: &VirtualMachineSnapshot, decision: Decision) -> Result<(), WriteError> {
        let (name, namespace) = (snapshot.name_any(), snapshot.namespace().unwrap_or_default());
        let api: Api<VirtualMachineSnapshot> = Api::namespaced(self.context.client.clone(), &namespace);
        match decision {
            Decision::Nothing => Ok(()),
            Decision::Tell { findings, bind } => {
                let told = self.tell(&api, snapshot, findings, bind.as_ref().map(|(_, vm)| vm.uid.as_str())).await?;
                let Some(told) = told else { return Ok(()) };
                self.snapshots.absorb(told.clone());
                let Some((node, vm)) = bind else { return Ok(()) };
                tracing::info!(namespace, name, node, "snapshot placed");
                let owner = owner::<VirtualMachine>(&snapshot.spec.vm_name, &vm.uid);
                let patch = binding(&told, &node, Some(names::VM_FINALIZER), owner)?;
                let bound = self.context.writer.write(api.patch(&name, &params(), &patch)).await?;
                self.snapshots.absorb(bound);
                Ok(())
            }
            Decision::Release => {
                let finalizers = snapshot.finalizers().iter();
                let rest: Vec<_> = finalizers.filter(|finalizer| *finalizer != names::VM_FINALIZER).collect();
                let operation = json!({ "op": "replace", "path": "/metadata/finalizers", "value": rest });
                let patch = guarded(snapshot, vec![operation])?;
                self.context.writer.write(api.patch(&name, &params(), &patch)).await.map(|_| ())
            }
            Decision::Delete => {
                if self.is_vm_there(snapshot).await? {
                    return Ok(());
                }
                self.context.writer.write(api.delete(&name, &only(snapshot))).await.map(|_| ())
            }
        }
    }

    /// Whether the API server itself says that a snapshot's virtual machine is there to stay: what was seen of both may
    /// be of different times.
    async fn is_vm_there(&self, snapshot: &VirtualMachineSnapshot) -> Result<bool, WriteError> {
        let namespace = snapshot.namespace().unwrap_or_default();
        let api: Api<VirtualMachine> = Api::namespaced(self.context.client.clone(), &namespace);
        let live = self.context.writer.read(api.get_metadata_opt(&snapshot.spec.vm_name)).await?;
        let vm_uid = snapshot.status.as_ref().and_then(|status| status.vm_uid.as_ref());
        Ok(live.is_some_and(|live| live.metadata.uid.as_ref() == vm_uid && live.metadata.deletion_timestamp.is_none()))
    }

    async fn tell(
        &mut self,
        api: &Api<VirtualMachineSnapshot>,
        snapshot: &VirtualMachineSnapshot,
        findings: Vec<Finding>,
        vm_uid: Option<&str>,
    ) -> Result<Option<VirtualMachineSnapshot>, WriteError> {
        let before = snapshot.status.clone().unwrap_or_default();
        let Some(id) = before.id.or_else(|| self.context.ids.take()) else { return Ok(None) };
        let generation = snapshot.metadata.generation;
        let warning = findings.iter().find_map(|finding| refusal(finding, &before.conditions));
        let conditions = findings
            .into_iter()
            .map(|finding| finding.into_condition(&before.conditions, generation, Timestamp::now()))
            .collect();
        let status = VirtualMachineSnapshotStatus {
            id: Some(id),
            vm_uid: vm_uid.map(str::to_owned).or(before.vm_uid),
            // The host speaks once there is one.
            phase: snapshot.spec.node_name.is_none().then_some(SnapshotPhase::Pending),
            conditions,
            ..VirtualMachineSnapshotStatus::default()
        };
        let patch = Patch::Apply(status_document(snapshot, &json!(status)));
        let params = PatchParams::apply(names::CLUSTER_MANAGER).force();
        let told = self.context.writer.write(api.patch_status(&snapshot.name_any(), &params, &patch)).await?;
        if let Some(warning) = warning {
            self.context.warnings.say_later(about(&told), warning);
        }
        Ok(Some(told))
    }

    async fn look_at_restore(&mut self, restore: &VirtualMachineRestore) -> Option<Instant> {
        let namespace = restore.namespace().unwrap_or_default();
        let snapshot = self.snapshots.values().find(|snapshot| {
            snapshot.namespace().as_ref() == Some(&namespace) && snapshot.name_any() == restore.spec.snapshot_name
        });
        let now = Timestamp::now();
        let decision = decide_restore(restore, snapshot.map(|snapshot| &**snapshot), now);
        if let RestoreDecision::Nothing(due) = decision {
            return due.map(|due| Instant::now() + Duration::try_from(due.duration_since(now)).unwrap_or_default());
        }
        let uid = restore.uid().unwrap_or_default();
        let result = match self.backoff.due_after(&uid, Instant::now()) {
            Some(due) => Err(due),
            None => Ok(self.carry_out_restore(restore, decision).await),
        };
        self.settle(&uid, &restore.name_any(), result)
    }

    async fn carry_out_restore(
        &mut self,
        restore: &VirtualMachineRestore,
        decision: RestoreDecision,
    ) -> Result<(), WriteError> {
        let name = restore.name_any();
        let namespace = restore.namespace().unwrap_or_default();
        let api: Api<VirtualMachineRestore> = Api::namespaced(self.context.client.clone(), &namespace);
        match decision {
            RestoreDecision::Nothing(_) => Ok(()),
            RestoreDecision::Tell(phase, finding) => {
                let written = self.tell_restore(&api, restore, phase, finding).await?;
                self.restores.absorb(written);
                Ok(())
            }
            RestoreDecision::Bind(node, snapshot_uid) => {
                let owner = owner::<VirtualMachineSnapshot>(&restore.spec.snapshot_name, &snapshot_uid);
                let patch = binding(restore, &node, None, owner)?;
                let bound = self.context.writer.write(api.patch(&name, &params(), &patch)).await?;
                self.restores.absorb(bound);
                Ok(())
            }
            RestoreDecision::Delete => self.context.writer.write(api.delete(&name, &only(restore))).await.map(|_| ()),
        }
    }

    async fn tell_restore(
        &self,
        api: &Api<VirtualMachineRestore>,
        restore: &VirtualMachineRestore,
        phase: RestorePhase,
        finding: Finding,
    ) -> Result<VirtualMachineRestore, WriteError> {
        debug_assert_eq!(finding.type_, types::READY);
        let before = restore.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let warning = Warning { action: "Restore", reason: finding.reason, note: finding.message.clone() };
        let is_over = phase == RestorePhase::Failed;
        let stalled = is_over.then(|| Finding { type_: types::STALLED, status: Truth::True, ..finding.clone() });
        let (generation, now) = (restore.metadata.generation, Timestamp::now());
        let findings = [finding].into_iter().chain(stalled);
        let status = VirtualMachineRestoreStatus {
            phase: Some(phase),
            conditions: findings.map(|finding| finding.into_condition(before, generation, now)).collect(),
            ..VirtualMachineRestoreStatus::default()
        };
        let patch = Patch::Apply(status_document(restore, &json!(status)));
        let params = PatchParams::apply(names::CLUSTER_MANAGER).force();
        let told = self.context.writer.write(api.patch_status(&restore.name_any(), &params, &patch)).await?;
        if is_over {
            self.context.warnings.say_later(about(&told), warning);
        }
        Ok(told)
    }
}

/// The warning about a refusal that was not said before.
fn refusal(finding: &Finding, before: &[Condition]) -> Option<Warning> {
    let said = find(before, finding.type_).is_some_and(|said| said.status == "False" && said.reason == finding.reason);
    let is_new = finding.status == Truth::False && !said;
    is_new.then(|| Warning { action: "Admit", reason: finding.reason, note: finding.message.clone() })
}

fn earliest(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    [left, right].into_iter().flatten().min()
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Deletes this object and no successor of its name.
fn only(object: &impl Resource) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions { uid: object.meta().uid.clone(), resource_version: None })
}

fn status_document<K: Resource<DynamicType = ()>>(object: &K, status: &Value) -> Value {
    let meta = object.meta();
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": meta.name, "namespace": meta.namespace, "resourceVersion": meta.resource_version },
        "status": status,
    })
}

fn owner<K: Resource<DynamicType = ()>>(name: &str, uid: &str) -> Value {
    json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "name": name, "uid": uid })
}

/// A patch that binds an object to a host and says whose it is.
fn binding<K: Resource<DynamicType = ()>>(
    object: &K,
    node: &str,
    finalizer: Option<&str>,
    owner: Value,
) -> Result<Patch<()>, WriteError> {
    let meta = object.meta();
    let add = |path: &str, value: Value| json!({ "op": "add", "path": path, "value": value });
    let mut operations = vec![add("/spec/nodeName", json!(node))];
    if let Some(finalizer) = finalizer {
        operations.push(match &meta.finalizers {
            Some(_) => add("/metadata/finalizers/-", json!(finalizer)),
            None => add("/metadata/finalizers", json!([finalizer])),
        });
    }
    let mut owners = meta.owner_references.iter().flatten();
    let is_owned = owners.any(|reference| Some(reference.uid.as_str()) == owner.get("uid").and_then(Value::as_str));
    match &meta.owner_references {
        _ if is_owned => {}
        Some(_) => operations.push(add("/metadata/ownerReferences/-", owner)),
        None => operations.push(add("/metadata/ownerReferences", json!([owner]))),
    }
    guarded(object, operations)
}

/// A patch that does nothing to a successor of the same name, nor to a version that was not judged.
fn guarded<K: Resource>(object: &K, operations: Vec<Value>) -> Result<Patch<()>, WriteError> {
    let meta = object.meta();
    let mut all = vec![
        json!({ "op": "test", "path": "/metadata/uid", "value": meta.uid }),
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version }),
    ];
    all.extend(operations);
    let patch = serde_json::from_value(Value::Array(all)).map_err(kube::Error::SerdeError);
    patch.map(Patch::Json).map_err(WriteError::Failed)
}
