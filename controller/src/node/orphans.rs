//! Snapshots that are to be deleted and whose virtual machine is gone or going: nothing of them is left once libvirt says
//! that there is no such domain, since the snapshots of a domain go with it.

use std::sync::Arc;
use std::time::Duration;

use kube::Resource;
use kube::api::Api;
use kube::runtime::reflector::Store;
use kvmoor_crds::{VirtualMachine, VirtualMachineSnapshot, names};

use super::context::{Context, Root};
use super::hypervisor::{DomainFacts, Hypervisor};
use super::operation::{Kind, Operation, Outcome};
use super::queue::{Request, is_released, vm_uid};
use super::tell::{Progress, tell};

/// How often it is looked while one waits.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked if nothing happens.
const RESYNC: Duration = Duration::from_secs(300);
/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs until it is dropped. That a virtual machine is not among `machines`, which may not be complete yet, is only a
/// reason to ask the API server itself.
pub async fn release<H: Hypervisor>(ctx: Arc<Context<H>>, machines: Store<Root>) {
    loop {
        let mut waiting = false;
        for snapshot in ctx.queue.snapshots() {
            let snapshot = ctx.told.snapshots.newest(snapshot);
            if snapshot.metadata.deletion_timestamp.is_some() && !is_released(&snapshot) {
                waiting |= !try_release(&ctx, &machines, &snapshot).await;
            }
        }
        let pause = if waiting { LOOK_EVERY } else { RESYNC };
        // Either way it is time.
        let _ = tokio::time::timeout(pause, ctx.snapshots_changed.notified()).await;
    }
}

/// Says whether nothing is left to do here.
async fn try_release<H: Hypervisor>(
    ctx: &Context<H>,
    machines: &Store<Root>,
    snapshot: &Arc<VirtualMachineSnapshot>,
) -> bool {
    let (Some(uid), Some(vm_uid)) = (snapshot.metadata.uid.clone(), vm_uid(snapshot)) else { return true };
    let lives = machines.state().iter().any(|root| {
        let meta = root.meta();
        meta.uid.as_ref().is_some_and(|uid| uid.eq_ignore_ascii_case(vm_uid)) && meta.deletion_timestamp.is_none()
    });
    if lives {
        // Its own reconcile deletes the snapshot.
        return true;
    }
    if !matches!(ctx.hypervisor.domain(vm_uid).await, Ok(DomainFacts::Missing)) || !is_gone(ctx, snapshot, vm_uid).await
    {
        return false;
    }
    let operation = Operation { libvirt_name: names::snapshot(&uid), uid, kind: Kind::Delete };
    let request = Request::Snapshot(Arc::clone(snapshot));
    match tell(&ctx.client, &ctx.told, &operation, &request, Progress::Over(&Outcome::Deleted)).await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(snapshot.uid = operation.uid, %error, "cannot tell that a snapshot is gone yet");
            false
        }
    }
}

/// Whether the API server itself says that the virtual machine is gone or going.
async fn is_gone<H>(ctx: &Context<H>, snapshot: &VirtualMachineSnapshot, vm_uid: &str) -> bool {
    let namespace = snapshot.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), namespace);
    match tokio::time::timeout(DEADLINE, api.get_metadata_opt(&snapshot.spec.vm_name)).await {
        Ok(Ok(None)) => true,
        Ok(Ok(Some(live))) => {
            let is_same = live.metadata.uid.as_ref().is_some_and(|uid| uid.eq_ignore_ascii_case(vm_uid));
            !is_same || live.metadata.deletion_timestamp.is_some()
        }
        Ok(Err(_)) | Err(_) => false,
    }
}
