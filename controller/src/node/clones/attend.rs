//! What a reconcile does about the disks of a clone: it looks, and has them copied.

use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use kvmoor_crds::{SnapshotPhase, names};

use super::super::context::{Context, Root};
use super::super::desired::{CloneOf, Desired, Identity, Machine};
use super::super::hypervisor::{DomainFacts, HvError, Hypervisor};
use super::super::observe::Observed;
use super::super::queue;
use super::copier::copies;
use super::copies::Copies;
use super::obstacle::{Cloned, SnapshotState, SourceFacts, obstacle};

/// Sees to the disks of a clone that was observed to have no domain.
pub async fn attend<H: Hypervisor>(ctx: &Context<H>, desired: &Desired, observed: &mut Observed) {
    let (Desired::Present(machine), Observed::Complete(facts)) = (desired, &mut *observed) else { return };
    let Some(source) = machine.source.as_ref().filter(|_| facts.domain == DomainFacts::Missing) else { return };
    match look(ctx, machine, source).await {
        Ok(cloned) => facts.cloned = cloned,
        Err(error) => *observed = Observed::Unreachable(error),
    }
}

async fn look<H: Hypervisor>(ctx: &Context<H>, machine: &Machine, source: &CloneOf) -> Result<Cloned, HvError> {
    match copies(&*ctx.hypervisor, &machine.identity.uid, &machine.root.volume).await? {
        Copies::HasDisks => return Ok(Cloned::HasDisks),
        Copies::Whole(record) => return Ok(Cloned::Whole(record)),
        Copies::Lacking => {}
    }
    let facts = source_facts(ctx, machine, source).await?;
    Ok(Cloned::Waits(match obstacle(machine, &facts) {
        Ok(order) => ctx.copier.want(order),
        Err(blocked) => {
            ctx.copier.waits(&machine.identity, source);
            blocked
        }
    }))
}

async fn source_facts<H: Hypervisor>(
    ctx: &Context<H>,
    machine: &Machine,
    source: &CloneOf,
) -> Result<SourceFacts, HvError> {
    let namespace = machine.identity.namespace.as_str();
    let mut facts = SourceFacts { identity: None, snapshot: None, domain: DomainFacts::Missing, disks: None };
    facts.identity = identity(&ctx.machines, namespace, &source.vm_name);
    let Some(identity) = &facts.identity else { return Ok(facts) };
    facts.snapshot = source.snapshot_name.as_deref().map(|name| snapshot(ctx, identity, name));
    facts.domain = ctx.hypervisor.domain(&identity.uid).await?;
    if let DomainFacts::Ours(_) = &facts.domain {
        let extra = machine.disks.iter().map(|disk| names::extra_volume(&identity.uid, &disk.name));
        let volumes = std::iter::once(names::root_volume(&identity.uid)).chain(extra).collect();
        facts.disks = ctx.hypervisor.disks(&identity.uid, volumes).await.ok();
    }
    Ok(facts)
}

fn identity(machines: &Store<Root>, namespace: &str, name: &str) -> Option<Identity> {
    let root = machines.get(&ObjectRef::new(name).within(namespace))?;
    let meta = root.meta();
    let uid = meta.uid.as_ref().filter(|_| meta.deletion_timestamp.is_none())?.to_lowercase();
    Some(Identity { uid, namespace: namespace.to_owned(), name: name.to_owned() })
}

fn snapshot<H>(ctx: &Context<H>, source: &Identity, name: &str) -> SnapshotState {
    let found = ctx.queue.snapshots.get(&ObjectRef::new(name).within(&source.namespace));
    let Some(Ok(snapshot)) = found.as_ref().map(|root| root.0.as_ref()) else { return SnapshotState::Missing };
    let snapshot = ctx.told.snapshots.newest(Arc::new(snapshot.clone()));
    if snapshot.metadata.deletion_timestamp.is_some() || snapshot.spec.vm_name != source.name {
        return SnapshotState::Missing;
    }
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    match (phase, snapshot.metadata.uid.as_deref()) {
        (Some(SnapshotPhase::Ready), Some(uid)) if queue::is_of(&snapshot, source) => {
            SnapshotState::Ready(names::snapshot(uid))
        }
        (Some(SnapshotPhase::Ready | SnapshotPhase::Failed), _) => SnapshotState::Missing,
        _ => SnapshotState::Pending,
    }
}
