//! SIGKILL of the parts that act for the whole cluster, in the middle of what others wait for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, RestorePhase, SnapshotPhase, VirtualMachine, VirtualMachineSnapshot};
use kvmoor_tests::vm::{SOON, TestVm, blank, condition, with};
use kvmoor_tests::wait;
use reqwest::Method;
use serde_json::json;

use crate::crash::{Ended, MOST, arm, crash_or_finish, disarm};
use crate::shared::Shared;
use crate::snapshots::{TestRestore, TestSnapshot};

/// What is refused and left behind is gone after this.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// The API server dies between the creation of a virtual machine and the verdict on it, which is that there is no room. Its
/// caller got no answer, so the virtual machine must not start when there is.
pub async fn the_api_server_before_a_refusal(shared: &Shared) -> Result<()> {
    let user = shared.user("orphan").await?;
    let account = user.get("/api/auth/me").await?;
    let set = async |vms: i64| {
        let limits = json!({ "user_id": account["id"], "max_vms": vms, "max_cpu": 10, "max_memory": 1024 });
        shared.admin.ok(Method::PUT, "/api/quota", Some(limits)).await.map(drop)
    };
    set(0).await?;
    let namespace = account["namespace"].as_str().context("a namespace")?;
    let vms: Api<VirtualMachine> = Api::namespaced(shared.cluster.client().await?, namespace);
    let list = || async { Ok(vms.list(&ListParams::default()).await?.items) };
    let (server, controller) = (shared.cluster.api_server()?, shared.cluster.cluster_controller()?);
    controller.stop(SOON).await;
    let body = json!({ "name": "orphan", "cpu": 1, "memory": 32 });
    let request = tokio::spawn({
        let user = user.clone();
        async move { user.call(Method::POST, "/api/vms", Some(body)).await }
    });
    wait::until("it is written", SOON, list, |vms| vms.len() == 1).await?;
    server.kill().await;
    ensure!(request.await?.is_err(), "the caller has no answer");
    controller.start()?;
    let is_refused = |vms: &Vec<VirtualMachine>| {
        let verdict = vms.first().and_then(|vm| condition(vm, types::ADMITTED));
        verdict.is_some_and(|verdict| verdict.status == "False" && verdict.reason == "QuotaExceeded")
    };
    wait::until("it is refused", SOON, list, is_refused).await?;
    server.start()?;
    shared.cluster.wait_ready().await?;
    set(5).await?;
    // Room is no reason to start it now, until it goes.
    let never_admitted = || async {
        let vms = list().await?;
        Ok(vms.is_empty() || is_refused(&vms))
    };
    wait::always("it stays refused", Duration::from_secs(3), never_admitted).await?;
    wait::until("it is gone", LEFT_BEHIND, list, Vec::is_empty).await?;
    // The API server hears of it a moment later than the Kubernetes API.
    wait::until("and over REST too", SOON, || user.get("/api/vms"), |vms| *vms == json!([])).await?;
    let path = format!("/api/admin/users/{}?force=true", account["id"]);
    shared.admin.ok(Method::DELETE, &path, None).await?;
    Ok(())
}

/// The cluster controller is killed between any two of its writes while a snapshot is taken, restored and deleted.
pub async fn the_cluster_controller_and_snapshots(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-snapshots").await?;
    let process = shared.cluster.cluster_controller()?;
    let spec = with(blank(), json!({ "powerState": "Stopped" }));
    let vm = TestVm::create(&shared.cluster, &namespace, "machine", spec).await?;
    vm.until_phase(Phase::Stopped).await?;
    let (mut crashes, mut ids) = (0, BTreeSet::new());
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} writes");
        arm(process, n).await?;
        let snapshot = TestSnapshot::create(shared, &namespace, &format!("taken-{n}"), "machine").await?;
        let taken = || async { Ok(snapshot.phase().await? == Some(SnapshotPhase::Ready)) };
        let mut ended = crash_or_finish(process, taken).await?;
        crashes += resume(process, &ended)?;
        snapshot.until_phase(SnapshotPhase::Ready).await?;
        let id = snapshot.get().await?.status.and_then(|status| status.id).context("an id")?;
        ensure!(ids.insert(id), "id {id} was given twice");
        let restore = TestRestore::create(shared, &namespace, &snapshot.name).await?;
        if matches!(ended, Ended::Finished) {
            let restored = || async { Ok(restore.phase().await? == Some(RestorePhase::Succeeded)) };
            ended = crash_or_finish(process, restored).await?;
            crashes += resume(process, &ended)?;
        }
        restore.until_phase(RestorePhase::Succeeded).await?;
        let api: Api<VirtualMachineSnapshot> = Api::namespaced(shared.cluster.client().await?, &namespace);
        api.delete(&snapshot.name, &DeleteParams::default()).await?;
        if matches!(ended, Ended::Finished) {
            ended = crash_or_finish(process, || snapshot.is_gone()).await?;
            crashes += resume(process, &ended)?;
        }
        snapshot.until_gone().await?;
        ensure!(vm.starts()? == 0, "the machine was started");
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    disarm(process).await?;
    ensure!(crashes >= 4, "only {crashes} writes were met: is the fault injection compiled in?");
    println!("snapshots in the cluster controller: {crashes} points of crash");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// Starts again what has crashed; says whether it had.
fn resume(process: &kvmoor_dev::process::Managed, ended: &Ended) -> Result<usize> {
    let crashed = matches!(ended, Ended::Crashed);
    if crashed {
        process.start()?;
    }
    Ok(usize::from(crashed))
}
