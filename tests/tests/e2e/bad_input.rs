//! What cannot be: a clear answer each, and nothing left behind in libvirt.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Host, Image, Phase};
use kvmoor_tests::events::until_warned;
use kvmoor_tests::vm::{SOON, TestVm, blank, homeless, with};
use kvmoor_tests::{mounts, pool, wait};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::shared::Shared;

pub async fn names_that_bite(shared: &Shared) -> Result<()> {
    let user = shared.user("poet").await?;
    let create = |name: String| json!({ "name": name, "cpu": 1, "memory": 32, "start": false });
    let fine = [
        "<domain type='kvm'/>&amp;\"]]>".to_owned(),
        "--help".to_owned(),
        "'; rm -rf / #".to_owned(),
        "가".repeat(64),
        "🦀".repeat(64),
        "../../etc/passwd".to_owned(),
    ];
    for name in fine {
        let vm = user.post("/api/vms", create(name.clone())).await?;
        ensure!(vm["name"] == name.as_str(), "the name comes back as it was: {vm}");
        let path = format!("/api/vms/{}", vm["id"]);
        let stopped = |vm: &serde_json::Value| vm["phase"] == "Stopped";
        wait::until(&format!("{name} is defined"), SOON, || user.get(&path), stopped).await?;
        user.ok(Method::DELETE, &path, None).await?;
        let gone = || user.call(Method::GET, &path, None);
        wait::until(&format!("{name} is gone"), SOON, gone, |(code, _)| *code == StatusCode::NOT_FOUND).await?;
    }
    for name in ["".to_owned(), "a\u{0}b".to_owned(), "a\nb".to_owned(), "\u{1b}[2J".to_owned(), "x".repeat(129)] {
        let (code, answer) = user.call(Method::POST, "/api/vms", Some(create(name.clone()))).await?;
        ensure!(code == StatusCode::BAD_REQUEST && answer["error"] == "Invalid request", "{name:?}: {code} {answer}");
    }
    let wrong = [
        json!({ "cpu": 0 }),
        json!({ "cpu": -1 }),
        json!({ "cpu": 100_000 }),
        json!({ "memory": 0 }),
        json!({ "memory": 15 }),
        json!({ "memory": i64::MAX }),
        json!({ "os_type": "../../etc" }),
        json!({ "os_type": "-x" }),
        json!({ "hostPath": "/etc" }),
        json!({ "name": 5 }),
    ];
    for change in wrong {
        let body = with(create("fine".to_owned()), change.clone());
        let (code, answer) = user.call(Method::POST, "/api/vms", Some(body)).await?;
        ensure!(code == StatusCode::BAD_REQUEST && answer["error"] == "Invalid request", "{change}: {code} {answer}");
        ensure!(answer["message"].as_str().is_some_and(|text| text.len() > 5), "{change}: {answer}");
    }
    ensure!(user.get("/api/vms").await? == json!([]), "nothing is left");
    Ok(())
}

pub async fn no_host_fits(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("no-host").await?;
    let selected = TestVm::create(&shared.cluster, &namespace, "selected", homeless()).await?;
    let message = selected.until_condition(types::SCHEDULED, "False", "Unschedulable").await?;
    ensure!(message.contains("0/1"), "it counts the hosts: {message}");
    let warning = until_warned(&shared.cluster, &namespace, selected.uid(), "Unschedulable").await?;
    ensure!(warning == message, "{warning}");
    let phase = selected.get().await?.status.and_then(|status| status.phase);
    ensure!(phase == Some(Phase::Pending), "Pending, not {phase:?}");
    // Larger than the host, within the quota of 40 GiB.
    let vm = TestVm::create(&shared.cluster, &namespace, "large", with(blank(), json!({ "memory": "39Gi" }))).await?;
    let message = vm.until_condition(types::SCHEDULED, "False", "Unschedulable").await?;
    ensure!(message.contains("memory"), "it says what lacks: {message}");
    vm.remove().await?;

    let hosts: Api<Host> = Api::all(shared.cluster.client().await?);
    let name = shared.cluster.node_name(0);
    let set = async |value: bool| {
        let patch = json!({ "spec": { "unschedulable": value } });
        hosts.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    };
    set(true).await?;
    selected.until_unschedulable("1 cordoned").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "kept-away", blank()).await?;
    vm.until_condition(types::SCHEDULED, "False", "Unschedulable").await?;
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing in libvirt");
    set(false).await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    selected.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn no_image(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("no-image").await?;
    let images: Api<Image> = Api::all(shared.cluster.client().await?);
    let image = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Image", "metadata": { "name": "absent" },
        "spec": { "builtIn": true },
    });
    images.create(&PostParams::default(), &serde_json::from_value(image)?).await?;
    let vm =
        TestVm::create(&shared.cluster, &namespace, "absent", with(blank(), json!({ "osType": "absent" }))).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "ImageMissing").await?;
    ensure!(message.contains("absent"), "it names the image: {message}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing in libvirt");
    vm.remove().await?;
    images.delete("absent", &DeleteParams::default()).await?;
    // No Image of that name at all: a blank disk, and a condition that says so.
    let vm =
        TestVm::create(&shared.cluster, &namespace, "blank", with(blank(), json!({ "osType": "unheard-of" }))).await?;
    let message = vm.until_condition(types::PROVISIONED, "True", "BlankDisk").await?;
    ensure!(message.contains("unheard-of"), "it names the image: {message}");
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn the_pool_is_full(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("pool-full").await?;
    let host = shared.cluster.host(0)?;
    let running = TestVm::create(&shared.cluster, &namespace, "before", blank()).await?;
    running.until_phase(Phase::Running).await?;
    let before = host.virsh().volumes("default").await?;
    // The pool's file system is the machine's own, so a full one is put in its place.
    let full = FullPool::mount(shared).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "unlucky", blank()).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "PoolFull").await?;
    ensure!(message.contains("pool"), "it says where: {message}");
    ensure!(vm.domains().await?.is_empty(), "no domain");
    full.unmount().await?;
    pool::refresh(&host.virsh()).await?;
    // There is room again: it starts by itself, by the retry of its back-off.
    vm.until("is Running", Duration::from_secs(60), |vm| kvmoor_tests::vm::in_phase(vm, Phase::Running)).await?;
    vm.remove().await?;
    running.remove().await?;
    let after = host.virsh().volumes("default").await?;
    ensure!(after.len() + 2 == before.len(), "volumes before {before:?}, after {after:?}");
    shared.drop_namespace(&namespace).await
}

/// A full file system over the storage pool of the first host, in the host's own mount namespace.
pub struct FullPool {
    pid: i32,
    target: String,
}

impl FullPool {
    pub async fn mount(shared: &Shared) -> Result<Self> {
        let pid = shared.cluster.host(0)?.libvirtd()?.pid().context("libvirtd runs")?;
        let target = "/var/lib/libvirt/images".to_owned();
        let full = Self { pid, target };
        full.enter(&["mount", "-t", "tmpfs", "-o", "size=64k", "full", &full.target]).await?;
        let file = format!("of={}/filler", full.target);
        // dd ends with an error when the file system is full, which is what is wanted.
        drop(full.enter(&["dd", "if=/dev/zero", &file, "bs=1k", "count=128"]).await);
        Ok(full)
    }

    /// It is busy while somebody still tries to write there.
    pub async fn unmount(&self) -> Result<()> {
        let unmount = || async { self.enter(&["umount", &self.target]).await };
        wait::until("the full pool goes", SOON, unmount, |()| true).await
    }

    async fn enter(&self, command: &[&str]) -> Result<()> {
        mounts::enter(self.pid, command).await
    }
}
