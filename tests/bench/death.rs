//! How soon a guest's death stands in status: from SIGKILL to QEMU until a watch sees the change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kvmoor_crds::{Phase, VirtualMachine};
use kvmoor_dev::Cluster;
use kvmoor_tests::vm::{TestVm, blank, in_phase, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::figures::Figures;
use crate::{NAMESPACE, SAMPLES};

const DEADLINE: Duration = Duration::from_secs(30);

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let api: Api<VirtualMachine> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let spec = with(blank(), json!({ "restartPolicy": "Never" }));
    let vm = TestVm::create(cluster, NAMESPACE, "dies", spec).await?;
    let only = watcher::Config::default().fields("metadata.name=dies");
    let mut changes = watcher(api, only).applied_objects().boxed();
    let mut times = Vec::new();
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
            let running_since = change.metadata.resource_version.is_some() && phase == Some(Phase::Running);
            if !running_since && phase != Some(Phase::Starting) && vm.qemu().is_none() {
                times.push(start.elapsed());
                break;
            }
        }
        vm.request("restart").await?;
        vm.until("is Running again", DEADLINE, |vm| in_phase(vm, Phase::Running)).await?;
        // Whatever the restart brought is read before the next kill.
        while tokio::time::timeout(Duration::from_millis(300), changes.try_next()).await.is_ok() {}
    }
    figures.times("death_to_status", &mut times);
    figures.add("death_to_status_max", times.last().map_or(0.0, |time| time.as_secs_f64() * 1000.0), "ms");
    vm.remove().await
}
