//! Hosts that lack what they need: each says so in its conditions, gets no virtual machine, and goes on when it is mended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kvmoor_crds::conditions::{self, reasons, types};
use kvmoor_crds::{Host, Phase};
use kvmoor_dev::libvirt_host::kvm_is_usable;
use kvmoor_tests::vm::{TestVm, blank, homeless};
use kvmoor_tests::wait;

use crate::shared::Shared;

const SOON: Duration = Duration::from_secs(60);
const URI: &str = "KVMOOR_LIBVIRT_URI";
const VIRT_TYPE: &str = "KVMOOR_VIRT_TYPE";

pub async fn without_libvirt_or_kvm(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("lacking").await?;
    let controller = shared.cluster.node_controller(0)?;
    let uri = controller.env(URI).context("the host's libvirt")?;
    restart(shared, URI, Some("qemu+unix:///system?socket=/nowhere/libvirt-sock")).await?;
    let message = until(shared, types::LIBVIRT_CONNECTED, "False", "LibvirtUnavailable").await?;
    ensure!(message.contains("libvirt is not installed on this host, or does not run"), "{message}");
    let homeless = TestVm::create(&shared.cluster, &namespace, "homeless", homeless()).await?;
    homeless.until_unschedulable("1 without a connection to libvirt").await?;
    homeless.remove().await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "waiting", blank()).await?;
    let message = vm.until_condition(types::SCHEDULED, "False", reasons::UNSCHEDULABLE).await?;
    ensure!(message.contains("1 without a connection to libvirt"), "{message}");
    restart(shared, URI, Some(&uri)).await?;
    until(shared, types::LIBVIRT_CONNECTED, "True", "Connected").await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;

    if !kvm_is_usable() {
        restart(shared, VIRT_TYPE, Some("kvm")).await?;
        let message = until(shared, "VirtualizationUsable", "False", "KvmUnusable").await?;
        ensure!(message.contains("set virt-type to auto or qemu, or mend the host"), "{message}");
        let vm = TestVm::create(&shared.cluster, &namespace, "without-kvm", blank()).await?;
        let message = vm.until_condition(types::SYNCHRONIZED, "False", "VirtualizationUnusable").await?;
        ensure!(message.contains("set virt-type to auto or qemu, or mend the host"), "{message}");
        restart(shared, VIRT_TYPE, None).await?;
        until(shared, "VirtualizationUsable", "True", "Software").await?;
        vm.until_phase(Phase::Running).await?;
        vm.remove().await?;
    }
    shared.drop_namespace(&namespace).await
}

/// The host's controller again, with another setting.
async fn restart(shared: &Shared, name: &str, value: Option<&str>) -> Result<()> {
    let controller = shared.cluster.node_controller(0)?;
    controller.stop(Duration::from_secs(10)).await;
    controller.set_env(name, value);
    controller.start()?;
    shared.cluster.wait_ready().await
}

/// Waits for a condition of the host: its message.
async fn until(shared: &Shared, type_: &str, status: &str, reason: &str) -> Result<String> {
    let hosts: Api<Host> = Api::all(shared.cluster.client().await?);
    let name = shared.cluster.node_name(0);
    let look = || async {
        let conditions = hosts.get(&name).await?.status.map(|status| status.conditions).unwrap_or_default();
        Ok(conditions::find(&conditions, type_).cloned())
    };
    let found = |found: &Option<_>| {
        let found: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> = found.as_ref();
        found.is_some_and(|condition| condition.status == status && condition.reason == reason)
    };
    let condition = wait::until(&format!("{type_}={status} {reason}"), SOON, look, found).await?;
    Ok(condition.context("just seen")?.message)
}
