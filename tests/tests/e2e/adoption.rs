//! An upgrade under a running guest: a domain that an older version has made is taken over as it is, and gets what is new
//! at its next start.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_crds::conditions::{self, types};
use kvmoor_tests::vm::{SOON, TestVm, blank};
use kvmoor_tests::wait;

use crate::shared::Shared;

/// A device that the older version did not know.
const CHANNEL: &str = "org.qemu.guest_agent.0";

/// The domain as a version would have made it that had no such channel, and another fingerprint of what it made.
fn older(xml: &str) -> Result<String> {
    let (before, rest) = xml.split_once("<channel type='unix'>").context("a channel")?;
    let (channel, after) = rest.split_once("</channel>").context("its end")?;
    ensure!(channel.contains(CHANNEL), "{channel}");
    let xml = format!("{before}{after}");
    let (before, rest) = xml.split_once(" config=\"").context("a fingerprint")?;
    let (_, after) = rest.split_once('"').context("its end")?;
    Ok(format!("{before} config=\"01de700000000000000000000000001d\"{after}"))
}

pub async fn a_guest_of_an_older_version_runs_on(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("adoption").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "older", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let virsh = vm.host().await?.virsh();
    let domain = vm.domain();
    let process = shared.cluster.node_controller(0)?;
    process.stop(SOON).await;
    let file = std::env::temp_dir().join(format!("{domain}.xml"));
    std::fs::write(&file, older(&virsh.run(&["dumpxml", "--inactive", &domain]).await?)?)?;
    virsh.run(&["destroy", &domain]).await?;
    virsh.run(&["define", file.to_str().context("a path in UTF-8")?]).await?;
    std::fs::remove_file(&file)?;
    virsh.run(&["start", &domain]).await?;
    let (qemu, starts) = (vm.qemu(), vm.starts()?);
    process.start()?;
    shared.cluster.wait_ready().await?;

    let defined = async || virsh.run(&["dumpxml", "--inactive", &domain]).await;
    wait::until("it is defined as this version does", SOON, defined, |xml| xml.contains(CHANNEL)).await?;
    let settled = vm.until_phase(Phase::Running).await?;
    let as_it_is = || async {
        let now = vm.get().await?;
        let conditions = now.status.clone().unwrap_or_default().conditions;
        let is = |type_, status: &str| {
            conditions::find(&conditions, type_).is_some_and(|condition| condition.status == status)
        };
        let is_well =
            is(types::READY, "True") && is(types::SYNCHRONIZED, "True") && is(types::RESTART_REQUIRED, "False");
        Ok(is_well && now.metadata.resource_version == settled.metadata.resource_version && vm.qemu() == qemu)
    };
    wait::always("nothing is asked of it or written of it", Duration::from_secs(3), as_it_is).await?;
    ensure!(vm.starts()? == starts && qemu.is_some(), "QEMU was started again");
    ensure!(!virsh.run(&["dumpxml", &domain]).await?.contains(CHANNEL), "it runs as it was started");

    vm.request("restart").await?;
    vm.until("is restarted", SOON, |vm| {
        vm.status.as_ref().and_then(|status| status.requests).is_some_and(|done| done.restart == 1)
    })
    .await?;
    vm.until_phase(Phase::Running).await?;
    ensure!(virsh.run(&["dumpxml", &domain]).await?.contains(CHANNEL), "the next start brings it");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}
