//! Firmware beside the BIOS: the guest says what started it, and what cannot be had is refused before anything is done.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{Host, HostFeature, Phase, SnapshotPhase};
use kvmoor_tests::vm::{SOON, TestVm, blank, tiny, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::shared::Shared;
use crate::snapshots::TestSnapshot;

/// A firmware that is run in software takes most of the time that a guest takes to boot: over a minute and a half on a busy
/// machine.
const BOOT: Duration = Duration::from_secs(300);

async fn features(shared: &Shared) -> Result<Vec<HostFeature>> {
    let api: Api<Host> = Api::all(shared.cluster.client().await?);
    Ok(api.get(&shared.cluster.node_name(0)).await?.status.context("a status")?.features)
}

/// What libvirt keeps for a guest outside of the storage pool.
async fn kept(shared: &Shared) -> Result<Vec<String>> {
    let lib = shared.cluster.host(0)?.pool_dir().context("a private host")?;
    let lib = lib.parent().context("libvirt's directory")?.to_owned();
    let names =
        ["qemu/nvram", "swtpm"].into_iter().flat_map(|dir| std::fs::read_dir(lib.join(dir)).into_iter().flatten());
    Ok(names.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

pub async fn secure_boot_and_a_tpm(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("firmware").await?;
    let has_all = |found: &Vec<HostFeature>| *found == [HostFeature::Uefi, HostFeature::SecureBoot, HostFeature::Tpm];
    wait::until("the host has all of it", SOON, || features(shared), has_all).await?;
    let spec = with(tiny(), json!({ "firmware": "UefiSecureBoot", "tpm": true, "memory": "512Mi" }));
    let vm = TestVm::create(&shared.cluster, &namespace, "secure", spec).await?;
    ensure!(vm.until_booted_within(BOOT).await? == "secure", "the guest has the object's name");
    let found = vm.http("/firmware").await?;
    ensure!(found == "uefi-secure\ntpm", "started by {found}");
    let of_this = |names: &[String]| names.iter().filter(|name| name.contains(vm.uid())).count();
    ensure!(of_this(&kept(shared).await?) == 2, "firmware variables and a TPM: {:?}", kept(shared).await?);

    // A snapshot is refused with a sentence, and the guest is as it was.
    let id = vm.get().await?.status.and_then(|status| status.id).context("an id")?;
    let path = format!("/api/vms/{id}/snapshots");
    let (status, answer) = shared.admin.call(Method::POST, &path, Some(json!({ "name": "x" }))).await?;
    ensure!(status == StatusCode::CONFLICT, "{status} {answer}");
    ensure!(answer["message"].as_str().is_some_and(|text| text.contains("UEFI")), "{answer}");
    vm.until_phase(Phase::Running).await?;
    // So it is for one who uses kubectl.
    let snapshot = TestSnapshot::create(shared, &namespace, "refused", "secure").await?;
    snapshot.until_phase(SnapshotPhase::Failed).await?;
    let conditions = snapshot.get().await?.status.context("a status")?.conditions;
    let said = conditions::find(&conditions, types::READY).context("a condition")?;
    ensure!(said.reason == "FirmwareUnsupported" && said.message.contains("UEFI"), "{said:?}");
    let left = vm.host().await?.virsh().run(&["snapshot-list", &vm.domain(), "--name"]).await?;
    ensure!(left.trim().is_empty() && vm.starts()? == 1, "nothing is half done: {left}");
    let error = vm.patch(json!({ "firmware": "Bios" })).await.err().context("firmware cannot change")?;
    ensure!(format!("{error:#}").contains("firmware cannot change"), "{error:#}");
    let nothing = kept(shared).await?.len() - 2;
    vm.remove().await?;
    ensure!(kept(shared).await?.len() == nothing, "nothing is left: {:?}", kept(shared).await?);
    shared.drop_namespace(&namespace).await
}

pub async fn uefi_without_secure_boot(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("uefi").await?;
    let spec = with(tiny(), json!({ "firmware": "Uefi", "memory": "512Mi" }));
    let vm = TestVm::create(&shared.cluster, &namespace, "plain", spec).await?;
    vm.until_booted_within(BOOT).await?;
    let found = vm.http("/firmware").await?;
    ensure!(found == "uefi", "started by {found}");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn a_tpm_is_part_of_a_snapshot(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("tpm").await?;
    let spec = with(blank(), json!({ "tpm": true }));
    let vm = TestVm::create(&shared.cluster, &namespace, "tpm", spec).await?;
    let id = vm.until_phase(Phase::Running).await?.status.and_then(|status| status.id).context("an id")?;
    let taken = crate::snapshots::snapshot(&shared.admin, id, "with a TPM").await?;
    crate::snapshots::restore(&shared.admin, &taken).await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}
