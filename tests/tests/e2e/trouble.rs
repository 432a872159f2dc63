//! Guests in trouble: a kernel that panics, a crash that comes again, a disk for which the host has no room. Each is a
//! condition, an Event, and over when its cause is.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, VirtualMachine};
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, condition, in_phase, tiny, with};
use kvmoor_tests::{mounts, pool, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::crash::{Ended, MOST, arm, check_whole, converge, crash_or_finish, disarm};
use crate::shared::Shared;

/// The note of an Event of that reason in the namespace.
async fn event(shared: &Shared, namespace: &str, reason: &str) -> Result<Option<String>> {
    let api: Api<Event> = Api::namespaced(shared.cluster.client().await?, namespace);
    let events = api.list(&Default::default()).await?.items;
    let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
    Ok(found.map(|event| event.note.unwrap_or_default()))
}

async fn until_event(shared: &Shared, namespace: &str, reason: &str) -> Result<String> {
    let look = || event(shared, namespace, reason);
    wait::until(&format!("an Event {reason}"), SOON, look, Option::is_some).await?.context("just seen")
}

fn says(vm: &VirtualMachine, type_: &str, status: &str, reason: &str) -> bool {
    condition(vm, type_).is_some_and(|found| found.status == status && found.reason == reason)
}

/// Has the kernel of a booted guest panic, soon; what is typed is lost if the terminal is closed before.
async fn panic(vm: &TestVm<'_>) -> Result<std::fs::File> {
    let terminal = vm.host().await?.virsh().run(&["ttyconsole", &vm.domain()]).await?;
    let mut shell = std::fs::File::options().write(true).open(terminal.trim())?;
    // The driver of the panic device is loaded late.
    writeln!(shell, "\nuntil grep -q pvpanic_mmio /proc/modules; do sleep 1; done; echo c >/proc/sysrq-trigger")?;
    Ok(shell)
}

pub async fn a_panic_is_a_crash_with_a_name(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("panics").await?;
    let spec = with(tiny(), json!({ "restartPolicy": "Never" }));
    let vm = TestVm::create(&shared.cluster, &namespace, "panics", spec).await?;
    vm.until_booted().await?;
    let _terminal = panic(&vm).await?;
    vm.until("has panicked", BOOT, |vm| says(vm, types::GUEST_CRASHED, "True", "GuestPanicked")).await?;
    vm.until_condition(types::READY, "False", "GuestPanicked").await?;
    until_event(shared, &namespace, "GuestPanicked").await?;
    wait::until("QEMU is gone", SOON, || async { Ok(vm.qemu()) }, Option::is_none).await?;
    vm.request("restart").await?;
    vm.until_phase(Phase::Running).await?;
    let over = |vm: &VirtualMachine| says(vm, types::GUEST_CRASHED, "False", "NotCrashed");
    vm.until("is not crashed any more", SOON, over).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn a_crash_that_comes_again_backs_off(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-loop").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "crash-loop", blank()).await?;
    for times in 1..=2 {
        vm.until_phase(Phase::Running).await?;
        kill(Pid::from_raw(vm.qemu().context("QEMU runs")?.pid), Signal::SIGKILL)?;
        let message = vm.until_condition(types::READY, "False", "CrashLoopBackOff").await?;
        ensure!(message.contains(&format!("({times} in a row); it is started again at 20")), "{message}");
        let now = vm.get().await?;
        ensure!(says(&now, types::GUEST_CRASHED, "True", "GuestCrashed"), "{:?}", now.status);
    }
    until_event(shared, &namespace, "GuestCrashed").await?;
    until_event(shared, &namespace, "CrashLoopBackOff").await?;
    vm.until_phase(Phase::Running).await?;
    ensure!(vm.starts()? == 3, "started {} times", vm.starts()?);
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn no_room_halts_a_guest_until_there_is_some(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("no-room").await?;
    let pool = SmallPool::mount(shared, 96).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "no-room", tiny()).await?;
    vm.until_booted().await?;
    let (qemu, boot) = (vm.qemu(), vm.http("/boot-id").await?);
    pool.fill_up_under(&vm, 8).await?;
    let message = vm.until_condition(types::DISK_ERROR, "True", "NoSpace").await?;
    ensure!(message.contains("vda") && message.contains("Make room"), "{message}");
    vm.until_condition(types::READY, "False", "NoSpace").await?;
    let note = until_event(shared, &namespace, types::DISK_ERROR).await?;
    ensure!(note == message, "{note}");
    let stays = || async { Ok(says(&vm.get().await?, types::DISK_ERROR, "True", "NoSpace")) };
    wait::always("it stays halted while there is no room", Duration::from_secs(5), stays).await?;
    pool.make_room().await?;
    vm.until("goes on by itself", BOOT, is_well).await?;
    let what = "the guest answers again";
    wait::until(what, BOOT, || vm.http("/boot-id"), |now| *now == boot).await?;
    ensure!(vm.qemu() == qemu && vm.starts()? == 1, "QEMU is the same");
    vm.remove().await?;
    pool.unmount().await?;
    shared.drop_namespace(&namespace).await
}

fn is_well(vm: &VirtualMachine) -> bool {
    in_phase(vm, Phase::Running) && says(vm, types::DISK_ERROR, "False", "NoError")
}

/// The node controller is killed after every side effect from the panic to the end of QEMU: the panic is counted once, is
/// known as one, and its guest is started again once.
pub async fn crash_after_a_panic(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-panic").await?;
    let process = shared.cluster.node_controller(0)?;
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "a panic has more than {MOST} side effects");
        let vm = TestVm::create(&shared.cluster, &namespace, &format!("crash-panic-{n}"), tiny()).await?;
        vm.until_booted().await?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let _terminal = panic(&vm).await?;
        let started_again = || async { Ok(in_phase(&vm.get().await?, Phase::Running) && vm.starts()? > 1) };
        let ended = converge(process, &format!("{n}: it is started again"), BOOT, started_again).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        ensure!(vm.starts()? == 2, "{n}: QEMU was started {} times", vm.starts()?);
        let defined = vm.host().await?.virsh().run(&["dumpxml", "--inactive", &vm.domain()]).await?;
        ensure!(defined.contains(" crashes=\"1\""), "{n}: it is counted once: {defined}");
        check_whole(&vm).await?;
        vm.remove().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    let other = event(shared, &namespace, "GuestCrashed").await?;
    ensure!(other.is_none(), "a panic is no crash without a name: {other:?}");
    until_event(shared, &namespace, "GuestPanicked").await?;
    ensure!(crashes >= 3, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("panic: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}

/// The node controller is killed after every side effect from a full pool to a guest that goes on.
pub async fn crash_while_there_is_no_room(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-room").await?;
    let process = shared.cluster.node_controller(0)?;
    let pool = SmallPool::mount(shared, 96).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "crash-room", tiny()).await?;
    vm.until_booted().await?;
    let (qemu, boot) = (vm.qemu(), vm.http("/boot-id").await?);
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "a full pool has more than {MOST} side effects");
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        pool.fill_up_under(&vm, 4 * n + 4).await?;
        let halted = || async { Ok(says(&vm.get().await?, types::DISK_ERROR, "True", "NoSpace")) };
        let mut ended = crash_or_finish(process, halted).await?;
        if matches!(ended, Ended::Crashed) {
            disarm(process).await?;
        }
        wait::until(&format!("{n}: it is seen to be halted"), SOON, halted, |halted| *halted).await?;
        pool.make_room().await?;
        let well = || async { Ok(is_well(&vm.get().await?)) };
        if matches!(ended, Ended::Finished) {
            ended = crash_or_finish(process, well).await?;
            disarm(process).await?;
        }
        crashes += usize::from(matches!(ended, Ended::Crashed));
        wait::until(&format!("{n}: it goes on"), BOOT, well, |well| *well).await?;
        wait::until(&format!("{n}: the guest answers"), BOOT, || vm.http("/boot-id"), |now| *now == boot).await?;
        ensure!(vm.qemu() == qemu && vm.starts()? == 1, "{n}: QEMU is the same");
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 2, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("no room: {crashes} points of crash");
    vm.remove().await?;
    pool.unmount().await?;
    shared.drop_namespace(&namespace).await
}

/// A small file system over the storage pool of the first host, with its images, in the host's own mount namespace.
pub struct SmallPool<'a> {
    shared: &'a Shared,
    pid: i32,
}

impl<'a> SmallPool<'a> {
    pub async fn mount(shared: &'a Shared, mib: usize) -> Result<Self> {
        let pid = shared.cluster.host(0)?.libvirtd()?.pid().context("libvirtd runs")?;
        let pool = Self { shared, pid };
        let script = format!(
            "mkdir -p /run/libvirt/small && mount -t tmpfs -o size={mib}m,mode=711 small /run/libvirt/small && \
             cp -a /var/lib/libvirt/images/kvmoor-image-* /run/libvirt/small/ && \
             mount --bind /run/libvirt/small /var/lib/libvirt/images"
        );
        pool.enter(&["sh", "-c", &script]).await?;
        pool.refresh().await?;
        Ok(pool)
    }

    /// Leaves no room, and has the guest write so many MiB. Less than before finds the room that it was given then.
    async fn fill_up_under(&self, vm: &TestVm<'_>, mib: usize) -> Result<()> {
        self.fill_up().await;
        // The guest does not answer before there is room.
        vm.note("/cgi-bin/disk", &"x".repeat(mib << 20)).await.unwrap_or_default();
        Ok(())
    }

    /// Leaves no room. It ends with an error when there is none.
    pub async fn fill_up(&self) {
        self.enter(&["dd", "if=/dev/zero", "of=/var/lib/libvirt/images/filler", "bs=64k"]).await.unwrap_or_default();
    }

    pub async fn make_room(&self) -> Result<()> {
        self.enter(&["rm", "/var/lib/libvirt/images/filler"]).await
    }

    /// It is busy while somebody still looks at it.
    pub async fn unmount(&self) -> Result<()> {
        for target in ["/var/lib/libvirt/images", "/run/libvirt/small"] {
            let unmount = || async { self.enter(&["umount", target]).await };
            wait::until("the small pool goes", SOON, unmount, |()| true).await?;
        }
        self.refresh().await
    }

    async fn refresh(&self) -> Result<()> {
        pool::refresh(&self.shared.cluster.host(0)?.virsh()).await
    }

    async fn enter(&self, command: &[&str]) -> Result<()> {
        mounts::enter(self.pid, command).await
    }
}
