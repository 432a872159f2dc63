//! How fast a guest's display comes through the API server and its host, beside a viewer that reads the descriptor which
//! libvirt hands over: bytes of whole frames, raw, one asked for after the other.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvmoor_crds::Phase;
use kvmoor_dev::Cluster;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::vm::{TestVm, blank};
use tokio::net::UnixStream;
use virt::connect::Connect;
use virt_sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH;

use crate::NAMESPACE;
use crate::figures::Figures;

/// The two take turns, so that both meet the same moods of the machine.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

pub async fn measure(cluster: &Cluster, admin: &Rest, figures: &mut Figures) -> Result<()> {
    let vm = TestVm::create(cluster, NAMESPACE, "bench-vnc", blank()).await?;
    let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
    let path = format!("/ws/vnc?id={id}&token={}", admin.token().context("a session")?);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(throughput(Viewer::of_display(display(cluster, &vm)?)).await?);
        let opened = Viewer::open(&cluster.api_url(), &path, &[]).await?;
        through.push(throughput(opened.map_err(|refused| anyhow::anyhow!("{refused:?}"))?).await?);
    }
    vm.remove().await?;
    let (direct, through) = (median(direct), median(through));
    figures.add("vnc_direct_throughput", direct / 1e6, "MB/s");
    figures.add("vnc_throughput", through / 1e6, "MB/s");
    figures.add("vnc_throughput_ratio", through / direct, "x");
    Ok(())
}

/// The display of a virtual machine, from libvirt itself.
fn display(cluster: &Cluster, vm: &TestVm<'_>) -> Result<UnixStream> {
    let connect = Connect::open(Some(cluster.host(0)?.uri()))?;
    let domain = connect.lookup_domain_by_uuid_string(vm.uid())?;
    let descriptor = domain.open_graphics_fd(0, VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)?;
    // SAFETY: libvirt has just opened it for us and keeps nothing of it.
    let display = net::UnixStream::from(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(descriptor)?) });
    display.set_nonblocking(true)?;
    Ok(UnixStream::from_std(display)?)
}

/// Bytes of frames in a second.
async fn throughput(mut viewer: Viewer) -> Result<f64> {
    let screen = viewer.start(true).await?;
    viewer.update(&screen).await?;
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < ROUND {
        bytes += viewer.update(&screen).await?;
    }
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
