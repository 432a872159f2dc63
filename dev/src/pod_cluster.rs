//! A whole Kubernetes cluster on one machine, with a Node that runs pods and a libvirt host under it: what Kvmoor's chart
//! is installed on. See [`PodCluster`].

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures::future::{join_all, try_join};
use tokio::process::Command;

use crate::{
    AlreadyRunning, SYSTEM_NAMESPACE,
    binaries::{self, ControlPlaneBinaries, NodeBinaries},
    cluster::{keep_up, temporary_dir},
    components,
    container_images::Images,
    control_plane::ControlPlane,
    guest_image, image,
    instance::{self, Claim, Instance},
    libvirt_host::LibvirtHost,
    node::{Node, cgroup},
    process::{self, Managed},
    tls,
};

const STOP: Duration = Duration::from_secs(15);

/// A running cluster with pods. Everything ends when the value is dropped, also while a panic unwinds; what a SIGKILL of
/// this process leaves is removed by the next start of any cluster.
#[derive(Debug)]
pub struct PodCluster {
    // Dropped in this order: who acts goes before what is acted on.
    scheduler: Managed,
    node: Node,
    host: LibvirtHost,
    control_plane: ControlPlane,
    kubectl: PathBuf,
    helm: PathBuf,
    instance: Instance,
}

impl PodCluster {
    /// Starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler, a libvirt host with the image `tiny`, and a
    /// Node, and waits until it is ready for pods. All is kept in `dir`, or in a temporary directory. `images` says how the
    /// image that pods stand on is built; Kvmoor's own are left to the caller.
    ///
    /// # Errors
    /// [`AlreadyRunning`] when the directory is in use. Else: when a program is missing, or a part does not start.
    pub async fn start(dir: Option<&Path>, images: &Images) -> Result<Self> {
        tls::install_provider();
        let binaries = ControlPlaneBinaries::ensure().await?;
        let node_binaries = NodeBinaries::ensure().await?;
        let helm = binaries::ensure_helm().await?;
        let temporary = dir.is_none();
        let dir = dir.map_or_else(temporary_dir, Path::to_owned);
        let instance = tokio::task::spawn_blocking(move || {
            instance::sweep()?;
            Instance::claim(&dir, temporary)
        });
        let instance = match instance.await?? {
            Claim::Owned(instance) => instance,
            Claim::Taken(owner) => return Err(AlreadyRunning { owner }.into()),
        };
        let host = LibvirtHost::start(&instance, 0, false).await?;
        let mut node = Node::prepare(&instance, &host)?;
        let pods = node.pod_network();
        tracing::info!("starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler");
        let plane = ControlPlane::start(&instance, &binaries, Some(&pods));
        let (control_plane, ()) = try_join(plane, upload_tiny(&host)).await?;
        let scheduler = control_plane.scheduler(&instance, &node_binaries.scheduler)?;
        scheduler.start()?;
        tracing::info!("starting containerd, kubelet, kube-proxy and CoreDNS");
        node.start_containerd(&control_plane).await?;
        images.install_pause(&node).await?;
        node.start(&control_plane, &node_binaries).await?;
        Ok(Self { scheduler, node, host, control_plane, kubectl: binaries.kubectl, helm, instance })
    }

    /// A new Kubernetes client with all rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        self.control_plane.client().await
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The Node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The libvirt host under the Node.
    pub fn host(&self) -> &LibvirtHost {
        &self.host
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        &self.instance.dir
    }

    /// kubectl of the control plane's version.
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// Helm.
    pub fn helm_program(&self) -> &Path {
        &self.helm
    }

    /// Runs kubectl with all rights: what it printed.
    ///
    /// # Errors
    /// When it fails, with what it wrote to standard error, or takes longer than `deadline`.
    pub async fn kubectl(&self, words: &[&str], deadline: Duration) -> Result<String> {
        self.client_program(&self.kubectl, words, deadline).await
    }

    /// Runs Helm with all rights: what it printed.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn helm(&self, words: &[&str], deadline: Duration) -> Result<String> {
        self.client_program(&self.helm, words, deadline).await
    }

    /// What is said to Helm about Kvmoor on such a cluster: images of that tag, which are there and nowhere else, and no
    /// memory that the one host keeps for itself. It waits until all is ready.
    pub fn values(tag: &str) -> Vec<String> {
        let values = [
            "image.registry=localhost".to_owned(),
            format!("image.tag={tag}"),
            "image.pullPolicy=Never".to_owned(),
            "nodeController.reservedMemory=512Mi".to_owned(),
        ];
        let mut words = ["--namespace", SYSTEM_NAMESPACE, "--wait", "--timeout", "9m"].map(str::to_owned).to_vec();
        words.extend(values.into_iter().flat_map(|value| ["--set-string".to_owned(), value]));
        words
    }

    /// Declares the image `tiny`, which the libvirt host has.
    ///
    /// # Errors
    /// When the Kubernetes API does not take it.
    pub async fn declare_tiny(&self) -> Result<()> {
        components::tiny_image(&self.client().await?).await
    }

    /// Puts the image `tiny` into the storage pool of whatever libvirt the host has now.
    ///
    /// # Errors
    /// When it cannot be made, or that libvirt does not take it.
    pub async fn upload_tiny(&self) -> Result<()> {
        upload_tiny(&self.host).await
    }

    async fn client_program(&self, program: &Path, words: &[&str], deadline: Duration) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(components::checkout_root());
        command.args(words).env("KUBECONFIG", self.control_plane.admin_kubeconfig());
        // What Helm keeps for its user is not wanted.
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.instance.dir.join("helm"));
        }
        let output = process::output(command, deadline).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The parts, in the order in which they are started.
    fn parts(&self) -> impl Iterator<Item = &Managed> {
        let plane = self.control_plane.parts().into_iter().chain([&self.scheduler]);
        plane.chain(self.host.daemons()).chain(self.node.parts())
    }

    /// Starts again whatever ends without having been told to. Runs until dropped.
    pub fn supervise(&self) -> impl Future<Output = ()> {
        let all = join_all(self.parts().map(keep_up));
        async {
            all.await;
        }
    }

    /// Fails with the end of its log when a part has ended by itself.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<()> {
        match self.parts().find(|part| part.is_wanted() && part.id().is_none()) {
            Some(part) => bail!(part.epitaph()),
            None => Ok(()),
        }
    }

    /// Stops everything, pods and guests included and without asking them; a temporary directory goes too.
    ///
    /// # Errors
    /// When something could not be ended. What could be is gone all the same.
    pub async fn stop(mut self) -> Result<()> {
        let node = self.node.stop().await;
        self.scheduler.stop(STOP).await;
        let host = self.host.stop().await;
        cgroup::remove_guests_group();
        self.control_plane.stop().await;
        self.instance.release()?;
        node.and(host)
    }
}

async fn upload_tiny(host: &LibvirtHost) -> Result<()> {
    let image = guest_image::ensure(&binaries::cache_dir()?).await.context("make the guest image")?;
    image::upload(&host.virsh(), "default", &image).await
}
