//! Clones: their disks begin as their source had them, and from then on neither knows of the other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, SnapshotPhase, names};
use kvmoor_tests::mounts;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crash::{Ended, MOST, arm, converge};
use crate::shared::Shared;
use crate::snapshots::TestSnapshot;

/// A clone of half a gigabyte is there by then, on a loaded machine too.
const COPIED: Duration = Duration::from_secs(120);
/// So much is written where copying has to take a while.
const MUCH: &str = "640M";

fn of(source: &str) -> Value {
    json!({ "source": { "vmName": source } })
}

fn of_snapshot(source: &str, snapshot: &str) -> Value {
    json!({ "source": { "vmName": source, "snapshotName": snapshot } })
}

/// A small guest without `osType` and `disk`, which are its source's.
fn like_its_source() -> Value {
    json!({ "cpu": 1, "memory": "96Mi" })
}

async fn until_off(vm: &TestVm<'_>) -> Result<()> {
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    vm.until("is Stopped", Duration::from_secs(60), |vm| in_phase(vm, Phase::Stopped)).await.map(drop)
}

async fn until_running(vm: &TestVm<'_>) -> Result<()> {
    vm.until("is Running", COPIED, |vm| in_phase(vm, Phase::Running)).await.map(drop)
}

async fn disk_says(vm: &TestVm<'_>, note: &str) -> Result<()> {
    let what = format!("the disk says {note}");
    wait::until(&what, BOOT, || vm.http("/cgi-bin/disk"), |found| found == note).await.map(drop)
}

/// Runs a command of QEMU's tools on a volume, where the first host sees it.
async fn tool(shared: &Shared, words: &[&str], volume: &str) -> Result<String> {
    let pid = shared.cluster.host(0)?.libvirtd()?.pid().context("libvirtd runs")?;
    let path = format!("/var/lib/libvirt/images/{volume}");
    mounts::output(pid, &[words, &[path.as_str()]].concat()).await
}

/// Writes a pattern into a volume that no guest uses.
async fn write(shared: &Shared, pattern: u8, length: &str, volume: &str) -> Result<()> {
    tool(shared, &["qemu-io", "-c", &format!("write -P {pattern} 0 {length}")], volume).await.map(drop)
}

/// Checks that the volume begins with that pattern.
async fn holds(shared: &Shared, pattern: u8, length: &str, volume: &str) -> Result<()> {
    let said = tool(shared, &["qemu-io", "-c", &format!("read -P {pattern} 0 {length}")], volume).await?;
    ensure!(!said.contains("failed"), "{volume} does not hold {pattern}: {said}");
    Ok(())
}

/// Checks that libvirt and the volumes have what they have of any other virtual machine, and no snapshot.
async fn check_plain(shared: &Shared, vm: &TestVm<'_>, disks: &[&str]) -> Result<()> {
    ensure!(vm.domains().await? == [vm.domain()], "exactly one domain");
    let extra = disks.iter().map(|name| names::extra_volume(vm.uid(), name));
    let expected: BTreeSet<_> = extra.chain([names::root_volume(vm.uid()), names::seed_volume(vm.uid())]).collect();
    ensure!(vm.volumes().await? == expected, "exactly its volumes, not {:?}", vm.volumes().await?);
    let known = vm.host().await?.virsh().run(&["snapshot-list", &vm.domain(), "--name"]).await?;
    ensure!(known.trim().is_empty(), "libvirt knows snapshots of it: {known}");
    for volume in expected.iter().filter(|name| name.ends_with("qcow2")) {
        let inside = tool(shared, &["qemu-img", "snapshot", "-U", "-l"], volume).await?;
        ensure!(inside.trim().is_empty(), "{volume} holds snapshots: {inside}");
    }
    Ok(())
}

pub async fn of_a_machine_that_is_off(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("clone-off").await?;
    let disks = json!({ "disks": [{ "name": "data", "size": "64Mi" }, { "name": "other", "size": "64Mi" }] });
    let source = TestVm::create(&shared.cluster, &namespace, "template", with(tiny(), disks)).await?;
    source.until_phase(Phase::Running).await?;
    source.until_booted().await?;
    source.note("/cgi-bin/disk", "first").await?;

    // It waits for its source, is larger, has only one of its disks, and one of its own.
    let spec = json!({
        "disk": { "size": "2Gi" }, "disks": [{ "name": "data", "size": "96Mi" }, { "name": "own", "size": "32Mi" }],
    });
    let spec = with(with(with(tiny(), of("template")), spec), json!({ "osType": "tiny" }));
    let clone = TestVm::create(&shared.cluster, &namespace, "copy", spec).await?;
    let message = clone.until_condition(types::PROVISIONED, "False", "SourceRunning").await?;
    ensure!(message.contains("template") && message.contains("stop it"), "{message}");
    ensure!(in_phase(&clone.get().await?, Phase::Provisioning), "a wait is no error");
    ensure!(clone.volumes().await?.is_empty() && clone.domains().await?.is_empty(), "nothing in libvirt");
    until_off(&source).await?;
    clone.until("is placed and Running", COPIED, |vm| in_phase(vm, Phase::Running)).await?;
    ensure!(clone.until_booted().await?.contains("copy"), "it has its own host name");
    disk_says(&clone, "first").await?;
    let table = clone.http("/partitions/").await?;
    for kibibytes in [2 << 20, 96 << 10, 32 << 10] {
        ensure!(table.contains(&format!(" {kibibytes} vd")), "it has a disk of {kibibytes} KiB: {table}");
    }
    check_plain(shared, &clone, &["data", "own"]).await?;
    clone.until_condition(types::PROVISIONED, "True", "Provisioned").await?;

    // Neither knows of the other: both run, each with its own address and disk.
    source.patch(json!({ "powerState": "Running" })).await?;
    source.until_phase(Phase::Running).await?;
    source.until_booted().await?;
    disk_says(&source, "first").await?;
    source.note("/cgi-bin/disk", "second").await?;
    clone.note("/cgi-bin/disk", "third").await?;
    disk_says(&source, "second").await?;
    let address = |vm: kvmoor_crds::VirtualMachine| vm.status.map(|status| status.addresses).unwrap_or_default();
    ensure!(address(source.get().await?) != address(clone.get().await?), "each has its own address");
    let qemu = clone.qemu().context("it runs")?;
    source.remove().await?;
    disk_says(&clone, "third").await?;
    ensure!(clone.qemu() == Some(qemu), "the clone goes on without its source");

    // A clone of the clone, of the size that its source has by now.
    until_off(&clone).await?;
    let again = TestVm::create(&shared.cluster, &namespace, "again", with(like_its_source(), of("copy"))).await?;
    until_running(&again).await?;
    again.until_booted().await?;
    disk_says(&again, "third").await?;
    let admitted = again.get().await?.status.and_then(|status| status.admitted).context("admitted")?;
    ensure!(admitted.disk.0 == "2Gi", "the quota was charged with the source's size: {admitted:?}");
    check_plain(shared, &again, &[]).await?;
    clone.remove().await?;
    again.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn of_a_snapshot(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("clone-snapshot").await?;
    let source = TestVm::create(&shared.cluster, &namespace, "template", tiny()).await?;
    source.until_phase(Phase::Running).await?;
    source.until_booted().await?;
    source.note("/cgi-bin/disk", "then").await?;
    source.note("/cgi-bin/ram", "then").await?;
    TestSnapshot::create(shared, &namespace, "then", "template").await?.until_phase(SnapshotPhase::Ready).await?;
    source.note("/cgi-bin/disk", "later").await?;
    // A disk that the snapshot does not have.
    source.patch(json!({ "disks": [{ "name": "data", "size": "64Mi" }], "disk": { "size": "2Gi" } })).await?;
    source.until_condition(types::SYNCHRONIZED, "True", "Synchronized").await?;
    until_off(&source).await?;
    write(shared, 5, "64k", &names::extra_volume(source.uid(), "data")).await?;
    TestSnapshot::create(shared, &namespace, "off", "template").await?.until_phase(SnapshotPhase::Ready).await?;

    let disks = json!({ "disks": [{ "name": "data", "size": "64Mi" }] });
    let old = with(with(like_its_source(), of_snapshot("template", "then")), disks.clone());
    let old = TestVm::create(&shared.cluster, &namespace, "old", old).await?;
    until_running(&old).await?;
    old.until_booted().await?;
    disk_says(&old, "then").await?;
    ensure!(old.http("/cgi-bin/ram").await?.is_empty(), "it has booted");
    ensure!(old.starts()? == 1, "QEMU was started once");
    check_plain(shared, &old, &["data"]).await?;
    let table = old.http("/partitions/").await?;
    ensure!(table.contains(&format!(" {} vd", 2 << 20)), "its disk has the size that its source's has now: {table}");
    until_off(&old).await?;
    holds(shared, 0, "64k", &names::extra_volume(old.uid(), "data"))
        .await
        .context("what was not there then is blank")?;
    old.remove().await?;

    // What the source holds now, without the snapshots that lie in its disks.
    let now = with(with(like_its_source(), of("template")), with(disks, json!({ "powerState": "Stopped" })));
    let now = TestVm::create(&shared.cluster, &namespace, "now", now).await?;
    now.until("is Stopped", COPIED, |vm| in_phase(vm, Phase::Stopped)).await?;
    check_plain(shared, &now, &["data"]).await?;
    holds(shared, 5, "64k", &names::extra_volume(now.uid(), "data")).await?;
    now.patch(json!({ "powerState": "Running" })).await?;
    until_running(&now).await?;
    now.until_booted().await?;
    disk_says(&now, "later").await?;
    now.remove().await?;

    // The source is what it was, snapshots included.
    let inside = tool(shared, &["qemu-img", "snapshot", "-l"], &names::root_volume(source.uid())).await?;
    ensure!(inside.matches("kvmoor-").count() == 2, "{inside}");
    source.patch(json!({ "powerState": "Running" })).await?;
    source.until_phase(Phase::Running).await?;
    source.until_booted().await?;
    disk_says(&source, "later").await?;
    source.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// Nothing is done to the source meanwhile; a clone that goes, and a process that ends, leave nothing half.
pub async fn while_the_disks_are_copied(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("clone-middle").await?;
    let disks = json!({ "disks": [{ "name": "data", "size": "1Gi" }] });
    let off = json!({ "powerState": "Stopped" });
    let source =
        TestVm::create(&shared.cluster, &namespace, "template", with(with(blank(), disks.clone()), off)).await?;
    source.until_phase(Phase::Stopped).await?;
    write(shared, 5, MUCH, &names::extra_volume(source.uid(), "data")).await?;
    let spec = with(with(blank(), of("template")), disks);

    let gone = TestVm::create(&shared.cluster, &namespace, "gone", spec.clone()).await?;
    gone.until_condition(types::PROVISIONED, "False", "Copying").await?;
    gone.remove().await?;
    source.until_condition(types::READY, "True", "Stopped").await?;

    let clone = TestVm::create(&shared.cluster, &namespace, "copy", spec.clone()).await?;
    clone.until_condition(types::PROVISIONED, "False", "Copying").await?;
    source.patch(json!({ "powerState": "Running" })).await?;
    let message = source.until_condition(types::SYNCHRONIZED, "False", "BeingCloned").await?;
    ensure!(source.starts()? == 0, "it is not started before: {message}");
    until_running(&source).await?;
    until_running(&clone).await?;
    let copy = names::extra_volume(clone.uid(), "data");
    until_off(&clone).await?;
    holds(shared, 5, MUCH, &copy).await?;
    check_plain(shared, &clone, &["data"]).await?;
    clone.remove().await?;

    // The process ends in the middle, more than once: it is copied anew, and the source is not held up by the dead one.
    until_off(&source).await?;
    let process = shared.cluster.node_controller(0)?;
    let killed = TestVm::create(&shared.cluster, &namespace, "killed", spec.clone()).await?;
    for delay in [100, 400] {
        killed.until_condition(types::PROVISIONED, "False", "Copying").await?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        process.kill().await;
        process.start()?;
    }
    until_running(&killed).await?;
    until_off(&killed).await?;
    holds(shared, 5, MUCH, &names::extra_volume(killed.uid(), "data")).await?;
    check_plain(shared, &killed, &["data"]).await?;
    killed.remove().await?;

    // The source goes in the middle: when its disks are copied.
    let last = TestVm::create(&shared.cluster, &namespace, "last", spec).await?;
    last.until_condition(types::PROVISIONED, "False", "Copying").await?;
    source.delete().await?;
    until_running(&last).await?;
    source.until_gone().await?;
    until_off(&last).await?;
    holds(shared, 5, MUCH, &names::extra_volume(last.uid(), "data")).await?;
    last.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn what_cannot_be_is_said(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("clone-errors").await?;
    let early = TestVm::create(&shared.cluster, &namespace, "early", with(blank(), of("template"))).await?;
    let message = early.until_condition(types::ADMITTED, "False", "SourceMissing").await?;
    ensure!(message.contains("template"), "{message}");
    let off = with(blank(), json!({ "powerState": "Stopped", "disks": [{ "name": "data", "size": "64Mi" }] }));
    let source = TestVm::create(&shared.cluster, &namespace, "template", off).await?;
    until_running(&early).await?;
    early.remove().await?;

    let small = with(with(blank(), of("template")), json!({ "disk": { "size": "512Mi" } }));
    let small = TestVm::create(&shared.cluster, &namespace, "small", small).await?;
    let message = small.until_condition(types::ADMITTED, "False", "InvalidSpec").await?;
    ensure!(message.contains("1Gi"), "{message}");
    small.patch(json!({ "disk": { "size": "1Gi" } })).await?;
    until_running(&small).await?;
    small.remove().await?;

    let disks = json!({ "disks": [{ "name": "data", "size": "32Mi" }] });
    let thin = TestVm::create(&shared.cluster, &namespace, "thin", with(with(blank(), of("template")), disks)).await?;
    let message = thin.until_condition(types::PROVISIONED, "False", "DiskTooSmall").await?;
    ensure!(message.contains("data") && message.contains("64Mi"), "{message}");
    ensure!(thin.volumes().await?.is_empty(), "nothing was copied");
    thin.patch(json!({ "disks": [{ "name": "data", "size": "64Mi" }] })).await?;
    until_running(&thin).await?;
    thin.remove().await?;

    let lost = with(blank(), of_snapshot("template", "none"));
    let lost = TestVm::create(&shared.cluster, &namespace, "lost", lost).await?;
    let message = lost.until_condition(types::PROVISIONED, "False", "SnapshotMissing").await?;
    ensure!(message.contains("none"), "{message}");
    source.remove().await?;
    let message = lost.until_condition(types::PROVISIONED, "False", "SourceMissing").await?;
    ensure!(message.contains("template"), "{message}");
    lost.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn over_rest(shared: &Shared) -> Result<()> {
    let user = shared.user("cloner").await?;
    let body = json!({
        "name": "template", "cpu": 1, "memory": 96, "os_type": "tiny", "disk": 1024, "user_data": "#cloud-config\n",
        "disks": [{ "name": "data", "size": 32 }],
    });
    let made = user.post("/api/vms", body).await?;
    let path = format!("/api/vms/{}", made["id"]);
    let clone = format!("{path}/clone");
    let named = |name: &str| json!({ "name": name });
    let source = TestVm::existing(
        &shared.cluster,
        made["namespace"].as_str().context("a namespace")?,
        made["resource_name"].as_str().context("a name")?,
    )
    .await?;
    source.until_phase(Phase::Running).await?;
    source.until_booted().await?;
    let (status, answer) = user.call(Method::POST, &clone, Some(named("copy"))).await?;
    let message = answer["message"].as_str().unwrap_or_default();
    ensure!(status == StatusCode::CONFLICT && message.contains("stop it first"), "{status} {answer}");
    source.note("/cgi-bin/disk", "then").await?;
    let snapshot = user.post(&format!("{path}/snapshots"), named("then")).await?;
    source.note("/cgi-bin/disk", "later").await?;
    user.post(&format!("{path}/action"), json!({ "action": "stop" })).await?;
    source.until("is Stopped", Duration::from_secs(60), |vm| in_phase(vm, Phase::Stopped)).await?;

    for (body, code) in [
        (json!({ "name": "copy", "disk": 1023 }), StatusCode::CONFLICT),
        (json!({ "name": "copy", "snapshot_id": 999_999 }), StatusCode::NOT_FOUND),
        (json!({ "name": "copy", "cpu": 400 }), StatusCode::FORBIDDEN),
        (json!({ "name": "" }), StatusCode::BAD_REQUEST),
    ] {
        let (status, answer) = user.call(Method::POST, &clone, Some(body.clone())).await?;
        ensure!(status == code, "{body}: {status} {answer}");
    }
    // Made by an admin, it is its owner's all the same.
    let (status, now) = shared.admin.call(Method::POST, &clone, Some(named("Copy"))).await?;
    ensure!(status == StatusCode::CREATED, "{status} {now}");
    for field in ["owner_id", "namespace", "os_type", "cpu", "memory", "disk", "disks"] {
        ensure!(now[field] == made[field], "{field} is as the source has it: {now} {made}");
    }
    ensure!(now["name"] == "Copy" && now["id"] != made["id"] && now["uuid"] != made["uuid"], "{now}");
    let old = json!({ "name": "Old", "snapshot_id": snapshot["id"], "memory": 80, "start": false });
    let old = user.post(&clone, old).await?;
    ensure!(old["memory"] == 80 && old["cpu"] == 1, "{old}");
    for (answer, note) in [(&now, "later"), (&old, "then")] {
        let name = answer["resource_name"].as_str().context("a name")?;
        let vm = TestVm::existing(&shared.cluster, answer["namespace"].as_str().context("a namespace")?, name).await?;
        if note == "then" {
            vm.until("is Stopped", COPIED, |vm| in_phase(vm, Phase::Stopped)).await?;
            user.post(&format!("/api/vms/{}/action", answer["id"]), json!({ "action": "start" })).await?;
        }
        until_running(&vm).await?;
        vm.until_booted().await?;
        disk_says(&vm, note).await?;
    }
    let me = user.get("/api/auth/me").await?["id"].clone();
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{me}?force=true"), None).await?;
    Ok(())
}

/// The process ends after each side effect of making a clone of a snapshot with two disks.
pub async fn crash_while_cloning(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-clone").await?;
    let process = shared.cluster.node_controller(0)?;
    let disks = json!({ "disks": [{ "name": "data", "size": "64Mi" }] });
    let off = json!({ "powerState": "Stopped" });
    let source =
        TestVm::create(&shared.cluster, &namespace, "template", with(with(blank(), disks.clone()), off)).await?;
    source.until_phase(Phase::Stopped).await?;
    let (root, data) = (names::root_volume(source.uid()), names::extra_volume(source.uid(), "data"));
    for (pattern, name) in [(6, "then"), (7, "later")] {
        write(shared, pattern, "64k", &root).await?;
        write(shared, pattern, "64k", &data).await?;
        TestSnapshot::create(shared, &namespace, name, "template").await?.until_phase(SnapshotPhase::Ready).await?;
    }
    let spec = with(with(blank(), of_snapshot("template", "then")), with(disks, json!({ "disk": { "size": "2Gi" } })));
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} side effects");
        let name = format!("clone-{n}");
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let vm = TestVm::create(&shared.cluster, &namespace, &name, spec.clone()).await?;
        let done = || async { Ok(in_phase(&vm.get().await?, Phase::Running)) };
        let ended = converge(process, &format!("{name}: converges"), SOON, done).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        ensure!(vm.starts()? == 1, "{name}: QEMU was started {} times", vm.starts()?);
        check_plain(shared, &vm, &["data"]).await?;
        until_off(&vm).await?;
        for volume in [names::root_volume(vm.uid()), names::extra_volume(vm.uid(), "data")] {
            holds(shared, 6, "64k", &volume).await?;
        }
        vm.remove().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 10, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("clone: {crashes} points of crash");
    for volume in [&root, &data] {
        holds(shared, 7, "64k", volume).await.context("the source is what it was")?;
    }
    source.remove().await?;
    shared.drop_namespace(&namespace).await
}
