//! What twenty virtual machines that nobody touches cost: writes through the Kubernetes API, and memory.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use kvmoor_crds::Phase;
use kvmoor_dev::{Cluster, audit};
use kvmoor_tests::vm::{TestVm, blank};

use crate::figures::Figures;
use crate::{NAMESPACE, SAMPLES, processes};

const IDLE: Duration = Duration::from_secs(60);
/// What follows a start, such as coalesced figures of host and quota, is over by then.
const SETTLE: Duration = Duration::from_secs(20);

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    processes::measure(cluster, "no_vms", figures)?;
    let mut vms = Vec::new();
    for n in 0..SAMPLES {
        vms.push(TestVm::create(cluster, NAMESPACE, &format!("idle-{n}"), blank()).await?);
    }
    for vm in &vms {
        vm.until_phase(Phase::Running).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let from = Timestamp::now();
    tokio::time::sleep(IDLE).await;
    let entries = audit::read(&cluster.control_plane().audit_log())?;
    let ours = |entry: &&audit::Entry| {
        entry.request_received_timestamp >= from && entry.user.username.contains(":kvmoor-system:")
    };
    let (leases, others): (Vec<_>, Vec<_>) =
        entries.iter().filter(ours).partition(|entry| entry.object_ref.resource == "leases");
    for entry in &others {
        let (writer, object) = (&entry.user.username, &entry.object_ref);
        println!("# written while idle: {} {}/{} by {writer}", entry.verb, object.resource, object.name);
    }
    figures.add("idle_20_vms_60_s_writes_but_leases", others.len() as f64, "writes");
    figures.add("idle_20_vms_60_s_lease_writes", leases.len() as f64, "writes");
    processes::measure(cluster, "20_vms", figures)?;
    for vm in vms {
        vm.remove().await?;
    }
    Ok(())
}
