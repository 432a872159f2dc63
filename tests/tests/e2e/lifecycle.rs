//! The life of a virtual machine, from nothing to nothing, on every path that a user has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmoor_crds::{Phase, conditions::types};
use kvmoor_tests::vm::{SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::shared::Shared;

pub async fn from_nothing_to_a_booted_guest(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("boot").await?;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO0 somebody's <key> & \"more\"";
    let spec = with(tiny(), json!({ "cloudInit": { "sshAuthorizedKeys": [key] }, "cpu": 2 }));
    let vm = TestVm::create(&shared.cluster, &namespace, "booted", spec).await?;
    vm.until_condition(types::READY, "True", "Running").await?;
    ensure!(vm.until_booted().await? == "booted", "the guest has the object's name");
    ensure!(vm.http("/ssh-authorized-keys").await? == key, "the guest has the user's key");
    ensure!(vm.http("/nproc").await? == "2", "the guest has its CPUs");
    let status = vm.get().await?.status.context("a status")?;
    ensure!(status.id.is_some_and(|id| id > 0), "an id");
    ensure!(status.started_at.is_some(), "a start time");
    ensure!(status.resources.is_some_and(|resources| resources.cpu == 2), "resources in force");
    let host = vm.host().await?;
    let xml = host.virsh().run(&["dumpxml", &vm.domain()]).await?;
    ensure!(xml.contains("<listen type='none'/>"), "VNC has no TCP port: {xml}");
    ensure!(!xml.contains("port='59"), "VNC has no TCP port: {xml}");
    let log = host.log_dir().context("a private host")?;
    let serial = find(&log, &format!("{}-serial.log", vm.domain())).context("a serial log")?;
    ensure!(std::fs::metadata(serial)?.len() > 0, "the guest's console is in its log");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

fn find(dir: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, name) } else { (entry.file_name() == name).then_some(path) }
    })
}

pub async fn kubectl_applies_the_example(shared: &Shared) -> Result<()> {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/vm.yaml");
    let kubectl = async |args: &[&str]| -> Result<String> {
        let output = tokio::process::Command::new(shared.cluster.kubectl())
            .arg("--kubeconfig")
            .arg(shared.cluster.control_plane().admin_kubeconfig())
            .args(args)
            .output()
            .await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "kubectl {args:?}: {out}{err}");
        Ok(out.into_owned())
    };
    let example = example.to_str().context("a path in UTF-8")?;
    kubectl(&["apply", "-f", example]).await?;
    kubectl(&["wait", "--for=condition=Ready", "kvm/example", "--timeout=60s"]).await?;
    let vm = TestVm::existing(&shared.cluster, "default", "example").await?;
    ensure!(vm.until_booted().await? == "example", "the guest has the object's name");
    let table = kubectl(&["get", "kvm", "example"]).await?;
    for word in ["STATUS", "READY", "NODE", "IP", "CPU", "MEM", "AGE", "Running", "True", "host-0"] {
        ensure!(table.contains(word), "{word} is missing in:\n{table}");
    }
    let category = kubectl(&["get", "kvmoor", "-A", "-o", "name"]).await?;
    ensure!(category.contains("virtualmachine.kvmoor.dev/example"), "{category}");
    kubectl(&["delete", "-f", example, "--timeout=60s"]).await?;
    vm.until_gone().await
}

pub async fn every_power_state(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("power").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "power", tiny()).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    let boot = vm.http("/boot-id").await?;
    let first = vm.qemu().context("QEMU runs")?;

    vm.patch(json!({ "powerState": "Paused" })).await?;
    vm.until_phase(Phase::Paused).await?;
    ensure!(vm.http("/").await.is_err(), "a paused guest does not answer");
    vm.patch(json!({ "powerState": "Running" })).await?;
    vm.until_phase(Phase::Running).await?;
    ensure!(vm.http("/boot-id").await? == boot, "resuming is not booting");
    ensure!(vm.qemu() == Some(first), "pausing keeps QEMU");

    vm.request("reset").await?;
    vm.until_booted().await?;
    let what = "has booted again after the reset";
    let after_reset = wait::until(what, kvmoor_tests::vm::BOOT, || vm.http("/boot-id"), |id| *id != boot).await?;
    ensure!(vm.qemu() == Some(first), "a reset keeps QEMU");

    let asked = Instant::now();
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    vm.until_phase(Phase::Stopped).await?;
    ensure!(asked.elapsed() < Duration::from_secs(25), "the guest took the power button, not the deadline");
    ensure!(vm.qemu().is_none(), "QEMU is gone");
    ensure!(vm.get().await?.status.is_some_and(|status| status.addresses.is_empty()), "no address while off");

    vm.patch(json!({ "powerState": "Running" })).await?;
    vm.until_phase(Phase::Running).await?;
    vm.until_booted().await?;
    let second = vm.qemu().context("QEMU runs again")?;
    ensure!(first != second, "starting is a new QEMU");
    ensure!(vm.http("/boot-id").await? != after_reset, "starting is booting");

    vm.request("restart").await?;
    vm.until("has been restarted", SOON, |vm| {
        in_phase(vm, Phase::Running)
            && vm.status.as_ref().and_then(|status| status.requests).is_some_and(|requests| requests.restart == 1)
    })
    .await?;
    vm.until_booted().await?;
    ensure!(vm.qemu().is_some_and(|qemu| qemu != second), "a restart is a new QEMU");
    ensure!(vm.starts()? == 3, "QEMU was started {} times", vm.starts()?);

    vm.patch(json!({ "powerState": "Stopped", "requests": { "powerOff": 1 } })).await?;
    let asked = Instant::now();
    vm.until_phase(Phase::Stopped).await?;
    ensure!(asked.elapsed() < Duration::from_secs(10), "power off does not ask the guest");

    vm.patch(json!({ "powerState": "Paused" })).await?;
    vm.until_phase(Phase::Paused).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

fn kill_guest(vm: &TestVm<'_>) -> Result<()> {
    let qemu = vm.qemu().context("QEMU runs")?;
    kill(Pid::from_raw(qemu.pid), Signal::SIGKILL)?;
    Ok(())
}

pub async fn a_dead_guest_is_seen_and_started_again(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crashes").await?;
    let never =
        TestVm::create(&shared.cluster, &namespace, "never", with(blank(), json!({ "restartPolicy": "Never" })))
            .await?;
    let again = TestVm::create(&shared.cluster, &namespace, "again", blank()).await?;
    never.until_phase(Phase::Running).await?;
    again.until_phase(Phase::Running).await?;

    kill_guest(&never)?;
    let seen = never.until("is not Ready", SOON, |vm| !in_phase(vm, Phase::Running)).await?;
    let message = seen.status.and_then(|status| status.message).unwrap_or_default();
    ensure!(!message.is_empty(), "a crash has a message");

    kill_guest(&again)?;
    again.until("is not Running", SOON, |vm| !in_phase(vm, Phase::Running)).await?;
    again.until_phase(Phase::Running).await?;
    ensure!(again.starts()? == 2, "started {} times", again.starts()?);

    wait::always("Never means never", Duration::from_secs(3), || async { Ok(never.qemu().is_none()) }).await?;
    never.request("restart").await?;
    never.until_phase(Phase::Running).await?;
    never.remove().await?;
    again.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn a_guest_that_powers_off_stays_off(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("self-off").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "self-off", tiny()).await?;
    let always =
        TestVm::create(&shared.cluster, &namespace, "always", with(tiny(), json!({ "restartPolicy": "Always" })))
            .await?;
    vm.until_booted().await?;
    always.until_booted().await?;
    // What a user in the guest does with `poweroff`, seen from libvirt: a shutdown that Kvmoor did not ask for.
    vm.host().await?.virsh().run(&["shutdown", &vm.domain(), "--mode", "acpi"]).await?;
    always.host().await?.virsh().run(&["shutdown", &always.domain(), "--mode", "acpi"]).await?;
    vm.until_phase(Phase::Stopped).await?;
    always.until("is started again", SOON, |_| always.starts().is_ok_and(|starts| starts == 2)).await?;
    wait::always("it stays off", Duration::from_secs(3), || async { Ok(vm.qemu().is_none()) }).await?;
    // A libvirtd that starts anew has forgotten why the guest went off.
    let host = vm.host().await?;
    host.kill_libvirtd().await?;
    host.start_libvirtd().await?;
    always.until_phase(Phase::Running).await?;
    vm.until_phase(Phase::Stopped).await?;
    wait::always("it stays off", Duration::from_secs(3), || async { Ok(vm.qemu().is_none()) }).await?;
    vm.request("restart").await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    always.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn resize_waits_for_a_restart(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("resize").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "resize", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let qemu = vm.qemu();
    // More CPUs than its domain has room for, and memory that a guest this small has no room for.
    vm.patch(json!({ "cpu": 9, "memory": "64Mi" })).await?;
    let vm_now = vm
        .until("RestartRequired", SOON, |vm| {
            vm.status.as_ref().is_some_and(|s| kvmoor_crds::conditions::is_true(&s.conditions, types::RESTART_REQUIRED))
        })
        .await?;
    let status = vm_now.status.context("a status")?;
    let message =
        kvmoor_crds::conditions::find(&status.conditions, types::RESTART_REQUIRED).context("it")?.message.clone();
    ensure!(message.contains("cpu") && message.contains("memory"), "it names the fields: {message}");
    ensure!(status.resources.is_some_and(|resources| resources.cpu == 1), "still the old CPUs");
    ensure!(vm.qemu() == qemu, "QEMU is not restarted for it");
    // Taken back, it is true no more.
    vm.patch(json!({ "cpu": 1, "memory": "32Mi" })).await?;
    let cleared = |vm: &kvmoor_crds::VirtualMachine| {
        vm.status.as_ref().is_some_and(|s| {
            s.observed_generation == vm.metadata.generation
                && !kvmoor_crds::conditions::is_true(&s.conditions, types::RESTART_REQUIRED)
        })
    };
    vm.until("no RestartRequired", SOON, cleared).await?;
    vm.patch(json!({ "cpu": 9, "memory": "64Mi", "requests": { "restart": 1 } })).await?;
    let in_force = |vm: &kvmoor_crds::VirtualMachine| {
        cleared(vm)
            && vm.status.as_ref().is_some_and(|s| {
                s.phase == Some(Phase::Running) && s.resources.as_ref().is_some_and(|resources| resources.cpu == 9)
            })
    };
    vm.until("the new size is in force", SOON, in_force).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}
