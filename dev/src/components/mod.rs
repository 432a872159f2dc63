//! Kvmoor's own processes, each under its own restricted identity.

mod apply;
mod checkout;
mod identity;
mod objects;
mod programs;
mod ready;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
pub use checkout::root as checkout_root;
pub(crate) use identity::Credentials;
use kube::Client;
pub use objects::TINY;
pub(crate) use objects::tiny_image;
pub(crate) use ready::wait_ready;

use crate::{
    cluster::Admin,
    control_plane::ControlPlane,
    files,
    instance::{Instance, Recorder},
    libvirt_host::LibvirtHost,
    ports,
    process::{Managed, Spec},
};

/// The namespace of Kvmoor's own objects.
pub const SYSTEM_NAMESPACE: &str = "kvmoor-system";

/// Where a component tells its metrics and its health.
const METRICS_ADDRESS: &str = "KVMOOR_METRICS_ADDRESS";

/// The log of each component says this much, unless the caller's environment says otherwise.
const DEFAULT_LOG_FILTER: &str = "info";

/// The processes of one cluster, and what more of them are made from.
#[derive(Debug)]
pub(crate) struct Components {
    pub(crate) api_server: Managed,
    pub(crate) cluster_controller: Managed,
    pub(crate) node_controllers: Vec<Managed>,
    pub(crate) credentials: Vec<Credentials>,
    /// For further replicas.
    api_credentials: Credentials,
    cluster_credentials: Credentials,
    logs: PathBuf,
    recorder: Arc<Recorder>,
}

impl Components {
    /// Installs all objects and prepares the processes; nothing is started.
    pub(crate) async fn prepare(
        instance: &Instance,
        plane: &ControlPlane,
        hosts: &[LibvirtHost],
        listen: SocketAddr,
        admin: &Admin,
    ) -> Result<Self> {
        let client = plane.client().await?;
        let nodes: Vec<String> = (0..hosts.len()).map(node_name).collect();
        objects::install(&client, &nodes, admin).await?;
        objects::tiny_image(&client).await?;
        let dir = dir(&instance.dir);
        files::make_dir(&dir, 0o700)?;
        let maker = Maker { plane, client, dir, instance };
        let api = maker.credentials("api-server", "kvmoor-api-server", None).await?;
        let api_server = maker.spec("api-server", programs::find("kvmoor-api-server")?, &api)?;
        let api_server = maker.managed(api_server.env("KVMOOR_LISTEN", listen.to_string()));
        let cluster = maker.credentials("controller-cluster", "kvmoor-controller-cluster", None).await?;
        let cluster_controller = maker.managed(cluster_spec(&instance.logs(), "controller-cluster", &cluster)?);
        let mut credentials = vec![api.clone(), cluster.clone()];
        let mut node_controllers = Vec::new();
        for (node, host) in nodes.into_iter().zip(hosts) {
            let name = format!("controller-{node}");
            let own = maker.credentials(&name, "kvmoor-controller-node", Some(node.clone())).await?;
            let spec = maker.spec(&name, programs::find("kvmoor-controller")?, &own)?.arg("node");
            let spec = spec.env("KVMOOR_NODE_NAME", node).env("KVMOOR_LIBVIRT_URI", host.uri());
            // Several hosts share this machine, and nobody else is to reach them.
            let spec = spec.env("KVMOOR_AGENT_LISTEN", "127.0.0.1:0");
            let mut spec = spec.env("KVMOOR_GUEST_DATA_TOKEN_FILE", own.cluster_token());
            spec = spec.env("KVMOOR_PEER_TOKEN_FILE", own.peer_token());
            if let Some(logs) = host.log_dir() {
                spec = spec.env("KVMOOR_SERIAL_LOGS", logs.join("qemu"));
            }
            // Whoever runs a cluster on their own machine may well serve images from it.
            if std::env::var_os("KVMOOR_IMAGE_SOURCES_ALLOWED").is_none() {
                spec = spec.env("KVMOOR_IMAGE_SOURCES_ALLOWED", "0.0.0.0/0,::/0");
            }
            spec.mounts = host.boot_id_mount();
            node_controllers.push(maker.managed(spec));
            credentials.push(own);
        }
        let (logs, recorder) = (instance.logs(), instance.recorder.clone());
        let (api_credentials, cluster_credentials) = (api, cluster);
        Ok(Self {
            api_server,
            cluster_controller,
            node_controllers,
            credentials,
            api_credentials,
            cluster_credentials,
            logs,
            recorder,
        })
    }

    /// All processes, in the order in which they are started.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Managed> {
        [&self.cluster_controller].into_iter().chain(&self.node_controllers).chain([&self.api_server])
    }

    /// A further replica of the API server, not started yet.
    pub(crate) fn another_api_server(&self, name: &str, listen: SocketAddr) -> Result<Managed> {
        let name = format!("api-server-{name}");
        let spec = spec(&self.logs, &name, programs::find("kvmoor-api-server")?, &self.api_credentials)?;
        Ok(Managed::new(spec.env("KVMOOR_LISTEN", listen.to_string()), self.recorder.clone()))
    }

    /// A further replica of the cluster controller, not started yet.
    pub(crate) fn another_cluster_controller(&self, name: &str) -> Result<Managed> {
        let spec = cluster_spec(&self.logs, &format!("controller-cluster-{name}"), &self.cluster_credentials)?;
        Ok(Managed::new(spec, self.recorder.clone()))
    }
}

/// Where a component serves its metrics and its health.
pub(crate) fn telemetry_url(process: &Managed) -> Option<String> {
    process.env(METRICS_ADDRESS).map(|address| format!("http://{address}"))
}

/// The Node of a cluster's libvirt host.
pub(crate) fn node_name(host: usize) -> String {
    format!("host-{host}")
}

/// The kubeconfig of a process.
pub(crate) fn kubeconfig(cluster_dir: &Path, process: &str) -> PathBuf {
    dir(cluster_dir).join(format!("{process}.kubeconfig"))
}

fn dir(cluster_dir: &Path) -> PathBuf {
    cluster_dir.join("components")
}

struct Maker<'a> {
    plane: &'a ControlPlane,
    client: Client,
    dir: PathBuf,
    instance: &'a Instance,
}

impl Maker<'_> {
    async fn credentials(&self, name: &str, account: &'static str, node: Option<String>) -> Result<Credentials> {
        Credentials::make(self.plane, &self.client, &self.dir, name, account, node).await
    }

    fn spec(&self, name: &str, program: PathBuf, credentials: &Credentials) -> Result<Spec> {
        spec(&self.instance.logs(), name, program, credentials)
    }

    fn managed(&self, spec: Spec) -> Managed {
        Managed::new(spec, self.instance.recorder.clone())
    }
}

fn cluster_spec(logs: &Path, name: &str, credentials: &Credentials) -> Result<Spec> {
    // A name of its own that stays: one that was killed leads again at once, without waiting for its Lease to run out.
    let spec = spec(logs, name, programs::find("kvmoor-controller")?, credentials)?.arg("cluster");
    // Several clusters share this machine.
    Ok(spec.env("KVMOOR_IDENTITY", name).env("KVMOOR_GUEST_DATA_LISTEN", "127.0.0.1:0"))
}

fn spec(logs: &Path, name: &str, program: PathBuf, credentials: &Credentials) -> Result<Spec> {
    let filter = std::env::var_os("RUST_LOG").unwrap_or_else(|| DEFAULT_LOG_FILTER.into());
    let mut spec = Spec::new(name, program, logs.join(format!("{name}.log")));
    // What is meant for `kvmoor-dev` or for one component must not reach the others.
    spec.without_env = vec![
        "KVMOOR_ADMIN_PASSWORD",
        "KVMOOR_LISTEN",
        "KVMOOR_AGENT_ADDRESS",
        "KVMOOR_CRASH_AFTER",
        "KVMOOR_IDENTITY",
        "KVMOOR_GUEST_DATA_ADDRESS",
    ];
    let spec = spec.env("KUBECONFIG", credentials.kubeconfig()).env("RUST_LOG", filter);
    let spec = spec.env(METRICS_ADDRESS, ports::loopback()?.to_string());
    Ok(spec.env("RUST_BACKTRACE", "1").env("NO_COLOR", "1"))
}
