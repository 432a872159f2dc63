//! A node without a libvirt, which comes as a pod then: what its guests notice of that pod's life, which is nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::{VirtualMachine, names};
use kvmoor_dev::process::ProcessId;
use kvmoor_dev::{PodCluster, SYSTEM_NAMESPACE};
use kvmoor_tests::rest::Rest;
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::vm::BOOT;
use kvmoor_tests::wait;
use serde_json::Value;

use crate::installation::{Installation, LONG, RELEASE, TAGS};
use crate::steps::CHART;

const NAME: &str = "on-a-bundled-libvirt";
const SELECTOR: &str = "app.kubernetes.io/component=libvirt";
const DAEMON_SET: &str = "daemonset/kvmoor-libvirt";
/// For a pod and for a host, on a busy machine.
const SOON: Duration = Duration::from_secs(180);
/// Programs that outlive the pod.
const LASTING: [&str; 3] = ["virtlogd", "dnsmasq", "qemu-system-x86"];

/// The guest, and the proof that it and what it needs are still the same.
pub struct Guest {
    domain: String,
    id: i64,
    qemu: ProcessId,
    virtlogd: Vec<i32>,
    boot: String,
}

/// On a node that has a libvirt the pod says so, and leaves it alone.
pub async fn is_refused(on: &Installation) -> Result<()> {
    upgrade(on, &[]).await?;
    let refusal = || async {
        let said: Vec<String> = pods(on).await?.iter().flat_map(last_words).collect();
        Ok(said.join("\n"))
    };
    let refused = |said: &String| said.contains("this node has a libvirt of its own");
    wait::until("the pod refuses", SOON, refusal, refused).await?;
    on.cluster.check()?;
    on.cluster.host().virsh().run(&["list"]).await.context("the node's own libvirt")?;
    Ok(())
}

/// Without it the pod starts, and makes storage pool and network.
pub async fn starts(on: &Installation) -> Result<()> {
    // It is tried again and again: not while the node's own goes.
    on.kubectl(&["delete", "-n", SYSTEM_NAMESPACE, DAEMON_SET, "--cascade=foreground", "--timeout=120s"]).await?;
    wait::until("no pod is left", SOON, || pod_names(on), Vec::is_empty).await?;
    on.cluster.host().vacate().await?;
    upgrade(on, &[]).await?;
    until_ready(on).await?;
    let virsh = on.cluster.host().virsh();
    ensure!(virsh.run(&["pool-list", "--name"]).await?.trim() == "default", "the pool is there and active");
    let network = virsh.run(&["net-dumpxml", "default"]).await?;
    ensure!(network.contains("192.168.222.1"), "the network of the values: {network}");
    on.cluster.upload_tiny().await
}

/// A guest boots on it.
pub async fn boots(on: &Installation) -> Result<Guest> {
    let manifest = on.file("bundled.yaml", MANIFEST)?;
    on.kubectl(&["apply", "-f", &manifest]).await?;
    on.kubectl(&["wait", "--for=condition=Ready", &format!("kvm/{NAME}"), "--timeout=180s"]).await?;
    let vms: Api<VirtualMachine> = Api::namespaced(on.cluster.client().await?, "default");
    let vm = vms.get(NAME).await?;
    let id = vm.status.as_ref().and_then(|status| status.id).context("an id")?;
    let domain = names::domain(&vm.uid().context("a UID")?);
    let qemu = on.cluster.host().guest(&domain).context("QEMU runs")?;
    let virtlogd = running(on, "virtlogd")?;
    ensure!(virtlogd.len() == 1, "one virtlogd: {virtlogd:?}");
    let boot = boot_of(on, id, "first").await?;
    let guest = Guest { domain, id, qemu, virtlogd, boot };
    guest.check(on)?;
    Ok(guest)
}

/// The pod is gone for a while, and there is another.
pub async fn outlives_its_pod(on: &Installation, guest: &Guest) -> Result<()> {
    delete_pod(on).await?;
    guest.check(on)?;
    until_ready(on).await?;
    guest.goes_on(on, "second").await
}

/// Another image or template of the pod is no more than that.
pub async fn outlives_an_update(on: &Installation, guest: &Guest) -> Result<()> {
    let before = pod_names(on).await?;
    upgrade(on, &["--set-string", "nodeController.libvirt.bundled.podAnnotations.update=yes"]).await?;
    let replaced = |now: &Vec<String>| !now.is_empty() && now.iter().all(|name| !before.contains(name));
    wait::until("the pod is replaced", SOON, || pod_names(on), replaced).await?;
    until_ready(on).await?;
    guest.goes_on(on, "third").await
}

/// Without the release the guest is left to itself, with all that it needs.
pub async fn outlives_the_release(on: &Installation, guest: &Guest) -> Result<()> {
    let said = on.helm(&["uninstall", RELEASE, "--wait", "--timeout", "5m"]).await?;
    ensure!(said.contains("kept"), "{said}");
    wait::until("no pod is left", SOON, || pod_names(on), Vec::is_empty).await?;
    guest.check(on)?;
    for program in LASTING {
        ensure!(!running(on, program)?.is_empty(), "{program} has ended");
    }
    ensure!(running(on, "libvirtd")?.is_empty(), "libvirtd is the pod's");
    Ok(())
}

impl Guest {
    /// That QEMU and virtlogd are the processes that they were.
    fn check(&self, on: &Installation) -> Result<()> {
        let qemu = on.cluster.host().guest(&self.domain);
        ensure!(qemu == Some(self.qemu), "QEMU is {qemu:?} and was {:?}", self.qemu);
        ensure!(self.qemu.is_alive(), "QEMU has ended");
        let virtlogd = running(on, "virtlogd")?;
        ensure!(virtlogd == self.virtlogd, "virtlogd is {virtlogd:?} and was {:?}", self.virtlogd);
        Ok(())
    }

    /// The same, and that it is reached again, has not booted again, and that what it says is still written down.
    async fn goes_on(&self, on: &Installation, word: &str) -> Result<()> {
        self.check(on)?;
        let boot = boot_of(on, self.id, word).await?;
        ensure!(boot == self.boot, "the guest has booted again");
        let admin = on.admin().await?;
        let log = format!("/api/vms/{}/log", self.id);
        let said = format!("{word}-{boot}");
        let has = |log: &Value| log.as_str().is_some_and(|log| log.contains(&said));
        wait::until("what it says is written down", SOON, || admin.get(&log), has).await?;
        wait::until("it is Running", SOON, || phase(on), |phase| phase == "Running").await?;
        Ok(())
    }
}

const MANIFEST: &str = "\
apiVersion: kvmoor.dev/v1alpha1
kind: VirtualMachine
metadata:
  name: on-a-bundled-libvirt
  namespace: default
spec:
  cpu: 1
  memory: 96Mi
  osType: tiny
";

/// The release with a bundled libvirt; nothing is waited for.
async fn upgrade(on: &Installation, more: &[&str]) -> Result<()> {
    let values = PodCluster::values(TAGS[0]);
    let mut words = vec!["upgrade", RELEASE, CHART];
    words.extend(values.iter().map(String::as_str).filter(|word| *word != "--wait"));
    let bundled = "nodeController.libvirt.bundled.enabled=true,nodeController.libvirt.bundled.subnet=192.168.222.0/24";
    words.extend(["--set", bundled]);
    words.extend(more);
    on.cluster.helm(&words, LONG).await?;
    Ok(())
}

async fn pods(on: &Installation) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(on.cluster.client().await?, SYSTEM_NAMESPACE);
    Ok(pods.list(&ListParams::default().labels(SELECTOR)).await?.items)
}

async fn pod_names(on: &Installation) -> Result<Vec<String>> {
    Ok(pods(on).await?.iter().map(ResourceExt::name_any).collect())
}

/// What the containers of a pod said when they ended.
fn last_words(pod: &Pod) -> Vec<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let states = statuses.flat_map(|status| [status.state.as_ref(), status.last_state.as_ref()]).flatten();
    let message = |state: &ContainerState| state.terminated.as_ref().and_then(|ended| ended.message.clone());
    states.filter_map(message).collect()
}

async fn delete_pod(on: &Installation) -> Result<()> {
    on.kubectl(&["delete", "pods", "-n", SYSTEM_NAMESPACE, "-l", SELECTOR, "--wait", "--timeout=120s"]).await?;
    Ok(())
}

async fn until_ready(on: &Installation) -> Result<()> {
    on.kubectl(&["rollout", "status", "-n", SYSTEM_NAMESPACE, DAEMON_SET, "--timeout=180s"]).await?;
    let admin = on.admin().await?;
    let ready = |hosts: &Value| hosts[0]["ready"] == true;
    wait::until("the host is ready", SOON, || admin.get("/api/hosts"), ready).await?;
    Ok(())
}

async fn phase(on: &Installation) -> Result<String> {
    on.kubectl(&["get", "kvm", NAME, "-o", "jsonpath={.status.phase}"]).await
}

/// Asks a shell on the guest's serial port which boot this is, and has it say `word` with that.
async fn boot_of(on: &Installation, id: i64, word: &str) -> Result<String> {
    let admin = on.admin().await?;
    let ask = || async { ask(on, &admin, id, word).await };
    wait::until("a shell on the serial port answers", BOOT, ask, |_| true).await
}

async fn ask(on: &Installation, admin: &Rest, id: i64, word: &str) -> Result<String> {
    let path = format!("/ws/serial?id={id}&token={}", admin.token().context("a token")?);
    let opened = Viewer::open(&on.url().await?, &path, &[]).await?;
    let mut terminal = opened.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    // Not what the terminal echoes, but what the shell makes of it.
    let command = format!("echo {word}-$(cat /proc/sys/kernel/random/boot_id)-$((40+2))\n");
    terminal.write(command.as_bytes()).await?;
    let said = terminal.read_until("-42", Duration::from_secs(5)).await?;
    terminal.close().await?;
    let (_, boot) = said.rsplit_once(&format!("{word}-")).context("the word")?;
    Ok(boot.trim_end_matches("-42").to_owned())
}

/// The processes of the host's libvirt that run that program.
fn running(on: &Installation, program: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for id in on.cluster.host().members() {
        let comm = PathBuf::from(format!("/proc/{}/comm", id.pid));
        if std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == program) {
            found.push(id.pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}
