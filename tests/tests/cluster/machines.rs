//! The virtual machines of the test: made by kubectl and over REST, running all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::{Phase, VirtualMachine, names};
use kvmoor_dev::process::ProcessId;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::BOOT;
use kvmoor_tests::wait;
use reqwest::Method;
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::load::text;

/// All of them.
const COUNT: usize = 10;
/// The one that kubectl made.
const BY_KUBECTL: &str = "by-kubectl";
/// For a phase on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// What runs, and the proof that it is still the same.
pub struct Machines {
    /// The QEMU process of each domain.
    pub qemus: BTreeMap<String, ProcessId>,
    /// The id and address of the one that REST made first, which has booted.
    pub id: i64,
    pub address: String,
    boot: String,
}

/// Makes one with kubectl and the others over REST, and waits until all run, and until those of the image have booted.
pub async fn create(on: &Installation) -> Result<Machines> {
    on.cluster.declare_tiny().await?;
    let manifest = on.file("vm.yaml", MANIFEST)?;
    on.kubectl(&["apply", "-f", &manifest]).await?;
    let admin = on.admin().await?;
    // Room for them and for what the users under load make.
    let me = admin.get("/api/auth/me").await?;
    let quota = json!({ "max_vms": 100, "max_cpu": 100, "max_memory": 65536, "user_id": me["id"] });
    admin.ok(Method::PUT, "/api/quota", Some(quota)).await?;
    let first = admin.post("/api/vms", json!({ "name": "By REST", "cpu": 1, "memory": 96, "os_type": "tiny" })).await?;
    let id = first["id"].as_i64().context("an id")?;
    for number in 2..COUNT {
        let body = json!({ "name": format!("Many {number}"), "cpu": 1, "memory": 32 });
        admin.post("/api/vms", body).await?;
    }
    let kvm = format!("kvm/{BY_KUBECTL}");
    on.kubectl(&["wait", "--for=condition=Ready", &kvm, "--timeout=180s"]).await?;
    wait::until("all run", SOON, || running(on), |running| *running == COUNT).await?;
    let path = format!("/api/vms/{id}");
    let vm = wait::until("it has an address", BOOT, || admin.get(&path), |vm| !address(vm).is_empty()).await?;
    let address = address(&vm).to_owned();
    let boot = wait::until("its guest answers", BOOT, || boot_of(&address), |_| true).await?;
    let qemus = on.cluster.host().guests();
    ensure!(qemus.len() == COUNT, "a QEMU each: {qemus:?}");
    Ok(Machines { qemus, id, address, boot })
}

const MANIFEST: &str = "\
apiVersion: kvmoor.dev/v1alpha1
kind: VirtualMachine
metadata:
  name: by-kubectl
  namespace: default
spec:
  cpu: 1
  memory: 96Mi
  osType: tiny
";

impl Machines {
    /// That every QEMU is the one that it was, and the guest has not booted again.
    pub async fn check(&self, on: &Installation) -> Result<()> {
        let now = on.cluster.host().guests();
        for (domain, qemu) in &self.qemus {
            ensure!(now.get(domain) == Some(qemu), "{domain}: {:?} was {qemu:?}", now.get(domain));
        }
        let boot = wait::until("its guest answers", SOON, || boot_of(&self.address), |_| true).await?;
        ensure!(boot == self.boot, "the guest has booted again");
        Ok(())
    }

    /// That all are Running by what their status says.
    pub async fn until_running(&self, on: &Installation) -> Result<()> {
        wait::until("all are Running", SOON, || running(on), |running| *running == COUNT).await?;
        self.check(on).await
    }

    /// Deletes them as they were made, and waits until the host has nothing left of them.
    pub async fn delete_all(&self, on: &Installation) -> Result<()> {
        on.kubectl(&["delete", "kvm", BY_KUBECTL, "--timeout=120s"]).await?;
        let admin = on.admin().await?;
        for vm in admin.get("/api/vms").await?.as_array().context("a list")? {
            admin.ok(Method::DELETE, &format!("/api/vms/{}", vm["id"]), None).await?;
        }
        let api: Api<VirtualMachine> = Api::all(on.cluster.client().await?);
        let left = || async { Ok(api.list(&ListParams::default()).await?.items.len()) };
        wait::until("no virtual machine is left", SOON, left, |left| *left == 0).await?;
        let virsh = on.cluster.host().virsh();
        ensure!(on.cluster.host().guests().is_empty() && virsh.domains().await?.is_empty(), "domains are left");
        virsh.run(&["pool-refresh", "default"]).await?;
        let volumes = virsh.volumes("default").await?;
        let ours = |volume: &&String| self.qemus.keys().any(|domain| volume.starts_with(domain.as_str()));
        ensure!(!volumes.iter().any(|volume| ours(&volume)), "volumes are left: {volumes:?}");
        Ok(())
    }
}

/// How many are Running, leaving out those that the load makes.
async fn running(on: &Installation) -> Result<usize> {
    let api: Api<VirtualMachine> = Api::all(on.cluster.client().await?);
    let vms = api.list(&ListParams::default()).await?;
    let guests = on.cluster.host().guests();
    let runs = |vm: &&VirtualMachine| {
        let phase = vm.status.as_ref().and_then(|status| status.phase);
        phase == Some(Phase::Running) && vm.uid().is_some_and(|uid| guests.contains_key(&names::domain(&uid)))
    };
    Ok(vms.items.iter().filter(runs).count())
}

fn address(vm: &Value) -> &str {
    vm["addresses"][0].as_str().unwrap_or_default()
}

async fn boot_of(address: &str) -> Result<String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    Ok(client.get(format!("http://{address}/boot-id")).send().await?.error_for_status()?.text().await?)
}

/// That a virtual machine runs by what REST says, which hears of it a moment later than the Kubernetes API.
pub async fn is_running(admin: &Rest, id: i64) -> Result<()> {
    let path = format!("/api/vms/{id}");
    wait::until("it is Running over REST", SOON, || admin.get(&path), |vm| text(vm, "status") == "Running").await?;
    Ok(())
}
