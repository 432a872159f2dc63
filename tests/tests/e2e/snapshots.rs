//! Snapshots and restores: what a guest had comes back, whatever state it is in, once, and nothing is left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kvmoor_crds::{
    Phase, Quota, RestorePhase, SnapshotPhase, VirtualMachineRestore, VirtualMachineSnapshot, conditions, names,
};
use kvmoor_tests::events::until_warned;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, in_phase, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crash::{Ended, MOST, arm, check_whole, converge};
use crate::shared::Shared;

/// A restore brings QEMU up anew and reads its memory.
const RESTORED: Duration = Duration::from_secs(60);

/// A booted guest of a user, and the user's session.
async fn booted<'a>(shared: &'a Shared, name: &str) -> Result<(TestVm<'a>, Rest, i64)> {
    let user = shared.user(name).await?;
    let body = json!({ "name": name, "cpu": 1, "memory": 96, "os_type": "tiny", "disk": 1024 });
    let made = user.post("/api/vms", body).await?;
    let text = |field: &str| made[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {made}"));
    let vm = TestVm::existing(&shared.cluster, &text("namespace")?, &text("resource_name")?).await?;
    vm.until_booted().await?;
    Ok((vm, user, made["id"].as_i64().context("an id")?))
}

pub async fn snapshot(user: &Rest, vm: i64, name: &str) -> Result<Value> {
    let body = json!({ "name": name, "description": "Before update" });
    let (status, snapshot) = user.call(Method::POST, &format!("/api/vms/{vm}/snapshots"), Some(body)).await?;
    ensure!(status == StatusCode::CREATED, "{status} {snapshot}");
    for (field, expected) in [("vm_id", json!(vm)), ("name", json!(name)), ("description", json!("Before update"))] {
        ensure!(snapshot[field] == expected, "{field} in {snapshot}");
    }
    ensure!(snapshot["libvirt_name"].as_str().is_some_and(|name| name.starts_with("kvmoor-")), "{snapshot}");
    ensure!(snapshot["id"].as_i64().is_some_and(|id| id > 0), "{snapshot}");
    ensure!(snapshot["phase"] == "Ready", "{snapshot}");
    Ok(snapshot)
}

pub async fn restore(user: &Rest, snapshot: &Value) -> Result<()> {
    let answer = user.post(&format!("/api/snapshots/{}/restore", snapshot["id"]), json!({})).await?;
    ensure!(answer["snapshot"]["id"] == snapshot["id"], "{answer}");
    ensure!(answer["message"] == "Snapshot restored successfully", "{answer}");
    Ok(())
}

async fn write_notes(vm: &TestVm<'_>, note: &str) -> Result<()> {
    vm.note("/cgi-bin/ram", note).await?;
    vm.note("/cgi-bin/disk", note).await
}

/// Waits until the guest has that note, in its memory and on its disk.
async fn has_notes(vm: &TestVm<'_>, note: &str) -> Result<()> {
    for path in ["/cgi-bin/ram", "/cgi-bin/disk"] {
        let what = format!("{path} has the note {note}");
        wait::until(&what, RESTORED, || vm.http(path), |found| found == note).await?;
    }
    Ok(())
}

async fn libvirt_snapshots(vm: &TestVm<'_>) -> Result<Vec<String>> {
    let table = vm.host().await?.virsh().run(&["snapshot-list", &vm.domain(), "--name"]).await?;
    Ok(table.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

pub async fn the_old_state_comes_back(shared: &Shared) -> Result<()> {
    let (vm, user, id) = booted(shared, "snap-state").await?;
    let boot = vm.http("/boot-id").await?;
    write_notes(&vm, "first").await?;
    let first = snapshot(&user, id, "first").await?;
    write_notes(&vm, "second").await?;
    let second = snapshot(&user, id, "second").await?;
    write_notes(&vm, "third").await?;
    let third = snapshot(&user, id, "third").await?;
    write_notes(&vm, "lost").await?;
    let listed = user.get(&format!("/api/vms/{id}/snapshots")).await?;
    ensure!(listed == json!([first, second, third]), "{listed}");

    restore(&user, &first).await?;
    has_notes(&vm, "first").await?;
    ensure!(vm.http("/boot-id").await? == boot, "a restore with memory is no boot");
    in_phase_now(&vm, Phase::Running).await?;

    // One in the middle goes, and those around it stay.
    let gone = user.ok(Method::DELETE, &format!("/api/snapshots/{}", second["id"]), None).await?;
    ensure!(gone["deleted"] == true && gone["snapshot_id"] == second["id"] && gone["timestamp"].is_string(), "{gone}");
    let (status, _) = user.call(Method::GET, &format!("/api/snapshots/{}", second["id"]), None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status}");
    let left = libvirt_snapshots(&vm).await?;
    let is_left = |snapshot: &Value| left.iter().any(|name| snapshot["libvirt_name"] == *name);
    ensure!(left.len() == 2 && is_left(&first) && is_left(&third), "{left:?}");
    restore(&user, &third).await?;
    has_notes(&vm, "third").await?;

    // Paused: it stays so, and goes on from the snapshot when it is resumed.
    user.action(id, "pause").await?;
    vm.until_phase(Phase::Paused).await?;
    restore(&user, &first).await?;
    in_phase_now(&vm, Phase::Paused).await?;
    user.action(id, "resume").await?;
    has_notes(&vm, "first").await?;
    ensure!(vm.http("/boot-id").await? == boot, "resuming is no boot");

    // The virtual machine goes, and with it all that it had.
    let snapshots: Api<VirtualMachineSnapshot> =
        Api::namespaced(shared.cluster.client().await?, &vm.get().await?.metadata.namespace.context("a namespace")?);
    user.action(id, "delete").await?;
    vm.until_gone().await?;
    let look = || async { Ok(snapshots.list(&Default::default()).await?.items.len()) };
    wait::until("no snapshot is left", SOON, look, |left| *left == 0).await?;
    Ok(())
}

async fn in_phase_now(vm: &TestVm<'_>, phase: Phase) -> Result<()> {
    let now = vm.get().await?;
    ensure!(in_phase(&now, phase), "not {} but {:?}", phase.as_str(), now.status);
    Ok(())
}

pub async fn a_guest_that_is_off_is_restored(shared: &Shared) -> Result<()> {
    let (vm, user, id) = booted(shared, "snap-off").await?;
    let boot = vm.http("/boot-id").await?;
    write_notes(&vm, "on").await?;
    let with_memory = snapshot(&user, id, "with memory").await?;
    ensure!(with_memory["has_memory"] == true, "{with_memory}");

    // Stopped: it stays so, and boots from the old disk.
    vm.note("/cgi-bin/disk", "lost").await?;
    user.action(id, "stop").await?;
    vm.until_phase(Phase::Stopped).await?;
    restore(&user, &with_memory).await?;
    in_phase_now(&vm, Phase::Stopped).await?;
    ensure!(vm.qemu().is_none(), "it stays off");
    let without_memory = snapshot(&user, id, "without memory").await?;
    ensure!(without_memory["has_memory"] == false, "{without_memory}");
    user.action(id, "start").await?;
    vm.until_booted().await?;
    ensure!(vm.http("/boot-id").await? != boot, "it has booted");
    ensure!(vm.http("/cgi-bin/disk").await? == "on", "the disk is the old one");

    // A snapshot without memory, restored while the guest runs: it boots from the old disk.
    let booted_again = vm.http("/boot-id").await?;
    vm.note("/cgi-bin/disk", "lost").await?;
    restore(&user, &without_memory).await?;
    let what = "has booted after the restore";
    wait::until(what, BOOT, || vm.http("/boot-id"), |now| *now != booted_again).await?;
    ensure!(vm.http("/cgi-bin/disk").await? == "on", "the disk is the old one");

    // The guest powered itself off: it goes on from the snapshot's memory.
    vm.host().await?.virsh().run(&["shutdown", &vm.domain(), "--mode", "acpi"]).await?;
    vm.until_phase(Phase::Stopped).await?;
    restore(&user, &with_memory).await?;
    in_phase_now(&vm, Phase::Running).await?;
    has_notes(&vm, "on").await?;
    ensure!(vm.http("/boot-id").await? == boot, "it goes on where it was");
    vm.remove().await
}

pub async fn errors_are_clear(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("snap-errors").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "machine", blank()).await?;
    let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
    let path = format!("/api/vms/{id}/snapshots");
    let taken = snapshot(&shared.admin, id, "Snapshot 1").await?;

    let again = shared.admin.call(Method::POST, &path, Some(json!({ "name": "Snapshot 1" }))).await?;
    ensure!(again.0 == StatusCode::CONFLICT, "{again:?}");
    ensure!(again.1["message"] == "The VM has a snapshot named Snapshot 1 already", "{again:?}");
    let stranger = shared.user("snap-stranger").await?;
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::POST, path.clone()),
        (Method::GET, format!("/api/snapshots/{}", taken["id"])),
        (Method::DELETE, format!("/api/snapshots/{}", taken["id"])),
        (Method::POST, format!("/api/snapshots/{}/restore", taken["id"])),
    ] {
        let body = (method == Method::POST).then(|| json!({ "name": "x" }));
        let (status, answer) = stranger.call(method.clone(), &path, body).await?;
        ensure!(status == StatusCode::NOT_FOUND, "{method} {path}: {status} {answer}");
    }
    let (status, answer) = shared.admin.call(Method::POST, "/api/vms/999999/snapshots", Some(json!({}))).await?;
    ensure!(status == StatusCode::NOT_FOUND && answer["message"] == "VM not found", "{status} {answer}");

    // Without a virtual machine it waits, and is taken when there is one.
    let orphan = TestSnapshot::create(shared, &namespace, "orphan", "not-yet").await?;
    let message = orphan.until_condition("Scheduled", "VirtualMachineMissing").await?;
    ensure!(message.contains("not-yet"), "{message}");
    let late = TestVm::create(&shared.cluster, &namespace, "not-yet", blank()).await?;
    orphan.until_phase(SnapshotPhase::Ready).await?;
    late.remove().await?;
    orphan.until_gone().await?;

    // A restore of what is not there says so.
    let restore = TestRestore::create(shared, &namespace, "nothing").await?;
    restore.until_phase(RestorePhase::Failed).await?;
    let warning = until_warned(&shared.cluster, &namespace, &restore.uid, "SnapshotMissing").await?;
    ensure!(warning.contains("There is no snapshot nothing"), "{warning}");

    // One that libvirt has lost can be neither restored nor hold up its deletion.
    let name = taken["libvirt_name"].as_str().context("a name")?;
    vm.host().await?.virsh().run(&["snapshot-delete", &vm.domain(), name]).await?;
    let restored = format!("/api/snapshots/{}/restore", taken["id"]);
    let (status, answer) = shared.admin.call(Method::POST, &restored, Some(json!({}))).await?;
    ensure!(status == StatusCode::CONFLICT, "{status} {answer}");
    let restores: Api<VirtualMachineRestore> = Api::namespaced(shared.cluster.client().await?, &namespace);
    let of_taken = restores.list(&ListParams::default()).await?.items.into_iter();
    let failed =
        of_taken.filter(|restore| restore.spec.snapshot_name != "nothing").find_map(|restore| restore.metadata.uid);
    let warning = until_warned(&shared.cluster, &namespace, &failed.context("a restore")?, "SnapshotMissing").await?;
    ensure!(warning.contains("does not have the snapshot any more"), "{warning}");
    // Whoever reads conditions as kstatus does is told that both have failed, and does not wait for them.
    for restore in restores.list(&ListParams::default()).await?.items {
        let status = restore.status.context("a status")?;
        let stalled = conditions::find(&status.conditions, "Stalled").context("Stalled")?;
        ensure!((stalled.status.as_str(), stalled.reason.as_str()) == ("True", "SnapshotMissing"), "{stalled:?}");
    }
    in_phase_now(&vm, Phase::Running).await?;
    shared.admin.ok(Method::DELETE, &format!("/api/snapshots/{}", taken["id"]), None).await?;
    ensure!(vm.starts()? == 1, "the guest was left alone");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// libvirt has the snapshot, and QEMU does not: a restore that QEMU cannot do is not told to be done, and the guest, which
/// libvirt has turned off for it, is started as it is.
pub async fn what_qemu_cannot_restore_has_failed(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("snap-lost").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "machine", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let lost = TestSnapshot::create(shared, &namespace, "lost", "machine").await?;
    lost.until_phase(SnapshotPhase::Ready).await?;
    let delete = format!("delvm {}", lost.libvirt_name());
    vm.host().await?.virsh().run(&["qemu-monitor-command", &vm.domain(), "--hmp", &delete]).await?;
    let restore = TestRestore::create(shared, &namespace, "lost").await?;
    restore.until_phase(RestorePhase::Failed).await?;
    let warning = until_warned(&shared.cluster, &namespace, &restore.uid, "RestoreFailed").await?;
    ensure!(warning.contains("restore the snapshot"), "{warning}");
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn quota(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("snap-quota").await?;
    let quotas: Api<Quota> = Api::namespaced(shared.cluster.client().await?, &namespace);
    let quota = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Quota", "metadata": { "name": names::QUOTA_NAME },
        "spec": { "maxVms": 3, "maxCpu": 3, "maxMemory": "1Gi", "maxSnapshots": 1 },
    });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "machine", blank()).await?;
    let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
    let first = snapshot(&shared.admin, id, "first").await?;
    let path = format!("/api/vms/{id}/snapshots");
    let (status, answer) = shared.admin.call(Method::POST, &path, Some(json!({ "name": "second" }))).await?;
    ensure!(status == StatusCode::FORBIDDEN, "{status} {answer}");
    ensure!(answer["message"] == "quota exceeded: snapshots 1 used + 1 requested > 1 allowed", "{answer}");
    ensure!(shared.admin.get(&path).await? == json!([first]), "what is refused is not listed");

    // Who writes the object is refused at once, or else it waits, and is taken when there is room. The policy that refuses
    // sees a change a moment after it was written.
    let attempt = || async { Ok(TestSnapshot::try_out(shared, &namespace, "machine").await?.err()) };
    let refusal = wait::until("refused at once", SOON, attempt, Option::is_some).await?.context("just seen")?;
    ensure!(refusal.contains("snapshots 1 used + 1 requested > 1 allowed"), "{refusal}");
    let controller = shared.cluster.cluster_controller()?;
    let room = Patch::Merge(json!({ "spec": { "maxSnapshots": 2 } }));
    quotas.patch(names::QUOTA_NAME, &PatchParams::default(), &room).await?;
    controller.stop(SOON).await;
    wait::until("taken again", SOON, attempt, Option::is_none).await?;
    let waiting = TestSnapshot::create(shared, &namespace, "waiting", "machine").await?;
    let less = Patch::Merge(json!({ "spec": { "maxSnapshots": 1 } }));
    quotas.patch(names::QUOTA_NAME, &PatchParams::default(), &less).await?;
    controller.start()?;
    waiting.until_condition("Admitted", "QuotaExceeded").await?;
    quotas.patch(names::QUOTA_NAME, &PatchParams::default(), &room).await?;
    waiting.until_phase(SnapshotPhase::Ready).await?;
    vm.remove().await?;
    waiting.until_gone().await?;
    shared.drop_namespace(&namespace).await
}

/// A snapshot made through the Kubernetes API.
pub struct TestSnapshot {
    api: Api<VirtualMachineSnapshot>,
    pub name: String,
    uid: String,
}

impl TestSnapshot {
    pub async fn create(shared: &Shared, namespace: &str, name: &str, vm: &str) -> Result<Self> {
        let api: Api<VirtualMachineSnapshot> = Api::namespaced(shared.cluster.client().await?, namespace);
        let made = api.create(&PostParams::default(), &snapshot_of(name, vm)?).await?;
        Ok(Self { api, name: name.to_owned(), uid: made.metadata.uid.context("a UID")? })
    }

    /// What the policies say of a snapshot that is not made: whether it would be, or why not.
    async fn try_out(shared: &Shared, namespace: &str, vm: &str) -> Result<Result<(), String>> {
        let api: Api<VirtualMachineSnapshot> = Api::namespaced(shared.cluster.client().await?, namespace);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match api.create(&dry, &snapshot_of("tried-out", vm)?).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(refusal)) => Ok(Err(refusal.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    fn libvirt_name(&self) -> String {
        names::snapshot(&self.uid)
    }

    pub async fn get(&self) -> Result<VirtualMachineSnapshot> {
        Ok(self.api.get(&self.name).await?)
    }

    pub async fn phase(&self) -> Result<Option<SnapshotPhase>> {
        Ok(self.get().await?.status.and_then(|status| status.phase))
    }

    pub async fn until_phase(&self, phase: SnapshotPhase) -> Result<()> {
        let what = format!("snapshot {} is {}", self.name, phase.as_str());
        wait::until(&what, SOON, || self.phase(), |found| *found == Some(phase)).await?;
        Ok(())
    }

    async fn until_condition(&self, type_: &str, reason: &str) -> Result<String> {
        let look = || async {
            let status = self.api.get(&self.name).await?.status.unwrap_or_default();
            let found = conditions::find(&status.conditions, type_).filter(|found| found.reason == reason);
            Ok(found.map(|found| found.message.clone()))
        };
        let what = format!("snapshot {}: {type_} {reason}", self.name);
        wait::until(&what, SOON, look, Option::is_some).await?.context("just seen")
    }

    pub async fn is_gone(&self) -> Result<bool> {
        Ok(self.api.get_opt(&self.name).await?.is_none())
    }

    pub async fn until_gone(&self) -> Result<()> {
        wait::until(&format!("snapshot {} is gone", self.name), SOON, || self.is_gone(), |gone| *gone).await?;
        Ok(())
    }
}

fn snapshot_of(name: &str, vm: &str) -> Result<VirtualMachineSnapshot> {
    let object = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineSnapshot", "metadata": { "name": name },
        "spec": { "vmName": vm },
    });
    Ok(serde_json::from_value(object)?)
}

/// A restore made through the Kubernetes API.
pub struct TestRestore {
    api: Api<VirtualMachineRestore>,
    name: String,
    uid: String,
}

impl TestRestore {
    pub async fn create(shared: &Shared, namespace: &str, snapshot: &str) -> Result<Self> {
        Self::named(shared, namespace, &format!("restore-{snapshot}"), snapshot).await
    }

    /// One of several of the same snapshot.
    pub async fn named(shared: &Shared, namespace: &str, name: &str, snapshot: &str) -> Result<Self> {
        let api: Api<VirtualMachineRestore> = Api::namespaced(shared.cluster.client().await?, namespace);
        let object = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineRestore", "metadata": { "name": name },
            "spec": { "snapshotName": snapshot },
        });
        let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(Self { api, name: name.to_owned(), uid: made.metadata.uid.context("a UID")? })
    }

    pub async fn phase(&self) -> Result<Option<RestorePhase>> {
        Ok(self.api.get(&self.name).await?.status.and_then(|status| status.phase))
    }

    pub async fn until_phase(&self, phase: RestorePhase) -> Result<()> {
        wait::until(&format!("{}: {phase:?}", self.name), SOON, || self.phase(), |found| *found == Some(phase)).await?;
        Ok(())
    }
}

/// Tries an operation with a crash of the node controller after each of its side effects, on a fresh machine each time.
macro_rules! crashes {
    ($shared:ident, $name:literal, $spec:expr, |$vm:ident, $namespace:ident| prepare $prepare:block ask($before:ident) $ask:block done($asked:ident) $done:expr, check $check:block) => {{
        let $namespace = $shared.namespace(concat!("snap-crash-", $name)).await?;
        let process = $shared.cluster.node_controller(0)?;
        let mut crashes = 0;
        for n in 1.. {
            ensure!(n < MOST, "{} has more than {MOST} side effects", $name);
            let $vm = TestVm::create(&$shared.cluster, &$namespace, &format!("{}-{n}", $name), $spec).await?;
            $vm.until_phase(Phase::Running).await?;
            let $before = $prepare;
            arm(process, n).await?;
            $shared.cluster.wait_ready().await?;
            let $asked = $ask;
            let done = || async { Ok($done) };
            let ended = converge(process, &format!("{} {n}: converges", $name), SOON, done).await?;
            crashes += usize::from(matches!(ended, Ended::Crashed));
            // What would be done a second time would be done by now.
            tokio::time::sleep(Duration::from_millis(700)).await;
            $vm.until_phase(Phase::Running).await?;
            check_whole(&$vm).await?;
            $check
            $vm.remove().await?;
            if matches!(ended, Ended::Finished) {
                break;
            }
        }
        ensure!(crashes >= 2, "{}: only {crashes} side effects were met", $name);
        println!("{}: {crashes} points of crash", $name);
        $shared.drop_namespace(&$namespace).await
    }};
}

pub async fn crash_while_taking(shared: &Shared) -> Result<()> {
    crashes!(shared, "take", blank(), |vm, namespace|
    prepare { format!("of-{}", vm.uid()) }
    ask(name) { TestSnapshot::create(shared, &namespace, &name, &vm.get().await?.metadata.name.context("a name")?).await? }
    done(asked) asked.phase().await? == Some(SnapshotPhase::Ready),
    check {
        let taken = libvirt_snapshots(&vm).await?;
        ensure!(taken == [asked.libvirt_name()], "one snapshot, not {taken:?}");
        ensure!(vm.starts()? == 1, "QEMU was started {} times", vm.starts()?);
    })
}

pub async fn crash_while_restoring(shared: &Shared) -> Result<()> {
    // Counted before the snapshot and again after it: a restore must not bring the old count back.
    let spec = with(blank(), json!({ "restartPolicy": "Never" }));
    crashes!(shared, "restore", spec.clone(), |vm, namespace|
    prepare {
        let name = format!("of-{}", vm.uid());
        let vm_name = vm.get().await?.metadata.name.context("a name")?;
        let taken = TestSnapshot::create(shared, &namespace, &name, &vm_name).await?;
        taken.until_phase(SnapshotPhase::Ready).await?;
        vm.request("restart").await?;
        vm.until("has been restarted", SOON, |vm| {
            in_phase(vm, Phase::Running)
                && vm.status.as_ref().and_then(|status| status.requests).is_some_and(|done| done.restart == 1)
        })
        .await?;
        ensure!(vm.starts()? == 2, "started and restarted");
        taken.name
    }
    ask(name) { TestRestore::create(shared, &namespace, &name).await? }
    done(asked) asked.phase().await? == Some(RestorePhase::Succeeded),
    check {
        // A revert starts QEMU anew.
        ensure!(vm.starts()? == 3, "QEMU was started {} times", vm.starts()?);
        let requests = vm.get().await?.status.and_then(|status| status.requests).context("requests")?;
        ensure!(requests.restart == 1, "the restart is not forgotten");
    })
}

/// The node controller is killed while libvirt restores, which goes on without it, and is back before that is over.
pub async fn killed_in_the_middle_of_a_restore(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("snap-middle").await?;
    let process = shared.cluster.node_controller(0)?;
    let vm = TestVm::create(&shared.cluster, &namespace, "middle", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    for (done, delay) in [30, 100, 300, 700, 1200].into_iter().enumerate() {
        let taken = TestSnapshot::create(shared, &namespace, &format!("before-{delay}"), "middle").await?;
        taken.until_phase(SnapshotPhase::Ready).await?;
        let restore = TestRestore::create(shared, &namespace, &taken.name).await?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        process.kill().await;
        process.start()?;
        restore.until_phase(RestorePhase::Succeeded).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        vm.until_phase(Phase::Running).await?;
        ensure!(vm.starts()? == done + 2, "after {delay} ms: QEMU was started {} times", vm.starts()?);
    }
    check_whole(&vm).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn crash_while_deleting(shared: &Shared) -> Result<()> {
    crashes!(shared, "drop", blank(), |vm, namespace|
    prepare {
        let vm_name = vm.get().await?.metadata.name.context("a name")?;
        let mut taken = Vec::new();
        for name in ["a", "b", "c"] {
            let name = format!("{name}-of-{}", vm.uid());
            let one = TestSnapshot::create(shared, &namespace, &name, &vm_name).await?;
            one.until_phase(SnapshotPhase::Ready).await?;
            taken.push(one);
        }
        taken
    }
    ask(taken) {
        let [_, middle, _] = taken.as_slice() else { anyhow::bail!("three") };
        middle.api.delete(&middle.name, &DeleteParams::default()).await?;
        taken
    }
    done(taken) taken.get(1).context("three")?.is_gone().await?,
    check {
        let left = libvirt_snapshots(&vm).await?;
        ensure!(left.len() == 2, "two snapshots are left, not {left:?}");
        ensure!(vm.starts()? == 1, "QEMU was started {} times", vm.starts()?);
    })
}
