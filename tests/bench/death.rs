//! How soon a guest's death stands in status: from SIGKILL to QEMU, and from libvirt's event, until a watch sees the
//! change.
//!
//! The two differ by libvirt's own time: when a monitor closes, libvirt signals the process and, unless it is gone in that
//! instant, looks again 200 ms later (`virProcessKillPainfully`) and tells nobody before.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kvmoor_crds::{Phase, VirtualMachine};
use kvmoor_dev::Cluster;
use kvmoor_tests::vm::{TestVm, blank, in_phase, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::figures::Figures;
use crate::{NAMESPACE, SAMPLES};

const DEADLINE: Duration = Duration::from_secs(30);

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let api: Api<VirtualMachine> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let spec = with(blank(), json!({ "restartPolicy": "Never" }));
    let vm = TestVm::create(cluster, NAMESPACE, "dies", spec).await?;
    let only = watcher::Config::default().fields("metadata.name=dies");
    let mut changes = watcher(api, only).applied_objects().boxed();
    vm.until_phase(Phase::Running).await?;
    let mut events = Events::open(cluster)?;
    let (mut from_kill, mut from_event) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        vm.until_phase(Phase::Running).await?;
        let qemu = vm.qemu().context("QEMU runs")?;
        let start = Instant::now();
        kill(Pid::from_raw(qemu.pid), Signal::SIGKILL)?;
        loop {
            let change =
                tokio::time::timeout(DEADLINE, changes.try_next()).await.context("the death is not seen")??;
            let Some(change) = change else { bail!("the watch ended") };
            let phase = change.status.as_ref().and_then(|status| status.phase);
            // Changes from before the kill may still be in the stream.
            if !matches!(phase, Some(Phase::Running | Phase::Starting)) && vm.qemu().is_none() {
                break;
            }
        }
        let seen = Timestamp::now();
        from_kill.push(start.elapsed());
        from_event.push(seen.duration_since(events.stopped().await?).try_into().unwrap_or_default());
        vm.request("restart").await?;
        vm.until("is Running again", DEADLINE, |vm| in_phase(vm, Phase::Running)).await?;
        // Whatever the restart brought is read before the next kill.
        while tokio::time::timeout(Duration::from_millis(300), changes.try_next()).await.is_ok() {}
    }
    for (name, times) in [("death_kill_to_status", &mut from_kill), ("death_event_to_status", &mut from_event)] {
        figures.times(name, times);
        figures.add(&format!("{name}_max"), times.last().map_or(0.0, |time| time.as_secs_f64() * 1000.0), "ms");
    }
    vm.remove().await
}

/// What `virsh event` prints: every event of a domain's life, with libvirt's time.
struct Events {
    lines: Lines<BufReader<ChildStdout>>,
    /// Ends when dropped.
    _virsh: Child,
}

impl Events {
    fn open(cluster: &Cluster) -> Result<Self> {
        let mut virsh = Command::new("virsh");
        virsh.args(["-c", cluster.host(0)?.uri(), "event", "--event", "lifecycle", "--loop", "--timestamp"]);
        let mut virsh =
            virsh.env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = virsh.stdout.take().context("the output of virsh")?;
        Ok(Self { lines: BufReader::new(output).lines(), _virsh: virsh })
    }

    /// When the next domain stopped.
    async fn stopped(&mut self) -> Result<Timestamp> {
        loop {
            let line =
                tokio::time::timeout(DEADLINE, self.lines.next_line()).await.context("no event of libvirt")??;
            let line = line.context("virsh event ended")?;
            if line.contains("Stopped") {
                let (time, _) = line.split_once(": event").context("an event without time")?;
                return Ok(time.parse()?);
            }
        }
    }
}
