//! Snapshots and restores, as custom resources.

use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use kvmoor_crds::{RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineSnapshot, conditions};
use serde_json::json;

use crate::args::{RestoreArgs, SnapshotArgs};
use crate::cluster::{Namespace, Progress, wait};

/// Takes a snapshot, and waits until it is taken.
pub async fn take(namespace: &Namespace, args: &SnapshotArgs) -> Result<()> {
    let SnapshotArgs { vm, name, description, without_memory, wait: patience } = args;
    // That it is not there is said here, rather than by a condition that says that it is waited for.
    namespace.vm(vm).await?;
    let snapshot = json!({
        "apiVersion": "kvmoor.dev/v1alpha1",
        "kind": "VirtualMachineSnapshot",
        "metadata": { "name": name, "generateName": format!("{vm}-") },
        "spec": { "vmName": vm, "description": description, "includeMemory": !without_memory },
    });
    let api: Api<VirtualMachineSnapshot> = namespace.api();
    let made = api.create(&PostParams::default(), &serde_json::from_value(snapshot)?).await;
    let made = made.context("cannot create the snapshot")?.name_any();
    wait(&api, &made, patience, |snapshot| {
        let status = snapshot.status.as_ref();
        let why = why(status.map_or(&[], |status| &status.conditions));
        match status.and_then(|status| status.phase) {
            Some(SnapshotPhase::Ready) => Progress::Done("taken".to_owned()),
            Some(SnapshotPhase::Failed) => Progress::Failed(why),
            _ => Progress::Pending(why),
        }
    })
    .await
}

/// Brings a virtual machine back to a snapshot, and waits until that is done.
pub async fn restore(namespace: &Namespace, args: &RestoreArgs) -> Result<()> {
    let RestoreArgs { snapshot, wait: patience } = args;
    let snapshots: Api<VirtualMachineSnapshot> = namespace.api();
    let found = snapshots.get_opt(snapshot).await.context("cannot read the snapshot")?;
    found.with_context(|| format!("there is no snapshot {snapshot}"))?;
    let restore = json!({
        "apiVersion": "kvmoor.dev/v1alpha1",
        "kind": "VirtualMachineRestore",
        "metadata": { "generateName": format!("{snapshot}-") },
        "spec": { "snapshotName": snapshot },
    });
    let api: Api<VirtualMachineRestore> = namespace.api();
    let made = api.create(&PostParams::default(), &serde_json::from_value(restore)?).await;
    let made = made.context("cannot create the restore")?.name_any();
    wait(&api, &made, patience, |restore| {
        let status = restore.status.as_ref();
        let why = why(status.map_or(&[], |status| &status.conditions));
        match status.and_then(|status| status.phase) {
            Some(RestorePhase::Succeeded) => Progress::Done("restored".to_owned()),
            Some(RestorePhase::Failed) => Progress::Failed(why),
            _ => Progress::Pending(why),
        }
    })
    .await
}

fn why(found: &[Condition]) -> String {
    let ready = conditions::find(found, conditions::types::READY);
    ready.map_or_else(|| "not taken up yet".to_owned(), |condition| condition.message.clone())
}
