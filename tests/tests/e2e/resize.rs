//! A guest that runs gets more CPUs and memory, as the guest itself sees it, and QEMU is the same before and after.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{Phase, VirtualMachine};
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::wait;
use serde_json::json;

use crate::crash::{Ended, MOST, arm, check_whole, converge};
use crate::shared::Shared;
use crate::snapshots::{restore, snapshot};

/// A guest that is told of a CPU has taken it into use by then.
const TAKEN_UP: Duration = Duration::from_secs(60);

/// Whether these are in force, of the present spec, and nothing waits for a restart.
fn has(vm: &VirtualMachine, cpu: i32, memory: &str) -> bool {
    vm.status.as_ref().is_some_and(|status| {
        status.observed_generation == vm.metadata.generation
            && status.resources.as_ref().is_some_and(|found| found.cpu == cpu && found.memory.0 == memory)
            && !conditions::is_true(&status.conditions, types::RESTART_REQUIRED)
    })
}

/// MiB that the guest's Linux has.
async fn guest_memory(vm: &TestVm<'_>) -> Result<u64> {
    let text = vm.http("/meminfo").await?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("MemTotal")?;
    Ok(total.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

async fn until_cpus(vm: &TestVm<'_>, cpus: &str) -> Result<()> {
    wait::until(&format!("the guest uses {cpus} CPUs"), TAKEN_UP, || vm.http("/nproc"), |found| found == cpus).await?;
    Ok(())
}

/// A booted guest with room to grow.
async fn roomy<'a>(shared: &'a Shared, namespace: &str, name: &str) -> Result<TestVm<'a>> {
    let spec = with(tiny(), json!({ "cpu": 1, "memory": "1Gi" }));
    let vm = TestVm::create(&shared.cluster, namespace, name, spec).await?;
    vm.until_booted().await?;
    Ok(vm)
}

pub async fn a_running_guest_grows(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("grow").await?;
    let vm = roomy(shared, &namespace, "grow").await?;
    let (qemu, boot, before) = (vm.qemu(), vm.http("/boot-id").await?, guest_memory(&vm).await?);
    vm.patch(json!({ "cpu": 3, "memory": "1280Mi" })).await?;
    vm.until("has grown", SOON, |vm| has(vm, 3, "1280Mi")).await?;
    until_cpus(&vm, "3").await?;
    let look = || guest_memory(&vm);
    wait::until("the guest has its memory", TAKEN_UP, look, |found| *found >= before + 250).await?;
    ensure!(vm.qemu() == qemu && vm.starts()? == 1, "QEMU is the same");
    ensure!(vm.http("/boot-id").await? == boot, "the guest has not booted");
    let admitted = vm.get().await?.status.and_then(|status| status.admitted).context("admitted")?;
    ensure!(admitted.cpu == 3 && admitted.memory.0 == "1280Mi", "the quota has it: {admitted:?}");

    // More than there is room for waits for a restart, and is named.
    vm.patch(json!({ "cpu": 9, "memory": "1300Mi" })).await?;
    let message = vm.until_condition(types::RESTART_REQUIRED, "True", "SpecChanged").await?;
    ensure!(message == "Takes effect at the next restart: cpu, memory.", "{message}");
    ensure!(vm.qemu() == qemu, "QEMU is the same");
    vm.patch(json!({ "cpu": 3, "memory": "1280Mi" })).await?;
    vm.until("nothing waits", SOON, |vm| has(vm, 3, "1280Mi")).await?;

    // A restart defines it anew, with room for more.
    vm.patch(json!({ "cpu": 9, "requests": { "restart": 1 } })).await?;
    vm.until("has restarted", BOOT, |vm| in_phase(vm, Phase::Running) && has(vm, 9, "1280Mi")).await?;
    ensure!(vm.starts()? == 2, "started {} times", vm.starts()?);
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn what_was_plugged_in_comes_back_with_a_snapshot(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("grow-snap").await?;
    let vm = roomy(shared, &namespace, "grow-snap").await?;
    let id = vm.get().await?.status.and_then(|status| status.id).context("an id")?;
    let boot = vm.http("/boot-id").await?;
    vm.patch(json!({ "cpu": 2, "memory": "1152Mi" })).await?;
    vm.until("has grown", SOON, |vm| has(vm, 2, "1152Mi")).await?;
    until_cpus(&vm, "2").await?;
    vm.note("/cgi-bin/ram", "then").await?;
    let taken = snapshot(&shared.admin, id, "grown").await?;
    vm.note("/cgi-bin/ram", "lost").await?;
    vm.patch(json!({ "cpu": 4, "memory": "1280Mi" })).await?;
    vm.until("has grown more", SOON, |vm| has(vm, 4, "1280Mi")).await?;
    restore(&shared.admin, &taken).await?;
    // It comes back with what it had then, and grows again to what is asked now.
    vm.until("is what is asked", BOOT, |vm| in_phase(vm, Phase::Running) && has(vm, 4, "1280Mi")).await?;
    wait::until("the note is that of then", TAKEN_UP, || vm.http("/cgi-bin/ram"), |note| note == "then").await?;
    ensure!(vm.http("/boot-id").await? == boot, "a restore with memory is no boot");
    until_cpus(&vm, "4").await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn less_waits_for_a_restart_and_is_charged_until_then(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("shrink").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "shrink", with(blank(), json!({ "cpu": 3 }))).await?;
    vm.until_phase(Phase::Running).await?;
    vm.patch(json!({ "cpu": 1 })).await?;
    let message = vm.until_condition(types::RESTART_REQUIRED, "True", "SpecChanged").await?;
    ensure!(message == "Takes effect at the next restart: cpu.", "{message}");
    let charged = |vm: &VirtualMachine| {
        vm.status.as_ref().and_then(|status| status.admitted.as_ref()).map(|admitted| admitted.cpu)
    };
    wait::always("it is charged", Duration::from_secs(1), || async { Ok(charged(&vm.get().await?) == Some(3)) })
        .await?;
    vm.request("restart").await?;
    vm.until("has less and is charged less", SOON, |vm| has(vm, 1, "32Mi") && charged(vm) == Some(1)).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn crash_while_growing(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-grow").await?;
    let process = shared.cluster.node_controller(0)?;
    let spec = with(blank(), json!({ "memory": "1Gi" }));
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "growing has more than {MOST} side effects");
        let name = format!("grow-{n}");
        let vm = TestVm::create(&shared.cluster, &namespace, &name, spec.clone()).await?;
        vm.until_phase(Phase::Running).await?;
        let qemu = vm.qemu();
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        vm.patch(json!({ "cpu": 2, "memory": "1152Mi" })).await?;
        let done = || async { Ok(has(&vm.get().await?, 2, "1152Mi")) };
        let ended = converge(process, &format!("{name}: converges"), SOON, done).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        // What would be plugged in a second time would be by now.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let xml = vm.host().await?.virsh().run(&["dumpxml", &vm.domain()]).await?;
        ensure!(xml.matches("<memory model='dimm'").count() == 1, "{name}: memory is plugged in once: {xml}");
        ensure!(done().await? && vm.qemu() == qemu, "{name}: does not stay as it was asked");
        check_whole(&vm).await?;
        vm.remove().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 3, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("grow: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}
