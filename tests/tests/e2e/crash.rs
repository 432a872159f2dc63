//! SIGKILL after every side effect: whatever was half done must converge, once, to what was asked.
//!
//! The controllers of the test build end themselves after their n-th side effect (a libvirt call that changes
//! something, or a write of a custom resource) when `KVMOOR_CRASH_AFTER=n` is set. Each operation is tried with n = 1, 2,
//! … until it finishes before the n-th, so every point is met. A restart is counted in libvirt's own log.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmoor_crds::{Phase, names};
use kvmoor_dev::process::Managed;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, in_phase, with};
use kvmoor_tests::wait;
use serde_json::json;

use crate::shared::Shared;

/// An operation with more side effects than this does not end.
pub const MOST: usize = 40;
const CRASH_AFTER: &str = "KVMOOR_CRASH_AFTER";

/// What a controller that is to crash did.
pub enum Ended {
    /// It ended itself.
    Crashed,
    /// The operation was over before.
    Finished,
}

/// Starts the process anew, to end itself after its n-th side effect.
pub async fn arm(process: &Managed, n: usize) -> Result<()> {
    process.kill().await;
    process.set_env(CRASH_AFTER, Some(&n.to_string()));
    process.start()?;
    process.set_env(CRASH_AFTER, None);
    Ok(())
}

/// Starts the process as it is usually started, whether it has crashed or still waits for its crash.
pub async fn disarm(process: &Managed) -> Result<()> {
    process.kill().await;
    process.start()
}

/// Waits until the process has crashed or `finished` holds.
pub async fn crash_or_finish<F>(process: &Managed, finished: impl Fn() -> F) -> Result<Ended>
where
    F: Future<Output = Result<bool>>,
{
    let deadline = tokio::time::Instant::now() + BOOT;
    while tokio::time::Instant::now() < deadline {
        if process.pid().is_none() {
            return Ok(Ended::Crashed);
        }
        if finished().await.unwrap_or(false) {
            // What comes after the last thing that can be seen from outside may still crash.
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Ok(if process.pid().is_none() { Ended::Crashed } else { Ended::Finished });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("neither crashed nor finished");
}

/// Waits until what was asked of an armed process is over: by itself, or after its crash by the one that is started then.
pub async fn converge<F>(process: &Managed, what: &str, deadline: Duration, is_over: impl Fn() -> F) -> Result<Ended>
where
    F: Future<Output = Result<bool>>,
{
    let ended = crash_or_finish(process, &is_over).await?;
    disarm(process).await?;
    wait::until(what, deadline, is_over, |over| *over).await?;
    Ok(ended)
}

fn expected_volumes(vm: &TestVm<'_>) -> BTreeSet<String> {
    BTreeSet::from([names::root_volume(vm.uid()), names::seed_volume(vm.uid())])
}

pub async fn check_whole(vm: &TestVm<'_>) -> Result<()> {
    ensure!(vm.domains().await? == [vm.domain()], "exactly one domain");
    let volumes = vm.volumes().await?;
    ensure!(volumes == expected_volumes(vm), "exactly its volumes, not {volumes:?}");
    Ok(())
}

/// One operation on a virtual machine, tried with a crash after each side effect of the node controller.
struct Operation<'a> {
    name: &'a str,
    /// The spec that the virtual machine has before.
    spec: serde_json::Value,
    /// Its phase before.
    before: Phase,
    /// What is asked.
    patch: serde_json::Value,
    /// Its phase after.
    after: Phase,
    /// How often QEMU has been started in all.
    starts: usize,
}

impl Operation<'_> {
    async fn run(self, shared: &Shared) -> Result<()> {
        let namespace = shared.namespace(&format!("crash-{}", self.name)).await?;
        let process = shared.cluster.node_controller(0)?;
        let mut crashes = 0;
        for n in 1.. {
            ensure!(n < MOST, "{} has more than {MOST} side effects", self.name);
            let name = format!("{}-{n}", self.name);
            let vm = TestVm::create(&shared.cluster, &namespace, &name, self.spec.clone()).await?;
            vm.until_phase(self.before).await?;
            arm(process, n).await?;
            shared.cluster.wait_ready().await?;
            let generation = vm.patch(self.patch.clone()).await?.metadata.generation;
            let done = || async {
                let now = vm.get().await?;
                Ok(now.metadata.generation == generation && in_phase(&now, self.after) && requests_seen(&now))
            };
            let ended = converge(process, &format!("{name}: converges"), SOON, done).await?;
            crashes += usize::from(matches!(ended, Ended::Crashed));
            check_whole(&vm).await?;
            // What would be done a second time would be done by now.
            tokio::time::sleep(Duration::from_millis(500)).await;
            ensure!(vm.starts()? == self.starts, "{name}: QEMU was started {} times", vm.starts()?);
            ensure!(done().await?, "{name}: does not stay as it was asked");
            vm.remove().await?;
            if matches!(ended, Ended::Finished) {
                break;
            }
        }
        ensure!(
            crashes >= 2,
            "{}: only {crashes} side effects were met: is the fault injection compiled in?",
            self.name
        );
        println!("{}: {crashes} points of crash", self.name);
        shared.drop_namespace(&namespace).await
    }
}

fn requests_seen(vm: &kvmoor_crds::VirtualMachine) -> bool {
    vm.status.as_ref().and_then(|status| status.requests).unwrap_or_default() == vm.spec.requests
}

pub async fn creating(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-create").await?;
    let process = shared.cluster.node_controller(0)?;
    let host = shared.cluster.host(0)?;
    let network = names::isolated_network(&namespace);
    let networks = json!({ "networks": [{ "name": "default" }, { "name": "lan", "type": "Isolated" }] });
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "creating has more than {MOST} side effects");
        let name = format!("create-{n}");
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let vm = TestVm::create(&shared.cluster, &namespace, &name, with(blank(), networks.clone())).await?;
        let done = || async { Ok(in_phase(&vm.get().await?, Phase::Running)) };
        let ended = converge(process, &format!("{name}: converges"), SOON, done).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        check_whole(&vm).await?;
        ensure!(vm.starts()? == 1, "{name}: QEMU was started {} times", vm.starts()?);
        let running = host.virsh().run(&["net-list", "--name"]).await?;
        ensure!(running.lines().any(|line| line.trim() == network), "{name}: its segment does not run: {running}");
        vm.remove().await?;
        // The next one is to make it again.
        host.virsh().run(&["net-destroy", &network]).await?;
        host.virsh().run(&["net-undefine", &network]).await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 4, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("create: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}

pub async fn starting(shared: &Shared) -> Result<()> {
    let spec = with(blank(), json!({ "powerState": "Stopped" }));
    let patch = json!({ "powerState": "Running" });
    Operation { name: "start", spec, before: Phase::Stopped, patch, after: Phase::Running, starts: 1 }.run(shared).await
}

pub async fn stopping(shared: &Shared) -> Result<()> {
    let patch = json!({ "powerState": "Stopped" });
    let operation =
        Operation { name: "stop", spec: blank(), before: Phase::Running, patch, after: Phase::Stopped, starts: 1 };
    operation.run(shared).await
}

pub async fn restarting(shared: &Shared) -> Result<()> {
    let patch = json!({ "requests": { "restart": 1 } });
    let operation =
        Operation { name: "restart", spec: blank(), before: Phase::Running, patch, after: Phase::Running, starts: 2 };
    operation.run(shared).await
}

pub async fn pausing(shared: &Shared) -> Result<()> {
    let patch = json!({ "powerState": "Paused" });
    let operation =
        Operation { name: "pause", spec: blank(), before: Phase::Running, patch, after: Phase::Paused, starts: 1 };
    operation.run(shared).await
}

pub async fn resetting(shared: &Shared) -> Result<()> {
    let patch = json!({ "requests": { "reset": 1 } });
    let operation =
        Operation { name: "reset", spec: blank(), before: Phase::Running, patch, after: Phase::Running, starts: 1 };
    operation.run(shared).await
}

pub async fn renewing_the_seed(shared: &Shared) -> Result<()> {
    let keys = json!({ "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO3"] });
    let patch = json!({ "requests": { "restart": 1, "reprovision": 1 }, "cloudInit": keys });
    let operation =
        Operation { name: "seed", spec: blank(), before: Phase::Running, patch, after: Phase::Running, starts: 2 };
    operation.run(shared).await
}

pub async fn deleting(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-delete").await?;
    let process = shared.cluster.node_controller(0)?;
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "deleting has more than {MOST} side effects");
        let name = format!("delete-{n}");
        let bystander = TestVm::create(&shared.cluster, &namespace, &format!("bystander-{n}"), blank()).await?;
        let vm = TestVm::create(&shared.cluster, &namespace, &name, blank()).await?;
        vm.until_phase(Phase::Running).await?;
        bystander.until_phase(Phase::Running).await?;
        let other = bystander.qemu().context("it runs")?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        vm.delete().await?;
        let ended = crash_or_finish(process, || vm.is_gone()).await?;
        if matches!(ended, Ended::Crashed) {
            crashes += 1;
        }
        disarm(process).await?;
        vm.until_gone().await?;
        ensure!(bystander.qemu() == Some(other), "{name}: another guest was touched");
        check_whole(&bystander).await?;
        bystander.remove().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 3, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("delete: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}

/// The cluster controller is killed between any two of its writes while a virtual machine is created and deleted.
pub async fn cluster_controller(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-cluster").await?;
    let process = shared.cluster.cluster_controller()?;
    let mut crashes = 0;
    let mut ids = BTreeSet::new();
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} writes");
        let name = format!("cluster-{n}");
        arm(process, n).await?;
        let vm = TestVm::create(&shared.cluster, &namespace, &name, blank()).await?;
        let running = || async { Ok(in_phase(&vm.get().await?, Phase::Running)) };
        let mut ended = crash_or_finish(process, running).await?;
        if matches!(ended, Ended::Crashed) {
            crashes += 1;
            process.start()?;
        }
        let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
        ensure!(ids.insert(id), "{name}: id {id} was given twice");
        ensure!(vm.starts()? == 1, "{name}: QEMU was started {} times", vm.starts()?);
        check_whole(&vm).await?;
        vm.delete().await?;
        if matches!(ended, Ended::Finished) {
            ended = crash_or_finish(process, || vm.is_gone()).await?;
            if matches!(ended, Ended::Crashed) {
                crashes += 1;
            }
            disarm(process).await?;
        }
        vm.until_gone().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 3, "only {crashes} writes were met: is the fault injection compiled in?");
    println!("cluster controller: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}
