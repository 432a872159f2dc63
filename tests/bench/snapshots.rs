//! Taking and restoring a snapshot as a client of the REST API sees it, beside `virsh snapshot-create-as` and
//! `virsh snapshot-revert` of the very same domain.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmoor_crds::names;
use kvmoor_dev::Cluster;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::TestVm;
use reqwest::Method;
use serde_json::json;

use crate::figures::Figures;

/// Fewer than of other things: each has a start of QEMU in it.
const SAMPLES: usize = 10;

pub async fn measure(cluster: &Cluster, admin: &Rest, figures: &mut Figures) -> Result<()> {
    let made =
        admin.post("/api/vms", json!({ "name": "bench-snapshots", "cpu": 1, "memory": 96, "os_type": "tiny" })).await?;
    let text = |field: &str| made[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {made}"));
    let vm = TestVm::existing(cluster, &text("namespace")?, &text("resource_name")?).await?;
    vm.until_booted().await?;
    let virsh = cluster.host(0)?.virsh();
    let domain = names::domain(vm.uid());

    let (mut raw_take, mut raw_revert, mut take, mut restore) = (vec![], vec![], vec![], vec![]);
    for round in 0..SAMPLES {
        raw_take
            .push(timed(virsh.run(&["snapshot-create-as", &domain, "raw", "--diskspec", "vdb,snapshot=no"])).await?);
        raw_revert.push(timed(virsh.run(&["snapshot-revert", &domain, "raw", "--running"])).await?);
        virsh.run(&["snapshot-delete", &domain, "raw"]).await?;

        let name = format!("bench {round}");
        let start = Instant::now();
        let taken = admin.post(&format!("/api/vms/{}/snapshots", made["id"]), json!({ "name": name })).await?;
        take.push(start.elapsed());
        ensure!(taken["phase"] == "Ready", "{taken}");
        restore.push(timed(admin.post(&format!("/api/snapshots/{}/restore", taken["id"]), json!({}))).await?);
        admin.ok(Method::DELETE, &format!("/api/snapshots/{}", taken["id"]), None).await?;
    }
    vm.remove().await?;
    for (what, raw, ours) in [("take", &mut raw_take, &mut take), ("restore", &mut raw_revert, &mut restore)] {
        let (raw_median, raw_p95) = figures.times(&format!("snapshot_raw_{what}"), raw);
        let (median, p95) = figures.times(&format!("snapshot_{what}"), ours);
        figures.add(&format!("snapshot_{what}_ratio_median"), median / raw_median, "x");
        figures.add(&format!("snapshot_{what}_ratio_p95"), p95 / raw_p95, "x");
    }
    Ok(())
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}
