//! Two libvirt hosts, each with mounts and a network of its own, its own node controller and its own Node: virtual machines
//! spread, a cordoned Node gets no new ones, what is uploaded to one host is had by the other, and a host that is lost and
//! comes back changes nothing in the guests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, VirtualMachine};
use kvmoor_dev::Cluster;
use kvmoor_tests::rest;
use kvmoor_tests::upload::Upload;
use kvmoor_tests::vm::{TestVm, blank, condition, in_phase, tiny as tiny_spec, with};
use kvmoor_tests::wait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAMESPACE: &str = "default";
/// For a phase on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// Until a Lease has run out, and some more.
const LOST: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn virtual_machines_spread_keep_away_and_outlive_their_controller() -> Result<()> {
    let cluster = Cluster::builder().hosts(2).own_networks(true).start().await?;
    let lived = live(&cluster).await;
    if lived.is_err() {
        print_logs(&cluster);
    }
    let dir = cluster.dir().to_owned();
    let members: Vec<_> = cluster.hosts().iter().flat_map(|host| host.members()).collect();
    cluster.stop().await?;
    lived?;
    ensure!(!dir.exists() && !members.iter().any(|process| process.is_alive()), "nothing is left");
    Ok(())
}

async fn live(cluster: &Cluster) -> Result<()> {
    for host in cluster.hosts() {
        let bridge = host.bridge().context("a private host")?;
        ensure!(!Path::new("/sys/class/net").join(bridge).exists(), "{bridge} is in a network of its own");
    }
    let mut vms = create(cluster, "spread", 4).await?;
    let even: BTreeMap<_, _> = (0..2).map(|host| (cluster.node_name(host), 2)).collect();
    let placed = by_node(&vms).await?;
    ensure!(placed == even, "they spread: {placed:?}");
    are_measured(cluster, &vms).await?;
    let waits = wait_for_an_upload(cluster).await?;
    vms.extend(keep_away(cluster).await?);
    upload_what_is_waited_for(cluster, waits).await?;
    share_an_image(cluster).await?;
    lose_a_host(cluster, &mut vms).await?;
    for vm in &vms {
        vm.delete().await?;
    }
    for vm in &vms {
        vm.until_gone().await?;
    }
    Ok(())
}

/// Makes that many, one after another, and waits until they run.
async fn create<'c>(cluster: &'c Cluster, prefix: &str, count: usize) -> Result<Vec<TestVm<'c>>> {
    let mut vms = Vec::new();
    for number in 0..count {
        let vm = TestVm::create(cluster, NAMESPACE, &format!("{prefix}-{number}"), blank()).await?;
        vm.until("runs", SOON, |vm| in_phase(vm, Phase::Running)).await?;
        vms.push(vm);
    }
    Ok(vms)
}

/// How many of them each Node has.
async fn by_node(vms: &[TestVm<'_>]) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for vm in vms {
        *counts.entry(vm.get().await?.spec.node_name.context("bound")?).or_default() += 1;
    }
    Ok(counts)
}

/// Over REST each is measured by the host that it is on.
async fn are_measured(cluster: &Cluster, vms: &[TestVm<'_>]) -> Result<()> {
    let admin = rest::admin(cluster).await?;
    for vm in vms {
        let id = vm.get().await?.status.and_then(|status| status.id).context("an id")?;
        let path = format!("/api/vms/{id}/stats");
        let measured = |stats: &serde_json::Value| stats["vm_id"] == id && stats["state"] == "running";
        wait::until("it is measured", SOON, || admin.get(&path), measured).await?;
    }
    Ok(())
}

/// `kubectl cordon` of the first Node: new ones go to the other or wait, and what runs there goes on.
async fn keep_away(cluster: &Cluster) -> Result<Vec<TestVm<'_>>> {
    let (first, second) = (cluster.node_name(0), cluster.node_name(1));
    cordon(cluster, &first, true).await?;
    let waiting = until_one_waits(cluster, &first).await?;
    let mut away = create(cluster, "away", 3).await?;
    let placed = by_node(&away).await?;
    ensure!(placed == BTreeMap::from([(second, 3)]), "the cordoned Node gets none: {placed:?}");
    cordon(cluster, &first, false).await?;
    waiting.until("runs where it is to", SOON, |vm| in_phase(vm, Phase::Running)).await?;
    ensure!(waiting.get().await?.spec.node_name == Some(first), "as its nodeSelector says");
    away.push(waiting);
    Ok(away)
}

async fn cordon(cluster: &Cluster, node: &str, cordoned: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let patch = json!({ "spec": { "unschedulable": cordoned } });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// One that may run on `node` alone, which is cordoned. The cluster controller hears of that a moment later than the
/// Kubernetes API, so some may still have been placed there.
async fn until_one_waits<'c>(cluster: &'c Cluster, node: &str) -> Result<TestVm<'c>> {
    let spec = with(blank(), json!({ "nodeSelector": { "kubernetes.io/hostname": node } }));
    for number in 0..100 {
        let vm = TestVm::create(cluster, NAMESPACE, &format!("only-there-{number}"), spec.clone()).await?;
        let decided = vm.until("is decided upon", SOON, |vm| scheduled(vm).is_some()).await?;
        let (status, message) = scheduled(&decided).context("just seen")?;
        if status == "False" {
            ensure!(message.contains("1 cordoned"), "the reason: {message}");
            return Ok(vm);
        }
        vm.remove().await?;
    }
    anyhow::bail!("{node} is cordoned and gets virtual machines all the same")
}

/// Status and message of the condition Scheduled.
fn scheduled(vm: &VirtualMachine) -> Option<(String, String)> {
    condition(vm, types::SCHEDULED).map(|found| (found.status.clone(), found.message.clone()))
}

/// The contents of an image, others for each number, and its SHA-256.
fn image(cluster: &Cluster, number: usize) -> Result<(Vec<u8>, String)> {
    let pool = cluster.host(0)?.pool_dir().context("a private host has a pool directory")?;
    let mut file = std::fs::read(pool.join("kvmoor-image-tiny.qcow2"))?;
    file.resize(file.len() + 512 * number, 0);
    let sum = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((file, sum))
}

/// Uploads the contents of the Image of that name to the first host.
async fn upload(cluster: &Cluster, name: &str, file: &[u8]) -> Result<()> {
    let admin = rest::admin(cluster).await?;
    let path = format!("/api/images/{name}/content?host={}", cluster.node_name(0));
    let mut upload = Upload::begin(&admin, &path, Some(file.len())).await?;
    upload.send(file).await?;
    let (status, answer) = upload.answer().await?;
    ensure!(status == 201 && answer["hosts"] == 1, "{name}: {status} {answer}");
    Ok(())
}

/// One that starts from the Image of that name and may run on the second host alone.
fn on_second(cluster: &Cluster, image: &str) -> Value {
    let selector = json!({ "kubernetes.io/hostname": cluster.node_name(1) });
    with(tiny_spec(), json!({ "osType": image, "nodeSelector": selector }))
}

/// An image that nobody has uploaded is waited for.
async fn wait_for_an_upload(cluster: &Cluster) -> Result<TestVm<'_>> {
    let (_, sum) = image(cluster, 3)?;
    rest::admin(cluster).await?.post("/api/images", json!({ "name": "awaited", "sha256": sum })).await?;
    let vm = TestVm::create(cluster, NAMESPACE, "waits", on_second(cluster, "awaited")).await?;
    vm.until_condition(types::PROVISIONED, "False", "ImageNotUploaded").await?;
    Ok(vm)
}

/// Who waits hears of an upload to another host, whenever it would have looked again.
async fn upload_what_is_waited_for(cluster: &Cluster, vm: TestVm<'_>) -> Result<()> {
    let begin = Instant::now();
    upload(cluster, "awaited", &image(cluster, 3)?.0).await?;
    let uploaded = begin.elapsed();
    vm.until("runs", SOON, |vm| in_phase(vm, Phase::Running)).await?;
    println!("uploaded after {uploaded:.1?}, the virtual machine that waited runs after {:.1?}", begin.elapsed());
    let log = std::fs::read(cluster.node_controller(1)?.log())?;
    let log = String::from_utf8_lossy(&log);
    ensure!(log.contains("another host has an image that is waited for"), "it was told, and has not just looked");
    vm.remove().await
}

/// An image is uploaded to the first host; the second has it when one of its virtual machines needs it, and says what is
/// wrong while the first is away.
async fn share_an_image(cluster: &Cluster) -> Result<()> {
    let admin = rest::admin(cluster).await?;
    let (first, second) = (cluster.node_name(0), cluster.node_name(1));
    for (name, number) in [("shared", 1), ("lost", 2)] {
        let (file, sum) = image(cluster, number)?;
        admin.post("/api/images", json!({ "name": name, "sha256": sum })).await?;
        upload(cluster, name, &file).await?;
    }
    let vm = TestVm::create(cluster, NAMESPACE, "shares", on_second(cluster, "shared")).await?;
    vm.until("runs", SOON, |vm| in_phase(vm, Phase::Running)).await?;
    ensure!(vm.get().await?.spec.node_name.as_ref() == Some(&second), "on the second");
    let has_address = |vm: &VirtualMachine| vm.status.as_ref().is_some_and(|status| !status.addresses.is_empty());
    vm.until("has booted and asked for an address", SOON, has_address).await?;
    let both = |images: &serde_json::Value| {
        images.as_array().is_some_and(|all| all.iter().any(|image| image["name"] == "shared" && image["hosts"] == 2))
    };
    wait::until("both hosts have it", SOON, || admin.get("/api/images"), both).await?;

    let controller = cluster.node_controller(0)?;
    controller.kill().await;
    let other = TestVm::create(cluster, NAMESPACE, "misses", on_second(cluster, "lost")).await?;
    let message = other.until_condition(types::PROVISIONED, "False", "ImageSourceLost").await?;
    ensure!(message.contains(&first), "it names the host: {message}");
    controller.start()?;
    other.until("runs", SOON, |vm| in_phase(vm, Phase::Running)).await?;
    for vm in [vm, other] {
        vm.remove().await?;
    }
    Ok(())
}

/// The second host's node controller dies for longer than its Lease and comes back.
async fn lose_a_host<'c>(cluster: &'c Cluster, vms: &mut Vec<TestVm<'c>>) -> Result<()> {
    let (first, second) = (cluster.node_name(0), cluster.node_name(1));
    let qemus: Vec<_> = vms.iter().map(TestVm::qemu).collect();
    ensure!(qemus.iter().all(Option::is_some), "all run: {qemus:?}");
    let controller = cluster.node_controller(1)?;
    controller.kill().await;
    for vm in vms.iter() {
        if vm.get().await?.spec.node_name.as_ref() != Some(&second) {
            continue;
        }
        let lost = vm.until("is Unknown", LOST, |vm| phase(vm) == Some(Phase::Unknown)).await?;
        let reachable = reachable(&lost).context("HostReachable")?;
        ensure!(reachable.status == "False" && reachable.reason == "NodeLost", "{reachable:?}");
        ensure!(reachable.message.contains(&second), "the reason names the host: {}", reachable.message);
    }
    for vm in vms.iter() {
        let vm = vm.get().await?;
        let on_lost = vm.spec.node_name.as_ref() == Some(&second);
        let expected = if on_lost { Phase::Unknown } else { Phase::Running };
        ensure!(phase(&vm) == Some(expected), "on the lost host alone: {:?} {:?}", vm.spec.node_name, vm.status);
    }
    let meanwhile = create(cluster, "meanwhile", 1).await?;
    let placed = by_node(&meanwhile).await?;
    ensure!(placed == BTreeMap::from([(first, 1)]), "a lost host gets none: {placed:?}");

    controller.start()?;
    for vm in vms.iter() {
        let back = |vm: &VirtualMachine| {
            in_phase(vm, Phase::Running) && reachable(vm).is_none_or(|reachable| reachable.status == "True")
        };
        vm.until("is Running again", SOON, back).await?;
    }
    let now: Vec<_> = vms.iter().map(TestVm::qemu).collect();
    ensure!(now == qemus, "the same guests: {now:?}, before {qemus:?}");
    for vm in vms.iter() {
        ensure!(vm.starts()? == 1, "started once");
    }
    vms.extend(meanwhile);
    Ok(())
}

fn phase(vm: &VirtualMachine) -> Option<Phase> {
    vm.status.as_ref().and_then(|status| status.phase)
}

fn reachable(vm: &VirtualMachine) -> Option<Condition> {
    condition(vm, types::HOST_REACHABLE).cloned()
}

/// For a failure.
fn print_logs(cluster: &Cluster) {
    for process in cluster.processes() {
        let log = std::fs::read(process.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
        eprintln!("---- the end of {}'s log\n{}", process.name(), tail.join("\n"));
    }
}
