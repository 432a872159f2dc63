//! A private Kubernetes control plane: etcd, kube-apiserver, and of kube-controller-manager what Kvmoor depends on.
//! Ports and certificates are its own; each part can be killed and started again while the others run.

mod certs;
pub(crate) mod kubeconfig;
mod specs;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use certs::Certs;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubeconfig::Identity;
use serde::{Deserialize, Serialize};
use specs::Surroundings;

use crate::{binaries::ControlPlaneBinaries, deadline::until, files, instance::Instance, ports, process::Managed};

/// A start takes seconds; a machine under load gets more.
const READY: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(20);
/// A probe of readiness is answered at once or not at all.
const PROBE: Duration = Duration::from_secs(5);

/// The certificate with all rights.
pub(crate) const ADMIN: &str = "admin";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    apiserver: u16,
}

/// What a control plane must know of the network of pods.
#[derive(Clone, Debug)]
pub(crate) struct PodNetwork {
    /// The machine's address there, under which the node and its pods reach the Kubernetes API.
    pub(crate) machine: Ipv4Addr,
    /// The /24 of the Services' addresses.
    pub(crate) services: Ipv4Addr,
    /// The Node's name.
    pub(crate) node: &'static str,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    ports: Ports,
    certs: Certs,
    etcd: Managed,
    apiserver: Managed,
    controller_manager: Managed,
}

impl ControlPlane {
    /// Starts the control plane whose data lies in the directory of `instance`, and waits until it serves. With `pods` it
    /// does what these need besides.
    pub(crate) async fn start(
        instance: &Instance,
        binaries: &ControlPlaneBinaries,
        pods: Option<&PodNetwork>,
    ) -> Result<Self> {
        let dir = instance.dir.join("control-plane");
        files::make_dir(&dir, 0o700)?;
        let also = pods.map(PodNetwork::server_addresses).unwrap_or_default();
        let certs = Certs::ensure(&dir.join("pki"), &also, pods.map(|pods| pods.node).as_slice())?;
        files::write(&Surroundings::audit_policy(&dir), specs::AUDIT_POLICY, 0o600)?;
        let ports = choose_ports(&dir)?;
        let surroundings = Surroundings { instance, dir: &dir, binaries, certs: &certs, ports, pods };
        let managed = |spec| Managed::new(spec, instance.recorder.clone());
        let etcd = managed(surroundings.etcd());
        let apiserver = managed(surroundings.apiserver());
        let manager_config = dir.join("controller-manager.kubeconfig");
        let controller_manager = managed(surroundings.controller_manager(&manager_config));
        let plane = Self { dir, ports, certs, etcd, apiserver, controller_manager };
        plane.write_client_config(&manager_config, "controller-manager")?;
        plane.write_client_config(&plane.admin_kubeconfig(), ADMIN)?;
        // kube-apiserver waits for etcd by itself.
        plane.etcd.start()?;
        plane.start_apiserver().await.context("start the control plane")?;
        plane.controller_manager.start()?;
        Ok(plane)
    }

    fn write_client_config(&self, path: &Path, name: &str) -> Result<()> {
        self.write_client_config_for(path, name, &self.server())
    }

    /// A kubeconfig with the certificate `name`, for a process that reaches the API at `server`.
    fn write_client_config_for(&self, path: &Path, name: &str, server: &str) -> Result<()> {
        let certificate = self.certs.certificate(name);
        let key = self.certs.key(name);
        let identity = Identity::Certificate { certificate: &certificate, key: &key };
        kubeconfig::write(path, server, &self.authority(), &identity)
    }

    /// The same for a process of the node, which reaches the API at `machine`.
    pub(crate) fn write_node_config(&self, path: &Path, name: &str, machine: Ipv4Addr) -> Result<()> {
        self.write_client_config_for(path, name, &format!("https://{machine}:{}", self.ports.apiserver))
    }

    /// kube-scheduler, which only pods need; not started yet.
    pub(crate) fn scheduler(&self, instance: &Instance, program: &Path) -> Result<Managed> {
        let config = self.dir.join("scheduler.kubeconfig");
        self.write_client_config(&config, "scheduler")?;
        Ok(Managed::new(specs::scheduler(instance, program, &config), instance.recorder.clone()))
    }

    /// The URL of the Kubernetes API.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.apiserver)
    }

    /// The certificate of the authority that signed the API's.
    pub fn authority(&self) -> PathBuf {
        self.certs.authority()
    }

    /// A kubeconfig with all rights.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig with all rights to `path`. Nothing else is needed to use it: it may be copied.
    ///
    /// # Errors
    /// When the certificates cannot be read or the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let (certificate, key) = (self.certs.certificate(ADMIN), self.certs.key(ADMIN));
        kubeconfig::write_portable(path, &self.server(), &self.authority(), &certificate, &key)
    }

    /// A new client with all rights. It lives as long as the runtime that it was made in.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.admin_kubeconfig()).await
    }

    /// etcd's process.
    pub fn etcd(&self) -> &Managed {
        &self.etcd
    }

    /// kube-apiserver's process.
    pub fn apiserver(&self) -> &Managed {
        &self.apiserver
    }

    /// kube-controller-manager's process.
    pub fn controller_manager(&self) -> &Managed {
        &self.controller_manager
    }

    /// The audit log: one JSON object a line for each write, see [`crate::audit`].
    pub fn audit_log(&self) -> PathBuf {
        Surroundings::audit_log(&self.dir)
    }

    /// Starts etcd after it was stopped or killed, and waits until the API serves again.
    ///
    /// # Errors
    /// When it runs already or does not become ready.
    pub async fn start_etcd(&self) -> Result<()> {
        self.etcd.start()?;
        self.wait_ready().await?;
        self.revive_controller_manager()
    }

    /// Starts kube-apiserver after it was stopped or killed, and waits until it serves.
    ///
    /// # Errors
    /// When it runs already or does not become ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.apiserver.start()?;
        self.wait_ready().await?;
        self.revive_controller_manager()
    }

    /// It ends by itself when the API is away while it starts.
    fn revive_controller_manager(&self) -> Result<()> {
        if self.controller_manager.is_wanted() && self.controller_manager.id().is_none() {
            self.controller_manager.start()?;
        }
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When etcd or kube-apiserver has ended, or readiness takes longer than two minutes.
    pub async fn wait_ready(&self) -> Result<()> {
        let client = self.client().await?;
        let ready = || async {
            for part in [&self.etcd, &self.apiserver] {
                if part.id().is_none() {
                    bail!(part.epitaph());
                }
            }
            Ok(is_ready(&client).await)
        };
        until(READY, "the Kubernetes API is ready", ready).await
    }

    /// The parts, in the order in which they are started.
    pub(crate) fn parts(&self) -> [&Managed; 3] {
        [&self.etcd, &self.apiserver, &self.controller_manager]
    }

    /// Stops all parts in good order.
    pub(crate) async fn stop(&self) {
        for part in self.parts().into_iter().rev() {
            part.stop(STOP).await;
        }
    }
}

impl PodNetwork {
    /// Under which addresses the node and its pods reach the Kubernetes API: the machine's, and that of the Service
    /// `kubernetes`, which is the first of all Services.
    fn server_addresses(&self) -> Vec<String> {
        let [a, b, c, _] = self.services.octets();
        vec![self.machine.to_string(), Ipv4Addr::new(a, b, c, 1).to_string()]
    }
}

/// A client with the identity of a kubeconfig file.
pub(crate) async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    let read = || async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // Retries of single requests hide what a test of failures wants to see; waiting is done where it is meant.
        config.default_retry = false;
        anyhow::Ok(kube::Client::try_from(config)?)
    };
    read().await.with_context(|| format!("a client of {}", kubeconfig.display()))
}

async fn is_ready(client: &kube::Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    matches!(tokio::time::timeout(PROBE, client.request_text(request)).await, Ok(Ok(answer)) if answer == "ok")
}

/// The ports of an earlier start if they are still free, so that configurations stay valid; else new ones.
fn choose_ports(dir: &Path) -> Result<Ports> {
    let path = dir.join("ports.json");
    let before = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
    if let Some(ports) = before
        && [ports.etcd, ports.etcd_peer, ports.apiserver].into_iter().all(ports::is_free)
    {
        return Ok(ports);
    }
    let [etcd, etcd_peer, apiserver] = ports::free()?;
    let ports = Ports { etcd, etcd_peer, apiserver };
    files::write_private(&path, serde_json::to_vec(&ports)?)?;
    Ok(ports)
}
