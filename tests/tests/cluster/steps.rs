//! What an installation goes through.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_dev::{PodCluster, SYSTEM_NAMESPACE};
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::wait;

use crate::installation::{Installation, LONG, RELEASE, TAGS};
use crate::load::{Done, under_load};
use crate::machines::{Machines, is_running};

pub const CHART: &str = "charts/kvmoor";
/// Until a display over a new server works.
const SOON: Duration = Duration::from_secs(30);

/// Helm's words for a release of the chart at `chart` with the images of `tag`.
async fn apply(on: &Installation, verb: &str, chart: &str, tag: &str) -> Result<String> {
    let values = PodCluster::values(tag);
    let mut words = vec![verb, RELEASE, chart];
    words.extend(values.iter().map(String::as_str));
    if verb == "install" {
        words.push("--create-namespace");
    }
    on.cluster.helm(&words, LONG).await
}

pub async fn install(on: &Installation) -> Result<()> {
    apply(on, "install", CHART, TAGS[0]).await?;
    on.until_images(TAGS[0]).await?;
    on.cluster.check()?;
    let admin = on.admin().await?;
    let ready = |hosts: &serde_json::Value| hosts[0]["ready"] == true;
    wait::until("the host is ready", LONG, || admin.get("/api/hosts"), ready).await?;
    Ok(())
}

pub async fn helm_test(on: &Installation) -> Result<()> {
    on.helm(&["test", RELEASE, "--timeout", "5m", "--logs"]).await?;
    Ok(())
}

pub async fn display(on: &Installation, machines: &Machines) -> Result<()> {
    let admin = on.admin().await?;
    is_running(&admin, machines.id).await?;
    let path = format!("/ws/vnc?id={}&token={}", machines.id, admin.token().context("a token")?);
    let opened = Viewer::open(&on.url().await?, &path, &[]).await?;
    let mut viewer = opened.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    let screen = viewer.start(true).await?;
    ensure!(viewer.update(&screen).await? >= usize::from(screen.width) * usize::from(screen.height), "{screen:?}");
    viewer.close().await
}

/// A changed chart and changed images, under running virtual machines and users who go on.
pub async fn upgrade(on: &Installation, machines: &Machines) -> Result<()> {
    let chart = on.later_chart()?;
    let done = undisturbed(on, machines, TAGS[1], apply(on, "upgrade", &chart.to_string_lossy(), TAGS[1])).await?;
    let list = on.helm(&["list", "-o", "json"]).await?;
    ensure!(list.contains("-later.1"), "{list}");
    ensure!(done.reconnects > 0, "the feed was told to connect again: {done:?}");
    Ok(())
}

pub async fn rollback(on: &Installation, machines: &Machines) -> Result<()> {
    let back = on.helm(&["rollback", RELEASE, "1", "--wait", "--timeout", "9m"]);
    undisturbed(on, machines, TAGS[0], back).await?;
    Ok(())
}

/// Does `change`, which ends with pods of `tag`, and checks that nobody has noticed.
async fn undisturbed(
    on: &Installation,
    machines: &Machines,
    tag: &str,
    change: impl Future<Output = Result<String>>,
) -> Result<Done> {
    let admin = on.admin().await?;
    let change = async {
        change.await?;
        on.until_images(tag).await
    };
    let done = under_load(&admin, change).await?;
    eprintln!("    {done:?}");
    machines.until_running(on).await?;
    wait::until("a display over the new servers", SOON, || display(on, machines), |()| true).await?;
    Ok(done)
}

pub async fn uninstall(on: &Installation, machines: &Machines) -> Result<()> {
    let said = on.helm(&["uninstall", RELEASE, "--wait", "--timeout", "5m"]).await?;
    ensure!(said.contains("kept") && said.contains("virtualmachines.kvmoor.dev"), "it says what it keeps: {said}");
    let pods = || on.kubectl(&["get", "pods", "-n", SYSTEM_NAMESPACE, "-o", "name"]);
    wait::until("no pod is left", LONG, pods, |pods| pods.trim().is_empty()).await?;
    machines.check(on).await?;
    let kept = on.kubectl(&["get", "kvm", "-A", "-o", "name"]).await?;
    ensure!(kept.lines().count() == machines.qemus.len(), "{kept}");
    Ok(())
}

pub async fn install_again(on: &Installation, machines: &Machines) -> Result<()> {
    install(on).await?;
    machines.until_running(on).await?;
    is_running(&on.admin().await?, machines.id).await
}
