//! What Kvmoor stands on dies and comes back: no guest notices, and nothing is concluded from silence.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, VirtualMachine, conditions};
use kvmoor_tests::events::until_warned;
use kvmoor_tests::vm::{SOON, TestVm, blank, condition, in_phase, tiny};
use kvmoor_tests::wait;
use serde_json::json;

use crate::shared::Shared;

pub async fn libvirtd_dies(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("libvirtd-dies").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "survivor", tiny()).await?;
    vm.until_booted().await?;
    let (qemu, boot) = (vm.qemu(), vm.http("/boot-id").await?);
    let host = vm.host().await?;
    for _ in 0..3 {
        host.kill_libvirtd().await?;
        let unknown =
            vm.until("is Unknown while libvirt is away", SOON, |vm| phase(vm) == Some(Phase::Unknown)).await?;
        ensure!(ready(&unknown).as_deref() == Some("Unknown"), "Ready is Unknown, never False");
        host.start_libvirtd().await?;
        vm.until_phase(Phase::Running).await?;
        ensure!(vm.qemu() == qemu, "the same QEMU");
    }
    ensure!(vm.http("/boot-id").await? == boot, "the same boot");
    // Asked while libvirt is away, done when it is back.
    host.kill_libvirtd().await?;
    vm.patch(json!({ "powerState": "Paused" })).await?;
    let second = TestVm::create(&shared.cluster, &namespace, "meanwhile", blank()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    host.start_libvirtd().await?;
    vm.until_phase(Phase::Paused).await?;
    second.until_phase(Phase::Running).await?;
    ensure!(vm.qemu() == qemu && second.starts()? == 1, "nothing is started twice");
    // And libvirtd dies in the middle of starting others.
    let mut others = Vec::new();
    for n in 0..4 {
        others.push(TestVm::create(&shared.cluster, &namespace, &format!("other-{n}"), blank()).await?);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    host.kill_libvirtd().await?;
    host.start_libvirtd().await?;
    for other in others {
        other.until_phase(Phase::Running).await?;
        ensure!(other.domains().await?.len() == 1, "one domain");
        other.remove().await?;
    }
    vm.remove().await?;
    second.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn the_control_plane_dies(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("plane-dies").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "survivor", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let qemu = vm.qemu().context("it runs")?;
    let plane = shared.cluster.control_plane();

    plane.apiserver().kill().await;
    wait::until(
        "health says that the Kubernetes API is away",
        SOON,
        || async { shared.admin.call(reqwest::Method::GET, "/api/health", None).await },
        |(status, body)| status.as_u16() == 503 && body["db"] == "disconnected",
    )
    .await?;
    plane.start_apiserver().await?;
    wait::until("health", SOON, || shared.admin.get("/api/health"), |body| body["db"] == "connected").await?;
    vm.patch(json!({ "powerState": "Paused" })).await?;
    vm.until_phase(Phase::Paused).await?;

    plane.etcd().kill().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    plane.start_etcd().await?;
    plane.wait_ready().await?;
    wait::until("the spec can be changed again", SOON, || vm.patch(json!({ "powerState": "Running" })), |_| true)
        .await?;
    vm.until_phase(Phase::Running).await?;
    ensure!(vm.qemu() == Some(qemu), "the same QEMU");
    shared.cluster.wait_ready().await?;
    wait::until("REST works", SOON, || shared.admin.get("/api/vms"), |_| true).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn a_host_is_lost_and_comes_back(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("host-lost").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "left-alone", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let qemu = vm.qemu().context("it runs")?;
    let agent = shared.cluster.node_controller(0)?;
    agent.kill().await;
    let lost = vm.until("is Unknown", Duration::from_secs(90), |vm| phase(vm) == Some(Phase::Unknown)).await?;
    let conditions = lost.status.context("a status")?.conditions;
    let reachable = conditions::find(&conditions, types::HOST_REACHABLE).context("HostReachable")?;
    ensure!(reachable.status == "False" && reachable.reason == "NodeLost", "{reachable:?}");
    until_warned(&shared.cluster, &namespace, vm.uid(), "NodeLost").await?;
    ensure!(vm.qemu() == Some(qemu), "the guest runs on");
    ensure!(lost.spec.node_name.is_some(), "it is not moved");
    agent.start()?;
    vm.until("is Running again", SOON, |vm| {
        in_phase(vm, Phase::Running)
            && vm
                .status
                .as_ref()
                .is_some_and(|status| !conditions.is_empty() && !is_false(&status.conditions, types::HOST_REACHABLE))
    })
    .await?;
    ensure!(vm.qemu() == Some(qemu), "the same QEMU");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn another_leader_takes_over(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("leaders").await?;
    let first = shared.cluster.cluster_controller()?;
    let second = shared.cluster.another_cluster_controller("second")?;
    second.start()?;
    // In good order: the successor leads at once.
    first.stop(Duration::from_secs(10)).await;
    let vm = TestVm::create(&shared.cluster, &namespace, "by-the-second", blank()).await?;
    let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
    // Without notice: when the lease has run out.
    first.start()?;
    second.kill().await;
    let other = TestVm::create(&shared.cluster, &namespace, "by-the-first", blank()).await?;
    let running = other.until("is Running", Duration::from_secs(60), |vm| in_phase(vm, Phase::Running)).await?;
    let next = running.status.and_then(|status| status.id).context("an id")?;
    ensure!(next > id, "ids go up over a change of leaders: {id}, then {next}");
    vm.remove().await?;
    other.remove().await?;
    shared.drop_namespace(&namespace).await
}

fn phase(vm: &VirtualMachine) -> Option<Phase> {
    vm.status.as_ref().and_then(|status| status.phase)
}

fn ready(vm: &VirtualMachine) -> Option<String> {
    condition(vm, types::READY).map(|condition| condition.status.clone())
}

fn is_false(all: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], type_: &str) -> bool {
    conditions::find(all, type_).is_some_and(|condition| condition.status == "False")
}
