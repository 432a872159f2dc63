//! Disks that grow, come and go while the guest runs, as the guest itself sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{Phase, Quota, RestorePhase, VirtualMachineSnapshot, names};
use kvmoor_tests::vm::{SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crash::{Ended, MOST, arm, check_whole, converge};
use crate::quota::until_judged_by;
use crate::shared::Shared;
use crate::snapshots::TestRestore;

/// A guest on a loaded machine has noticed by then.
const NOTICED: Duration = Duration::from_secs(60);

fn disk(name: &str, size: &str) -> Value {
    json!({ "name": name, "size": size })
}

/// The guest's virtio disks and their sizes in KiB, but the seed of 1 MiB.
async fn guest_sees(vm: &TestVm<'_>) -> Result<BTreeMap<String, u64>> {
    let table = vm.http("/partitions/").await?;
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let (blocks, name) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        (name.starts_with("vd") && blocks != 1024).then_some((name, blocks))
    };
    Ok(table.lines().filter_map(row).collect())
}

async fn until_guest_sees(vm: &TestVm<'_>, sizes: &[u64]) -> Result<()> {
    let mut wanted = sizes.to_vec();
    wanted.sort_unstable();
    let as_wanted = |seen: &BTreeMap<String, u64>| {
        let mut seen: Vec<_> = seen.values().copied().collect();
        seen.sort_unstable();
        seen == wanted
    };
    wait::until(&format!("the guest sees disks of {wanted:?} KiB"), NOTICED, || guest_sees(vm), as_wanted).await?;
    Ok(())
}

async fn until_synchronized(vm: &TestVm<'_>) -> Result<()> {
    vm.until_condition(types::SYNCHRONIZED, "True", "Synchronized").await.map(drop)
}

/// Takes a snapshot and waits until it is there.
async fn snapshot(shared: &Shared, namespace: &str, vm: &str, name: &str) -> Result<Api<VirtualMachineSnapshot>> {
    let api: Api<VirtualMachineSnapshot> = Api::namespaced(shared.cluster.client().await?, namespace);
    let object = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineSnapshot", "metadata": { "name": name },
        "spec": { "vmName": vm },
    });
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let ready = |snapshot: &VirtualMachineSnapshot| {
        snapshot.status.as_ref().and_then(|status| status.phase) == Some(kvmoor_crds::SnapshotPhase::Ready)
    };
    wait::until("the snapshot is there", SOON, || async { Ok(api.get(name).await?) }, ready).await?;
    Ok(api)
}

pub async fn they_grow_on_and_off(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("disks-grow").await?;
    let spec = with(tiny(), json!({ "disks": [disk("data", "64Mi")] }));
    let vm = TestVm::create(&shared.cluster, &namespace, "grows", spec).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    until_guest_sees(&vm, &[1 << 20, 64 << 10]).await?;
    let qemu = vm.qemu().context("it runs")?;
    vm.patch(json!({ "disk": { "size": "2Gi" }, "disks": [disk("data", "128Mi")] })).await?;
    until_guest_sees(&vm, &[2 << 20, 128 << 10]).await?;
    ensure!(vm.qemu() == Some(qemu), "it is the same QEMU");
    until_synchronized(&vm).await?;
    let in_force = |vm: &kvmoor_crds::VirtualMachine| {
        let resources = vm.status.as_ref().and_then(|status| status.resources.as_ref());
        let admitted = vm.status.as_ref().and_then(|status| status.admitted.as_ref());
        resources.and_then(|resources| resources.disk.as_ref()).is_some_and(|disk| disk.0 == "2176Mi")
            && admitted.is_some_and(|admitted| admitted.disk.0 == "2176Mi")
    };
    vm.until("status has the sizes", SOON, in_force).await?;
    for smaller in [json!({ "disk": { "size": "1Gi" } }), json!({ "disks": [disk("data", "64Mi")] })] {
        let error = vm.patch(smaller).await.err().context("shrinking is refused")?;
        ensure!(format!("{error:#}").contains("only grows"), "{error:#}");
    }
    // With a snapshot, too.
    let snapshots = snapshot(shared, &namespace, "grows", "before").await?;
    vm.patch(json!({ "disk": { "size": "3Gi" } })).await?;
    until_guest_sees(&vm, &[3 << 20, 128 << 10]).await?;
    snapshots.delete("before", &DeleteParams::default()).await?;
    // And while it is off.
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    vm.until("is Stopped", Duration::from_secs(60), |vm| in_phase(vm, Phase::Stopped)).await?;
    vm.patch(json!({ "disk": { "size": "4Gi" } })).await?;
    until_synchronized(&vm).await?;
    vm.patch(json!({ "powerState": "Running" })).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    until_guest_sees(&vm, &[4 << 20, 128 << 10]).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn they_come_and_go(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("disks-come").await?;
    let spec = with(tiny(), json!({ "disks": [disk("first", "64Mi")] }));
    let vm = TestVm::create(&shared.cluster, &namespace, "changes", spec).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    let qemu = vm.qemu().context("it runs")?;
    vm.patch(json!({ "disks": [disk("first", "64Mi"), disk("second", "96Mi")] })).await?;
    until_guest_sees(&vm, &[1 << 20, 64 << 10, 96 << 10]).await?;
    vm.patch(json!({ "disks": [disk("second", "96Mi")] })).await?;
    until_guest_sees(&vm, &[1 << 20, 96 << 10]).await?;
    let gone = || async { Ok(vm.volumes().await?.contains(&names::extra_volume(vm.uid(), "first"))) };
    wait::until("its volume is deleted", SOON, gone, |there| !*there).await?;
    ensure!(vm.qemu() == Some(qemu), "it is the same QEMU");
    until_synchronized(&vm).await?;
    // What a snapshot holds stays until the snapshot is gone.
    let snapshots = snapshot(shared, &namespace, "changes", "holds").await?;
    vm.patch(json!({ "disks": [] })).await?;
    let message = vm.until_condition(types::SYNCHRONIZED, "False", "DiskInSnapshot").await?;
    ensure!(message.contains("second"), "it names the disk: {message}");
    until_guest_sees(&vm, &[1 << 20, 96 << 10]).await?;
    snapshots.delete("holds", &DeleteParams::default()).await?;
    until_guest_sees(&vm, &[1 << 20]).await?;
    until_synchronized(&vm).await?;
    // A restart begins with what the spec says.
    vm.patch(json!({ "disks": [disk("third", "80Mi")] })).await?;
    until_guest_sees(&vm, &[1 << 20, 80 << 10]).await?;
    vm.request("restart").await?;
    let again = || async { Ok(vm.qemu()) };
    wait::until("it is another QEMU", NOTICED, again, |now| now.is_some() && *now != Some(qemu)).await?;
    vm.until_booted().await?;
    until_guest_sees(&vm, &[1 << 20, 80 << 10]).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// A guest that does not let go of a disk keeps it, and is told; it is gone once the guest is off.
pub async fn a_guest_that_does_not_let_go(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("disks-busy").await?;
    // Nothing in it answers when it is asked.
    let vm =
        TestVm::create(&shared.cluster, &namespace, "busy", with(blank(), json!({ "disks": [disk("held", "64Mi")] })));
    let vm = vm.await?;
    vm.until_phase(Phase::Running).await?;
    let held = names::extra_volume(vm.uid(), "held");
    vm.patch(json!({ "disks": [] })).await?;
    let message = vm.until_condition(types::SYNCHRONIZED, "False", "DiskDetachPending").await?;
    ensure!(message.contains("unmount it in the guest"), "{message}");
    vm.until_condition(types::READY, "True", "Running").await?;
    ensure!(vm.volumes().await?.contains(&held), "what the guest has is not deleted");
    let charged = vm.get().await?.status.and_then(|status| status.resources).and_then(|found| found.disk);
    ensure!(charged.is_some_and(|disk| disk.0 == "1088Mi"), "it is there until it is gone");
    // Whoever changes their mind has it as it was.
    vm.patch(json!({ "disks": [disk("held", "64Mi")] })).await?;
    until_synchronized(&vm).await?;
    vm.patch(json!({ "disks": [] })).await?;
    vm.until_condition(types::SYNCHRONIZED, "False", "DiskDetachPending").await?;
    vm.patch(json!({ "requests": { "powerOff": 1 }, "powerState": "Stopped" })).await?;
    vm.until_phase(Phase::Stopped).await?;
    until_synchronized(&vm).await?;
    ensure!(!vm.volumes().await?.contains(&held), "off, it holds nothing");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// A snapshot of before brings back neither a smaller disk nor a guest without a disk that the spec has.
pub async fn they_outlive_a_restore(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("disks-restore").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "restored", tiny()).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    let snapshots = snapshot(shared, &namespace, "restored", "before").await?;
    vm.patch(json!({ "disk": { "size": "2Gi" }, "disks": [disk("later", "64Mi")] })).await?;
    until_guest_sees(&vm, &[2 << 20, 64 << 10]).await?;
    TestRestore::create(shared, &namespace, "before").await?.until_phase(RestorePhase::Succeeded).await?;
    until_synchronized(&vm).await?;
    until_guest_sees(&vm, &[2 << 20, 64 << 10]).await?;
    snapshots.delete("before", &DeleteParams::default()).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn what_does_not_fit_is_said(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("disks-fit").await?;
    let small = with(tiny(), json!({ "disk": { "size": "1Mi" } }));
    let vm = TestVm::create(&shared.cluster, &namespace, "small", small).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "DiskTooSmall").await?;
    ensure!(message.contains("64Mi") && message.contains("tiny"), "{message}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing in libvirt");
    vm.patch(json!({ "disk": { "size": "64Mi" } })).await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;

    let quotas: Api<Quota> = Api::namespaced(shared.cluster.client().await?, &namespace);
    let quota = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Quota", "metadata": { "name": "default" },
        "spec": { "maxVms": 9, "maxCpu": 9, "maxMemory": "4Gi", "maxDisk": "2Gi" },
    });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "full", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    vm.patch(json!({ "disk": { "size": "2Gi" }, "disks": [disk("data", "1Gi")] })).await?;
    vm.until_condition(types::ADMITTED, "False", "QuotaExceeded").await?;
    let message = vm.until_condition(types::SYNCHRONIZED, "False", "DiskNotAdmitted").await?;
    ensure!(message.contains("3Gi") && message.contains("1Gi"), "the numbers: {message}");
    ensure!(vm.volumes().await?.len() == 2, "no disk was made");
    let patch = json!({ "spec": { "maxDisk": "3Gi" } });
    quotas.patch("default", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    until_synchronized(&vm).await?;
    ensure!(vm.volumes().await?.len() == 3, "the disk was made");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// The process ends after each side effect of growing, adding and removing disks, of a guest that is on and of one that
/// is off.
pub async fn crash_while_changing(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-disks").await?;
    let process = shared.cluster.node_controller(0)?;
    for power in ["Running", "Stopped"] {
        let mut crashes = 0;
        for n in 1.. {
            ensure!(n < MOST, "more than {MOST} side effects");
            let name = format!("disks-{}-{n}", power.to_lowercase());
            let spec = with(blank(), json!({ "disks": [disk("old", "1Gi")], "powerState": power }));
            let vm = TestVm::create(&shared.cluster, &namespace, &name, spec).await?;
            vm.until_condition(types::READY, "True", power).await?;
            arm(process, n).await?;
            shared.cluster.wait_ready().await?;
            // A guest without a system does not let go of a disk, so none is taken from one that runs.
            let disks = match power {
                "Running" => json!([disk("old", "2Gi"), disk("new", "1Gi")]),
                _ => json!([disk("new", "1Gi")]),
            };
            let generation = vm.patch(json!({ "disk": { "size": "2Gi" }, "disks": disks })).await?.metadata.generation;
            let total = if power == "Running" { "5Gi" } else { "3Gi" };
            let done = || async {
                let status = vm.get().await?.status.unwrap_or_default();
                let disk = status.resources.and_then(|resources| resources.disk);
                Ok(status.observed_generation == generation && disk.is_some_and(|disk| disk.0 == total))
            };
            let ended = converge(process, &format!("{name}: converges"), NOTICED, done).await?;
            crashes += usize::from(matches!(ended, Ended::Crashed));
            until_synchronized(&vm).await?;
            let mut expected = vec![names::root_volume(vm.uid()), names::seed_volume(vm.uid())];
            expected.push(names::extra_volume(vm.uid(), "new"));
            if power == "Running" {
                expected.push(names::extra_volume(vm.uid(), "old"));
            }
            ensure!(vm.volumes().await? == expected.iter().cloned().collect(), "{name}: {:?}", vm.volumes().await?);
            let starts = usize::from(power == "Running");
            ensure!(vm.starts()? == starts, "{name}: QEMU was started {} times", vm.starts()?);
            vm.remove().await?;
            if matches!(ended, Ended::Finished) {
                break;
            }
        }
        ensure!(crashes >= 4, "only {crashes} side effects were met: is the fault injection compiled in?");
        println!("disks of a guest that is {power}: {crashes} points of crash");
    }
    shared.drop_namespace(&namespace).await
}

/// The process ends after each side effect of taking a disk away from a guest that runs and lets go of it.
pub async fn crash_while_detaching(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-detach").await?;
    let process = shared.cluster.node_controller(0)?;
    let vm = TestVm::create(&shared.cluster, &namespace, "detaches", tiny()).await?;
    vm.until_booted().await?;
    let qemu = vm.qemu();
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} side effects");
        let name = format!("disk-{n}");
        vm.patch(json!({ "disks": [disk(&name, "64Mi")] })).await?;
        until_guest_sees(&vm, &[1 << 20, 64 << 10]).await?;
        until_synchronized(&vm).await?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let generation = vm.patch(json!({ "disks": [] })).await?.metadata.generation;
        let done = || async {
            let status = vm.get().await?.status.unwrap_or_default();
            let is_synchronized = conditions::is_true(&status.conditions, types::SYNCHRONIZED);
            let disk = status.resources.and_then(|resources| resources.disk);
            Ok(status.observed_generation == generation && is_synchronized && disk.is_some_and(|disk| disk.0 == "1Gi"))
        };
        let ended = converge(process, &format!("{name}: converges"), NOTICED, done).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        until_guest_sees(&vm, &[1 << 20]).await?;
        check_whole(&vm).await?;
        let defined = vm.host().await?.virsh().run(&["dumpxml", "--inactive", &vm.domain()]).await?;
        ensure!(!defined.contains(&name), "{name} is not forgotten: {defined}");
        ensure!(vm.qemu() == qemu && vm.starts()? == 1, "{name}: QEMU is not the same");
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 4, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("detach: {crashes} points of crash");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// What the REST API adds: disks at creation, and those that come, grow and go; what is refused is taken back.
pub async fn over_rest(shared: &Shared) -> Result<()> {
    let user = shared.user("disks").await?;
    let me = user.get("/api/auth/me").await?["id"].clone();
    let body = json!({
        "name": "disks", "cpu": 1, "memory": 32, "disk": 64, "start": false, "disks": [{ "name": "data", "size": 32 }],
    });
    let made = user.post("/api/vms", body).await?;
    ensure!(made["disk"] == 64 && made["disks"] == json!([{ "name": "data", "size": 32 }]), "{made}");
    let path = format!("/api/vms/{}", made["id"]);
    let call = async |method: Method, path: &str, body: Value| user.call(method, path, Some(body)).await;
    let disks = format!("{path}/disks");
    let data = format!("{disks}/data");
    let more = json!({ "name": "more", "size": 16 });
    for code in [StatusCode::CREATED, StatusCode::CREATED] {
        let (got, answer) = call(Method::POST, &disks, more.clone()).await?;
        ensure!(got == code && answer["disks"][1] == more, "attached once: {got} {answer}");
    }
    let grown = user.ok(Method::PUT, &data, Some(json!({ "size": 48 }))).await?;
    ensure!(grown["disks"][0]["size"] == 48, "{grown}");
    let resized = user.post(&format!("{path}/action"), json!({ "action": "resize", "disk": 80 })).await?;
    ensure!(resized["disk"] == 80, "{resized}");
    for (method, path, body, code) in [
        (Method::POST, &disks, json!({ "name": "more", "size": 17 }), StatusCode::CONFLICT),
        (Method::POST, &disks, json!({ "name": "-", "size": 17 }), StatusCode::BAD_REQUEST),
        (Method::PUT, &data, json!({ "size": 47 }), StatusCode::CONFLICT),
        (Method::PUT, &format!("{disks}/none"), json!({ "size": 47 }), StatusCode::NOT_FOUND),
        (Method::DELETE, &format!("{disks}/none"), json!({}), StatusCode::NOT_FOUND),
    ] {
        let (got, answer) = call(method.clone(), path, body).await?;
        ensure!(got == code, "{method} {path}: {got} {answer}");
    }
    // All together are 144 MiB; what is more than the quota is taken back.
    let limits = json!({ "user_id": me, "max_vms": 5, "max_cpu": 5, "max_memory": 1024, "max_disk": 150 });
    shared.admin.ok(Method::PUT, "/api/quota", Some(limits)).await?;
    let known = |quota: &Value| quota["quota"]["max_disk"] == 150 && quota["usage"]["disk"] == 144;
    wait::until("the quota is shown", SOON, || user.get("/api/quota"), known).await?;
    until_judged_by(&user, 5).await?;
    for (method, to, body) in [
        (Method::POST, &disks, json!({ "name": "much", "size": 7 })),
        (Method::PUT, &data, json!({ "size": 55 })),
        (Method::POST, &format!("{path}/action"), json!({ "action": "resize", "disk": 87 })),
    ] {
        let (code, answer) = call(method.clone(), to, body).await?;
        let message = answer["message"].as_str().unwrap_or_default();
        ensure!(code == StatusCode::FORBIDDEN && message.starts_with("quota exceeded"), "{method}: {code} {answer}");
        let now = user.get(&path).await?;
        ensure!(now["disk"] == 80 && now["disks"] == resized["disks"], "{method} {to}: taken back: {now}");
    }
    let snapshots = format!("{path}/snapshots");
    let snapshot = user.post(&snapshots, json!({ "name": "holds" })).await?;
    let (code, answer) = call(Method::DELETE, &data, json!({})).await?;
    ensure!(code == StatusCode::CONFLICT, "a snapshot holds it: {code} {answer}");
    user.ok(Method::DELETE, &format!("/api/snapshots/{}", snapshot["id"]), None).await?;
    let gone = || user.get(&snapshots);
    wait::until("the snapshot is gone", SOON, gone, |list: &Value| *list == json!([])).await?;
    let left = user.ok(Method::DELETE, &data, None).await?;
    ensure!(left["disks"] == json!([more]), "{left}");
    let freed = |quota: &Value| quota["usage"]["disk"] == 96;
    wait::until("the quota has it back", SOON, || user.get("/api/quota"), freed).await?;
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{me}?force=true"), None).await?;
    Ok(())
}
