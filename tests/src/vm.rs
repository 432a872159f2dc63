//! A virtual machine of a test: created through the Kubernetes API, looked at from all sides.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kvmoor_crds::{Phase, VirtualMachine, conditions, names};
use kvmoor_dev::Cluster;
use kvmoor_dev::libvirt_host::LibvirtHost;
use kvmoor_dev::process::ProcessId;
use serde_json::{Value, json};

use crate::{pool, wait};

/// Longer than anything without a booting guest should take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);
/// A guest under TCG on a loaded machine has booted by then.
pub const BOOT: Duration = Duration::from_secs(120);

/// A virtual machine that exists in the Kubernetes API.
pub struct TestVm<'a> {
    cluster: &'a Cluster,
    api: Api<VirtualMachine>,
    name: String,
    uid: String,
}

/// The spec of a small virtual machine without an operating system: it starts in half a second and never shuts down by
/// itself.
pub fn blank() -> Value {
    json!({ "cpu": 1, "memory": "32Mi", "disk": { "size": "1Gi" }, "terminationGracePeriodSeconds": 1 })
}

/// The spec of a small virtual machine with the image `tiny`.
pub fn tiny() -> Value {
    json!({ "cpu": 1, "memory": "96Mi", "osType": "tiny", "disk": { "size": "1Gi" } })
}

/// The spec of a virtual machine that no host may take.
pub fn homeless() -> Value {
    with(blank(), json!({ "nodeSelector": { "rack": "nowhere" } }))
}

/// `spec` with the fields of `change`.
pub fn with(mut spec: Value, change: Value) -> Value {
    if let (Some(spec), Value::Object(change)) = (spec.as_object_mut(), change) {
        spec.extend(change);
    }
    spec
}

impl<'a> TestVm<'a> {
    /// Creates it, as `kubectl create` would.
    pub async fn create(cluster: &'a Cluster, namespace: &str, name: &str, spec: Value) -> Result<Self> {
        let api: Api<VirtualMachine> = Api::namespaced(cluster.client().await?, namespace);
        let value = json!({
            "apiVersion": "kvmoor.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": name },
            "spec": spec,
        });
        let vm = api.create(&PostParams::default(), &serde_json::from_value(value)?).await?;
        let uid = vm.metadata.uid.context("a created object has a UID")?;
        Ok(Self { cluster, api, name: name.to_owned(), uid })
    }

    /// One that exists already.
    pub async fn existing(cluster: &'a Cluster, namespace: &str, name: &str) -> Result<Self> {
        let api: Api<VirtualMachine> = Api::namespaced(cluster.client().await?, namespace);
        let uid = api.get(name).await?.metadata.uid.context("an object has a UID")?;
        Ok(Self { cluster, api, name: name.to_owned(), uid })
    }

    /// The object's UID, which is the domain's UUID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The domain's name.
    pub fn domain(&self) -> String {
        names::domain(&self.uid)
    }

    /// The object as it is now.
    pub async fn get(&self) -> Result<VirtualMachine> {
        Ok(self.api.get(&self.name).await?)
    }

    /// Merges `spec` into the spec.
    pub async fn patch(&self, spec: Value) -> Result<VirtualMachine> {
        let patch = json!({ "spec": spec });
        Ok(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?)
    }

    /// Raises a counter of `spec.requests` by one.
    pub async fn request(&self, counter: &str) -> Result<()> {
        let spec = serde_json::to_value(self.get().await?.spec)?;
        let next = spec["requests"][counter].as_i64().unwrap_or(0) + 1;
        self.patch(json!({ "requests": { counter: next } })).await?;
        Ok(())
    }

    /// Waits until the object is accepted by `accept`.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        accept: impl Fn(&VirtualMachine) -> bool,
    ) -> Result<VirtualMachine> {
        wait::until(&format!("{}: {what}", self.name), deadline, || self.get(), accept).await
    }

    /// Waits for a phase that speaks of the present spec.
    pub async fn until_phase(&self, phase: Phase) -> Result<VirtualMachine> {
        self.until(&format!("is {}", phase.as_str()), SOON, |vm| in_phase(vm, phase)).await
    }

    /// Waits for a condition with that status and reason: its message.
    pub async fn until_condition(&self, type_: &str, status: &str, reason: &str) -> Result<String> {
        let found = |vm: &VirtualMachine| {
            condition(vm, type_)
                .filter(|condition| condition.status == status && condition.reason == reason)
                .map(|condition| condition.message.clone())
        };
        let vm = self.until(&format!("{type_}={status} {reason}"), SOON, |vm| found(vm).is_some()).await?;
        found(&vm).context("just seen")
    }

    /// Waits until it is placed nowhere for that reason. The cluster controller hears of what happens to a host a moment
    /// later than the Kubernetes API, and places on that host until then.
    pub async fn until_unschedulable(&self, why: &str) -> Result<()> {
        let is_said = |vm: &VirtualMachine| {
            condition(vm, conditions::types::SCHEDULED)
                .is_some_and(|scheduled| scheduled.status == "False" && scheduled.message.contains(why))
        };
        self.until(&format!("is placed nowhere: {why}"), SOON, is_said).await.map(drop)
    }

    /// The host that it is bound to.
    pub async fn host(&self) -> Result<&'a LibvirtHost> {
        let node = self.get().await?.spec.node_name.context("not bound to a host")?;
        let index = (0..self.cluster.hosts().len()).find(|index| self.cluster.node_name(*index) == node);
        self.cluster.host(index.with_context(|| format!("no host {node}"))?)
    }

    /// The QEMU process of the only host.
    pub fn qemu(&self) -> Option<ProcessId> {
        self.cluster.hosts().iter().find_map(|host| host.guest(&self.domain()))
    }

    /// The guest's answer to GET `path`, once its DHCP address is in status.
    pub async fn http(&self, path: &str) -> Result<String> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
        let answer = client.get(self.url(path).await?).send().await?.error_for_status()?;
        Ok(answer.text().await?.trim().to_owned())
    }

    /// Leaves a note in the guest by POST to `path`.
    pub async fn note(&self, path: &str, note: &str) -> Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
        client.post(self.url(path).await?).body(note.to_owned()).send().await?.error_for_status()?;
        Ok(())
    }

    async fn url(&self, path: &str) -> Result<String> {
        let status = self.get().await?.status.unwrap_or_default();
        let Some(address) = status.addresses.first() else {
            bail!("no address yet: {:?}, {:?}, {:#?}", status.phase, status.message, status.conditions);
        };
        Ok(format!("http://{}{path}", address.address))
    }

    /// Waits until the guest has booted: the host name that it answers.
    pub async fn until_booted(&self) -> Result<String> {
        self.until_booted_within(BOOT).await
    }

    /// The same of a guest that takes longer than most.
    pub async fn until_booted_within(&self, deadline: Duration) -> Result<String> {
        let what = format!("{}: the guest answers", self.name);
        let answers = wait::until(&what, deadline, || self.http("/"), |_| true).await;
        answers.with_context(|| format!("on its serial port it said: {}", self.serial_log()))
    }

    /// The end of what the guest said on its serial port.
    fn serial_log(&self) -> String {
        let logs = self.cluster.hosts().iter().filter_map(LibvirtHost::log_dir);
        let logs = logs.map(|dir| std::fs::read(dir.join(format!("qemu/{}-serial.log", self.domain()))));
        let said = logs.flatten().map(|log| String::from_utf8_lossy(&log).into_owned()).collect::<String>();
        said.get(said.len().saturating_sub(2000)..).unwrap_or(&said).to_owned()
    }

    /// How often QEMU was started for it, by libvirt's own log of the domain.
    pub fn starts(&self) -> Result<usize> {
        let mut starts = 0;
        for host in self.cluster.hosts() {
            let dir = host.log_dir().context("a private host has a log directory")?;
            for path in [dir.join(format!("{}.log", self.domain())), dir.join(format!("qemu/{}.log", self.domain()))] {
                let text = std::fs::read(path).unwrap_or_default();
                starts += String::from_utf8_lossy(&text).matches(": starting up libvirt version").count();
            }
        }
        Ok(starts)
    }

    /// The names of the domains of all hosts that are ours.
    pub async fn domains(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for host in self.cluster.hosts() {
            found.extend(host.virsh().domains().await?.into_iter().filter(|name| *name == self.domain()));
        }
        Ok(found)
    }

    /// The names of the volumes of all hosts that are ours.
    pub async fn volumes(&self) -> Result<BTreeSet<String>> {
        let prefix = names::volume_prefix(&self.uid);
        let mut found = BTreeSet::new();
        for host in self.cluster.hosts() {
            found.extend(pool::volumes(&host.virsh()).await?.into_iter().filter(|name| name.starts_with(&prefix)));
        }
        Ok(found)
    }

    /// Deletes the object; does not wait.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Whether the object is gone.
    pub async fn is_gone(&self) -> Result<bool> {
        Ok(self.api.get_opt(&self.name).await?.is_none())
    }

    /// Waits until the object is gone, and checks that libvirt has nothing left of it.
    pub async fn until_gone(&self) -> Result<()> {
        let look = || async { Ok(self.api.get_opt(&self.name).await?.map(|vm| vm.status)) };
        wait::until(&format!("{} is gone", self.name), SOON, look, Option::is_none).await?;
        ensure!(self.domains().await?.is_empty(), "{}: the domain is left", self.name);
        let volumes = self.volumes().await?;
        ensure!(volumes.is_empty(), "{}: volumes are left: {volumes:?}", self.name);
        ensure!(self.qemu().is_none(), "{}: QEMU is left", self.name);
        Ok(())
    }

    /// Deletes it and waits until nothing is left.
    pub async fn remove(self) -> Result<()> {
        self.delete().await?;
        self.until_gone().await
    }
}

/// A condition of it.
pub fn condition<'a>(vm: &'a VirtualMachine, type_: &str) -> Option<&'a Condition> {
    conditions::find(&vm.status.as_ref()?.conditions, type_)
}

/// Whether the object says that it is in a phase, of the present spec.
pub fn in_phase(vm: &VirtualMachine, phase: Phase) -> bool {
    vm.status
        .as_ref()
        .is_some_and(|status| status.phase == Some(phase) && status.observed_generation == vm.metadata.generation)
}
