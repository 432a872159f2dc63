//! Starting a cluster.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use futures::future::{join_all, try_join, try_join_all};

use super::{Admin, Cluster};
use crate::{
    binaries::{self, ControlPlaneBinaries},
    components::Components,
    control_plane::ControlPlane,
    guest_image, image,
    instance::{self, Claim, Instance},
    libvirt_host::LibvirtHost,
    ports,
    process::ProcessId,
    random, tls,
};

/// The directory belongs to a cluster that runs.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a cluster runs in this directory already")]
pub struct AlreadyRunning {
    /// The process that runs it, where known.
    pub owner: Option<ProcessId>,
}

/// What to start. By default: one private libvirt host with the image `tiny`, all of Kvmoor's processes, free ports, and
/// a temporary directory.
#[derive(Clone, Debug)]
pub struct Builder {
    dir: Option<PathBuf>,
    hosts: usize,
    own_networks: bool,
    libvirt_uri: Option<String>,
    components: bool,
    start: bool,
    listen: Option<SocketAddr>,
    admin_password: Option<String>,
    env: Vec<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            dir: None,
            hosts: 1,
            own_networks: false,
            libvirt_uri: None,
            components: true,
            start: true,
            listen: None,
            admin_password: None,
            env: Vec::new(),
        }
    }
}

impl Builder {
    /// Keeps everything in `dir`, also after the end. The same directory continues with the same data.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// This many private libvirt hosts. With none there is only the control plane (and what does not need a host).
    #[must_use]
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// Whether each private host is in a network namespace of its own, as if it were another machine. Its guests are
    /// then not reached by their addresses.
    #[must_use]
    pub fn own_networks(mut self, own_networks: bool) -> Self {
        self.own_networks = own_networks;
        self
    }

    /// One host, which is the libvirt at `uri`, instead of private ones. It needs a storage pool and a network, both
    /// named `default` (or as `KVMOOR_STORAGE_POOL` and `KVMOOR_NETWORK` say), that run.
    #[must_use]
    pub fn libvirt_uri(mut self, uri: impl Into<String>) -> Self {
        self.libvirt_uri = Some(uri.into());
        self
    }

    /// Whether there are Kvmoor's objects and processes, or only the parts of others that they stand on.
    #[must_use]
    pub fn components(mut self, components: bool) -> Self {
        self.components = components;
        self
    }

    /// Prepares Kvmoor's processes but does not start them, for a test that starts them one by one.
    #[must_use]
    pub fn do_not_start_components(mut self) -> Self {
        self.start = false;
        self
    }

    /// Where Kvmoor's API server listens, instead of a free port of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = Some(listen);
        self
    }

    /// The password of the user `admin`, instead of a random one.
    #[must_use]
    pub fn admin_password(mut self, password: impl Into<String>) -> Self {
        self.admin_password = Some(password.into());
        self
    }

    /// An environment variable for all of Kvmoor's processes.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it all and waits until it is ready.
    ///
    /// # Errors
    /// [`AlreadyRunning`] when the directory is in use. Else: when a program is missing, or a part does not start.
    pub async fn start(self) -> Result<Cluster> {
        tls::install_provider();
        let temporary = self.dir.is_none();
        let dir = self.dir.clone().unwrap_or_else(temporary_dir);
        let instance = tokio::task::spawn_blocking(move || {
            instance::sweep()?;
            Instance::claim(&dir, temporary)
        });
        let instance = match instance.await?? {
            Claim::Owned(instance) => instance,
            Claim::Taken(owner) => return Err(AlreadyRunning { owner }.into()),
        };
        let (plane, hosts) = try_join(self.control_plane(&instance), self.libvirt_hosts(&instance)).await?;
        let (control_plane, kubectl) = plane;
        let listen = match self.listen {
            Some(listen) => listen,
            None => ports::loopback()?,
        };
        let password = self.admin_password.clone().unwrap_or_else(|| random::word(16));
        let admin = Admin { username: "admin".into(), password };
        let components = match self.components {
            true => Some(Components::prepare(&instance, &control_plane, &hosts, listen, &admin).await?),
            false => None,
        };
        let cluster = Cluster { components, hosts, control_plane, listen, admin, kubectl, instance };
        for part in cluster.processes() {
            for (name, value) in &self.env {
                part.set_env(name, Some(value));
            }
        }
        if self.components && self.start {
            tracing::info!("starting Kvmoor");
            cluster.start_components().await?;
        }
        Ok(cluster)
    }

    async fn control_plane(&self, instance: &Instance) -> Result<(ControlPlane, PathBuf)> {
        let binaries = ControlPlaneBinaries::ensure().await?;
        tracing::info!("starting etcd, kube-apiserver and kube-controller-manager");
        Ok((ControlPlane::start(instance, &binaries, None).await?, binaries.kubectl))
    }

    async fn libvirt_hosts(&self, instance: &Instance) -> Result<Vec<LibvirtHost>> {
        let hosts = match &self.libvirt_uri {
            Some(uri) => {
                tracing::info!("using the libvirt at {uri}");
                vec![LibvirtHost::existing(uri).await?]
            }
            None => {
                if self.hosts > 0 {
                    tracing::info!("starting {} libvirt host(s)", self.hosts);
                }
                // All are waited for, also when one fails: none may be left half started.
                let start = |index| LibvirtHost::start(instance, index, self.own_networks);
                let started = join_all((0..self.hosts).map(start)).await;
                started.into_iter().collect::<Result<_>>()?
            }
        };
        if self.components && !hosts.is_empty() {
            let image = guest_image::ensure(&binaries::cache_dir()?).await.context("make the guest image")?;
            let pool = std::env::var("KVMOOR_STORAGE_POOL").unwrap_or_else(|_| "default".into());
            let virsh: Vec<_> = hosts.iter().map(LibvirtHost::virsh).collect();
            try_join_all(virsh.iter().map(|virsh| image::upload(virsh, &pool, &image))).await?;
        }
        Ok(hosts)
    }
}

/// A directory for one run.
pub(crate) fn temporary_dir() -> PathBuf {
    std::env::temp_dir().join(format!("kvmoor-{}", random::word(12)))
}
