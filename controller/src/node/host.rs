//! The Host object: what this host has and runs. Written only when it differs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Client, Resource};
use kvmoor_crds::conditions::{self, Finding, types};
use kvmoor_crds::{
    Host, HostImage, HostResources, HostStatus, HostVersions, Image, ImageFormat, VirtType, names, quantity,
};
use serde_json::json;
use tokio::sync::Notify;

use super::agent::Endpoint;
use super::args::Args;
use super::context::Root;
use super::hypervisor::libvirt::{Connection, Libvirt};
use super::hypervisor::{HostFacts, HvError, Hypervisor, Listed};
use super::images::{self, Importer};

/// Condition of a Host: guests can run on it as it is set up.
pub const VIRTUALIZATION: &str = "VirtualizationUsable";
/// How often it is looked at if nothing happens: images come and go in the pool.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What is allocated is told when it has been the same for so long, so that many new guests make one write.
const SETTLE: Duration = Duration::from_secs(5);
/// How far imports are is not told more often.
const IMPORT_EVERY: Duration = Duration::from_secs(5);
/// How long a call of the Kubernetes API may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps the Host up to date until it is dropped.
pub struct Reporter {
    /// The Kubernetes API.
    pub client: Client,
    /// The command line.
    pub args: Args,
    /// The hypervisor.
    pub hypervisor: Arc<Libvirt>,
    /// Where this process serves.
    pub endpoint: Endpoint,
    /// The virtual machines bound to this host.
    pub machines: Store<Root>,
    /// Told when one of them came, went or changed.
    pub machines_changed: Arc<Notify>,
    /// All Images.
    pub images: Store<DeserializeGuard<Image>>,
    /// Imports of images.
    pub importer: Importer,
}

impl Reporter {
    /// Runs.
    pub async fn run(self) {
        let mut connection: Connection = self.hypervisor.connection();
        let mut told = None;
        loop {
            match tokio::time::timeout(DEADLINE * 3, self.report()).await {
                Ok(Ok(allocated)) => told = Some(allocated),
                Ok(Err(kube::Error::Api(status))) => {
                    tracing::warn!(host.name = self.args.node_name, message = status.message, "cannot write the host");
                }
                Ok(Err(error)) => tracing::warn!(host.name = self.args.node_name, %error, "cannot write the host"),
                Err(_) => tracing::warn!(host.name = self.args.node_name, "cannot write the host: no answer"),
            }
            tokio::select! {
                () = connection.changed() => {}
                () = self.settled(told.as_ref()) => {}
                () = now_and_then(self.importer.changed()) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Ends when what is allocated is another than was told, and has been the same for a while.
    async fn settled(&self, told: Option<&HostResources>) {
        loop {
            self.machines_changed.notified().await;
            let mut allocated = self.allocated();
            while told != Some(&allocated) {
                tokio::time::sleep(SETTLE).await;
                let before = std::mem::replace(&mut allocated, self.allocated());
                if before == allocated {
                    return;
                }
            }
        }
    }

    /// Writes what differs. Answers what is allocated.
    async fn report(&self) -> Result<HostResources, kube::Error> {
        let api: Api<Host> = Api::all(self.client.clone());
        let name = &self.args.node_name;
        let previous = match api.get_opt(name).await? {
            Some(host) => host.status.unwrap_or_default(),
            None => {
                let host = json!({
                    "apiVersion": Host::api_version(&()), "kind": Host::kind(&()), "metadata": { "name": name },
                    "spec": {},
                });
                api.patch(name, &PatchParams::apply(names::NODE_MANAGER), &Patch::Apply(&host)).await?;
                HostStatus::default()
            }
        };
        let images = self.present_images().await;
        let allocated = self.allocated();
        let facts = self.hypervisor.host().await;
        let mut next = status(&self.args, facts, images, allocated.clone(), &previous, Timestamp::now());
        next.addresses = vec![self.endpoint.address.clone()];
        next.certificate = Some(self.endpoint.certificate.clone());
        next.image_imports = images::report::imports(&images::sources(&self.images), &self.importer.all());
        if same(&next, &previous) {
            return Ok(allocated);
        }
        let patch = json!({
            "apiVersion": Host::api_version(&()), "kind": Host::kind(&()), "metadata": { "name": name },
            "status": next,
        });
        let params = PatchParams::apply(names::NODE_MANAGER).force();
        api.patch_status(name, &params, &Patch::Apply(&patch)).await?;
        Ok(allocated)
    }

    /// The images that were put into the storage pool, and those that were imported.
    async fn present_images(&self) -> Result<Vec<HostImage>, HvError> {
        let built_in = self.hypervisor.volumes("kvmoor-image-").await?;
        let inventory = self.hypervisor.inventory(false).await?;
        let mut found: Vec<_> = built_in.into_iter().filter_map(image).collect();
        let sources = images::sources(&self.images);
        found.retain(|image| !sources.iter().any(|(name, ..)| *name == image.name));
        found.extend(images::report::present(&sources, &inventory));
        Ok(found)
    }

    /// What the virtual machines bound to this host were admitted with.
    fn allocated(&self) -> HostResources {
        let mut sum = (0_i64, 0_u64);
        for root in self.machines.state() {
            let admitted =
                root.0.as_ref().ok().and_then(|vm| vm.status.as_ref()).and_then(|status| status.admitted.as_ref());
            if let Some(admitted) = admitted {
                sum.0 = sum.0.saturating_add(i64::from(admitted.cpu));
                sum.1 = sum.1.saturating_add(quantity::bytes(&admitted.memory).unwrap_or_default());
            }
        }
        HostResources { cpu: sum.0, memory: quantity::from_bytes(sum.1) }
    }
}

/// Ends when something has happened, not more often than is worth a write.
async fn now_and_then(changed: &Notify) {
    tokio::time::sleep(IMPORT_EVERY).await;
    changed.notified().await;
}

/// The status to be. While libvirt does not answer, what is known of the host stays as it was.
fn status(
    args: &Args,
    facts: Result<HostFacts, HvError>,
    images: Result<Vec<HostImage>, HvError>,
    allocated: HostResources,
    previous: &HostStatus,
    now: Timestamp,
) -> HostStatus {
    let mut status = HostStatus { allocated: Some(allocated), ..previous.clone() };
    let mut findings = Vec::new();
    match facts {
        Ok(facts) => {
            let memory = facts.memory.saturating_sub(args.reserved_memory);
            status.capacity = Some(HostResources {
                cpu: i64::from(facts.cpus) * i64::from(args.cpu_overcommit),
                // Whole MiB, as guests get it.
                memory: quantity::from_mib(memory / quantity::MIB),
            });
            status.architecture = Some(facts.architecture.clone());
            status.virt_type = facts.virt.clone().ok();
            status.features = facts.guests.features.clone();
            status.versions = Some(HostVersions {
                libvirt: facts.libvirt_version.clone(),
                hypervisor: facts.hypervisor_version.clone(),
                kernel: kernel(),
                controller: env!("CARGO_PKG_VERSION").to_owned(),
            });
            findings.push(Finding::new(types::LIBVIRT_CONNECTED, true, "Connected", ""));
            findings.push(match facts.virt {
                Ok(VirtType::Kvm) => Finding::new(VIRTUALIZATION, true, "Kvm", "Guests run by KVM."),
                Ok(VirtType::Qemu) => Finding::new(VIRTUALIZATION, true, "Software", "Guests run in software."),
                Err(why) => Finding::new(VIRTUALIZATION, false, "KvmUnusable", why),
            });
        }
        Err(error) => {
            findings.push(Finding::new(
                types::LIBVIRT_CONNECTED,
                false,
                "LibvirtUnavailable",
                unavailable(error.message),
            ));
        }
    }
    if let Ok(images) = images {
        status.images = images;
        status.images.sort_by(|left, right| left.name.cmp(&right.name));
        status.images.dedup_by(|left, right| left.name == right.name);
    }
    for finding in findings {
        let condition = finding.into_condition(&previous.conditions, None, now);
        status.conditions.retain(|old| old.type_ != condition.type_);
        status.conditions.push(condition);
    }
    status
}

/// The message for who set up the host.
fn unavailable(message: String) -> String {
    if message.contains("Failed to connect socket") {
        return format!("{message}; libvirt is not installed on this host, or does not run");
    }
    message
}

fn image(volume: Listed) -> Option<HostImage> {
    let name = volume.name.strip_prefix("kvmoor-image-")?;
    let name = [ImageFormat::Qcow2, ImageFormat::Raw]
        .into_iter()
        .find_map(|format| name.strip_suffix(format.as_str())?.strip_suffix('.'))?;
    Some(HostImage { name: name.to_owned(), virtual_size: i64::try_from(volume.virtual_size).unwrap_or(i64::MAX) })
}

fn same(left: &HostStatus, right: &HostStatus) -> bool {
    let without_conditions = |status: &HostStatus| HostStatus { conditions: Vec::new(), ..status.clone() };
    without_conditions(left) == without_conditions(right)
        && left.conditions.len() == right.conditions.len()
        && left.conditions.iter().all(|condition| {
            conditions::find(&right.conditions, &condition.type_)
                .is_some_and(|other| conditions::same(condition, other))
        })
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_libvirt_says_so() {
        let socket = "Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory";
        assert!(unavailable(socket.to_owned()).ends_with("libvirt is not installed on this host, or does not run"));
        assert_eq!(unavailable("the connection was lost".to_owned()), "the connection was lost");
    }

    #[test]
    fn images_are_named_by_their_volumes() {
        let listed = |name: &str| Listed { name: name.to_owned(), virtual_size: 7 };
        let name = |volume: &str| image(listed(volume)).map(|image| image.name);
        assert_eq!(name("kvmoor-image-tiny.qcow2").as_deref(), Some("tiny"));
        assert_eq!(name("kvmoor-image-debian-12.1.raw").as_deref(), Some("debian-12.1"));
        assert_eq!(name("kvmoor-image-x.iso"), None);
    }
}
