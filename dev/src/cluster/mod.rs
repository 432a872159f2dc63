//! A whole cluster on one machine: control plane, libvirt hosts and Kvmoor's own processes, in a directory of its own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = kvmoor_dev::Cluster::builder().hosts(2).start().await?;
//! let client = cluster.client().await?;
//! // …
//! cluster.stop().await?;
//! # Ok(()) }
//! ```
//!
//! Everything ends when the value is dropped, also while a panic unwinds. After a SIGKILL of this process the kernel
//! ends its children, and the next start of any cluster removes the rest.

mod builder;
mod supervise;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
pub(crate) use builder::temporary_dir;
pub use builder::{AlreadyRunning, Builder};
use jiff::Timestamp;
use kube::{Api, api::ListParams};
use kvmoor_crds::{VirtualMachine, names};
pub(crate) use supervise::keep_up;
use tokio::time::timeout;

use crate::{
    components::{self, Components},
    control_plane::{ControlPlane, client_of},
    instance::Instance,
    libvirt_host::LibvirtHost,
    ports,
    process::Managed,
};

/// Components get this long for a graceful end.
const STOP: Duration = Duration::from_secs(15);
const REQUEST: Duration = Duration::from_secs(5);

/// The account of the first admin.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Name to log in with.
    pub username: String,
    /// Password to log in with.
    pub password: String,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: who acts goes before what is acted on.
    components: Option<Components>,
    hosts: Vec<LibvirtHost>,
    control_plane: ControlPlane,
    listen: SocketAddr,
    admin: Admin,
    kubectl: PathBuf,
    instance: Instance,
}

impl Cluster {
    /// A cluster to be started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A new Kubernetes client with all rights. It lives as long as the runtime that it was made in, so a cluster that
    /// several tests share gives each its own.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        self.control_plane.client().await
    }

    /// A new Kubernetes client with the identity of one of [`Self::processes`], and no more rights than it has.
    ///
    /// # Errors
    /// When that is none of Kvmoor's own processes.
    pub async fn client_as(&self, process: &Managed) -> Result<kube::Client> {
        client_of(&components::kubeconfig(self.dir(), &process.name())).await
    }

    /// The base URL of Kvmoor's API server, without a path: `http://127.0.0.1:PORT`.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The first admin's account.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        &self.instance.dir
    }

    /// kubectl of the control plane's version.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// All libvirt hosts. Host `n` is the Node [`Self::node_name`]`(n)`.
    pub fn hosts(&self) -> &[LibvirtHost] {
        &self.hosts
    }

    /// One libvirt host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn host(&self, index: usize) -> Result<&LibvirtHost> {
        self.hosts.get(index).with_context(|| format!("there is no host {index}"))
    }

    /// The name of a host's Node.
    pub fn node_name(&self, host: usize) -> String {
        components::node_name(host)
    }

    /// Kvmoor's API server.
    ///
    /// # Errors
    /// When the cluster was built without components.
    pub fn api_server(&self) -> Result<&Managed> {
        Ok(&self.components()?.api_server)
    }

    /// The cluster controller.
    ///
    /// # Errors
    /// When the cluster was built without components.
    pub fn cluster_controller(&self) -> Result<&Managed> {
        Ok(&self.components()?.cluster_controller)
    }

    /// The node controller of a host.
    ///
    /// # Errors
    /// When the cluster was built without components, or there is no such host.
    pub fn node_controller(&self, host: usize) -> Result<&Managed> {
        self.components()?.node_controllers.get(host).with_context(|| format!("there is no host {host}"))
    }

    /// A further replica of the API server, not started yet, and its base URL; it ends when dropped.
    ///
    /// # Errors
    /// When the cluster was built without components.
    pub fn another_api_server(&self, name: &str) -> Result<(Managed, String)> {
        let listen = ports::loopback()?;
        Ok((self.components()?.another_api_server(name, listen)?, format!("http://{listen}")))
    }

    /// Where one of Kvmoor's own processes serves `/metrics`, `/livez` and `/readyz`, without a path.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn telemetry_url(&self, process: &Managed) -> Result<String> {
        components::telemetry_url(process).with_context(|| format!("{} has no metrics", process.name()))
    }

    /// A further replica of the cluster controller, not started yet; it ends when dropped.
    ///
    /// # Errors
    /// When the cluster was built without components.
    pub fn another_cluster_controller(&self, name: &str) -> Result<Managed> {
        self.components()?.another_cluster_controller(name)
    }

    /// Kvmoor's own processes, in the order in which they are started.
    pub fn processes(&self) -> Vec<&Managed> {
        self.components.iter().flat_map(Components::all).collect()
    }

    /// Starts all of Kvmoor's processes that do not run, and waits until they are ready.
    ///
    /// # Errors
    /// When one cannot be started, ends, or is not ready in time.
    pub async fn start_components(&self) -> Result<()> {
        let components = self.components()?;
        // A Lease's time is the writer's clock: the same machine's here.
        let since = Timestamp::now();
        for part in components.all().filter(|part| part.id().is_none()) {
            part.start()?;
        }
        self.wait_ready_since(since).await
    }

    /// Waits until the API server serves, the cluster controller leads and all node controllers live.
    ///
    /// # Errors
    /// When one has ended by itself or is not ready in time.
    pub async fn wait_ready(&self) -> Result<()> {
        // Longer than any interval of renewal.
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(30);
        self.wait_ready_since(since).await
    }

    async fn wait_ready_since(&self, since: Timestamp) -> Result<()> {
        components::wait_ready(self.components()?, &self.client().await?, self.listen, since).await
    }

    fn components(&self) -> Result<&Components> {
        self.components.as_ref().context("the cluster was built without Kvmoor's own processes")
    }

    /// Asks the guests to power off, waits for some seconds, and stops those that did not. Stops the node controllers
    /// first, which would start them again.
    ///
    /// # Errors
    /// When libvirt does not answer.
    pub async fn stop_guests(&self) -> Result<()> {
        for controller in self.components.iter().flat_map(|components| &components.node_controllers) {
            controller.stop(STOP).await;
        }
        let ours = self.domains().await.unwrap_or_else(|error| {
            tracing::warn!("which guests are ours is not known: {error:#}");
            BTreeSet::new()
        });
        for host in &self.hosts {
            host.stop_guests(&ours).await?;
        }
        Ok(())
    }

    /// The libvirt domains of all virtual machines.
    async fn domains(&self) -> Result<BTreeSet<String>> {
        if self.components.is_none() {
            return Ok(BTreeSet::new());
        }
        let api: Api<VirtualMachine> = Api::all(self.client().await?);
        let list = timeout(REQUEST, api.list(&ListParams::default())).await.context("list the virtual machines")??;
        Ok(list.items.iter().filter_map(|vm| vm.metadata.uid.as_deref()).map(names::domain).collect())
    }

    /// Stops everything, guests included and without asking them; a temporary directory goes too.
    ///
    /// # Errors
    /// When something could not be ended. What could be is gone all the same.
    pub async fn stop(mut self) -> Result<()> {
        let parts = self.components.iter().flat_map(|components| components.all().rev());
        futures::future::join_all(parts.map(|part| part.stop(STOP))).await;
        let hosts = futures::future::join_all(self.hosts.iter().map(LibvirtHost::stop));
        let (hosts, ()) = futures::future::join(hosts, self.control_plane.stop()).await;
        // The processes are gone; what is left is files, and whatever slipped through.
        self.instance.release()?;
        hosts.into_iter().collect()
    }
}
