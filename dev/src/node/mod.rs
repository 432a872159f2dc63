//! A Node that runs pods: containerd, kubelet, kube-proxy and CoreDNS in mount and network namespaces of their own.
//!
//! A process that does nothing holds the namespaces; the others enter them. Their mounts, interfaces and firewall rules
//! are seen by nobody else and vanish with the last process in there. What the node's processes see as `/run/libvirt` (and
//! as libvirt's other directories) is a private libvirt host's, so they count as members of it, and whoever ends that host ends them; the containers, whose
//! view is their own, are found by their control groups.

pub(crate) mod cgroup;
mod config;
mod network;

use std::{
    ffi::OsString,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;

use self::{config::Dirs, network::Networks};
use crate::{
    binaries::NodeBinaries,
    control_plane::{ADMIN, ControlPlane, PodNetwork},
    deadline::until,
    instance::Instance,
    libvirt_host::LibvirtHost,
    network_namespace::{NetworkNamespace, Purpose},
    process::{Managed, ProcessId, Spec, run},
};

/// The Node's name.
pub const NODE: &str = "node-0";

const READY: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(15);
const IMPORT: Duration = Duration::from_secs(180);

/// A node of a cluster, prepared or running.
#[derive(Debug)]
pub struct Node {
    dirs: Dirs,
    networks: Networks,
    namespace: NetworkNamespace,
    logs: PathBuf,
    recorder: std::sync::Arc<crate::instance::Recorder>,
    parts: Vec<Managed>,
}

impl Node {
    /// Reserves what a node of `instance` needs on the machine; nothing is started.
    pub(crate) fn prepare(instance: &Instance, host: &LibvirtHost) -> Result<Self> {
        let dirs = Dirs::new(instance);
        dirs.make()?;
        instance.recorder.containers(&dirs.tasks())?;
        let networks = Networks::reserve(instance)?;
        let mounts = dirs.mounts(host.mounts().context("a node stands on a private libvirt host")?);
        let namespace = NetworkNamespace::prepare(instance, "node", mounts, Purpose::Node);
        let (logs, recorder) = (instance.logs(), instance.recorder.clone());
        Ok(Self { dirs, networks, namespace, logs, recorder, parts: Vec::new() })
    }

    /// What the control plane must know.
    pub(crate) fn pod_network(&self) -> PodNetwork {
        PodNetwork { machine: self.networks.machine(), services: self.networks.services(), node: NODE }
    }

    /// The node's address, reachable from this machine.
    pub fn address(&self) -> Ipv4Addr {
        self.networks.node()
    }

    /// Makes the namespaces, and starts containerd in them.
    pub(crate) async fn start_containerd(&mut self, plane: &ControlPlane) -> Result<()> {
        self.namespace.make().await?;
        let holder = self.namespace.holder()?;
        self.networks.connect(holder).await.context("connect the node's network")?;
        self.dirs.write(&plane.authority(), self.networks.pods(), self.address())?;
        let config = self.dirs.containerd_config();
        let containerd = self.managed(holder, "containerd", Path::new("containerd"), &[("config", config.into())]);
        containerd.start()?;
        let answers = until(READY, "containerd answers", || async {
            if containerd.id().is_none() {
                bail!(containerd.epitaph());
            }
            Ok(ctr(holder, &["version"]).await.is_ok())
        });
        answers.await?;
        self.parts.push(containerd);
        Ok(())
    }

    /// Starts kubelet, kube-proxy and CoreDNS, and waits until the Node is ready.
    pub(crate) async fn start(&mut self, plane: &ControlPlane, binaries: &NodeBinaries) -> Result<()> {
        let holder = self.namespace.holder()?;
        let machine = self.networks.machine();
        let kubeconfig = self.dirs.kubeconfig("kubelet");
        plane.write_node_config(&kubeconfig, NODE, machine)?;
        plane.write_node_config(&self.dirs.kubeconfig("kube-proxy"), "proxy", machine)?;
        let name = ("hostname-override", OsString::from(NODE));
        let kubelet = [
            ("config", self.dirs.kubelet_config().into()),
            ("kubeconfig", kubeconfig.into()),
            ("node-ip", self.address().to_string().into()),
            name.clone(),
        ];
        let proxy = [("config", self.dirs.proxy_config().into()), name];
        self.parts.push(self.managed(holder, "kubelet", &binaries.kubelet, &kubelet));
        self.parts.push(self.managed(holder, "kube-proxy", &binaries.proxy, &proxy));
        plane.write_node_config(&self.dirs.kubeconfig("coredns"), ADMIN, machine)?;
        self.parts.push(self.managed(holder, "coredns", &binaries.dns, &[("conf", self.dirs.corefile().into())]));
        for part in &self.parts {
            if part.id().is_none() {
                part.start()?;
            }
        }
        let nodes: Api<NodeObject> = Api::all(plane.client().await?);
        let ready = || async {
            for part in &self.parts {
                if part.id().is_none() {
                    bail!(part.epitaph());
                }
            }
            Ok(nodes.get_opt(NODE).await?.is_some_and(|node| is_ready(&node)))
        };
        until(READY, "the Node is Ready (its logs are kubelet.log and containerd.log)", ready).await
    }

    /// A program in the node's namespaces.
    fn managed(&self, holder: ProcessId, name: &str, program: &Path, flags: &[(&str, OsString)]) -> Managed {
        let mut spec = Spec::new(name, "nsenter", self.logs.join(format!("{name}.log")));
        for word in NetworkNamespace::enter(holder) {
            spec = spec.arg(word);
        }
        spec = spec.arg(program);
        for (flag, value) in flags {
            spec = spec.flag(flag, value);
        }
        spec.without_env = vec!["KUBECONFIG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"];
        Managed::new(spec, self.recorder.clone())
    }

    /// Imports the image in the archive `file`, as `buildah push … oci-archive:` writes it.
    ///
    /// # Errors
    /// When containerd does not run or does not take it.
    pub async fn import(&self, file: impl AsRef<Path>) -> Result<()> {
        let holder = self.namespace.holder()?;
        let file = file.as_ref().to_string_lossy();
        let words = ["-n", "k8s.io", "images", "import", "--digests=false", file.as_ref()];
        ctr(holder, &words).await.with_context(|| format!("import {file}"))?;
        Ok(())
    }

    /// The parts that may be supervised.
    pub(crate) fn parts(&self) -> &[Managed] {
        &self.parts
    }

    /// Ends the node with all its pods.
    pub(crate) async fn stop(&self) -> Result<()> {
        // kubelet first, which would start the containers again.
        for part in self.parts.iter().rev() {
            part.stop(STOP).await;
        }
        let tasks = self.dirs.tasks();
        tokio::task::spawn_blocking(move || cgroup::end_containers(&tasks)).await??;
        self.namespace.release().await;
        Ok(())
    }
}

/// `ctr` inside.
async fn ctr(holder: ProcessId, words: &[&str]) -> Result<String> {
    let enter = NetworkNamespace::enter(holder);
    let mut all: Vec<&str> = enter.iter().map(String::as_str).collect();
    all.push("ctr");
    all.extend(words);
    run("nsenter", &all, IMPORT).await
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
