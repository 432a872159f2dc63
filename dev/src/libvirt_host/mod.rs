//! A libvirt host: either a private one (daemons of its own that see directories of their own, so that several live
//! side by side on one machine and nothing of the machine's own libvirt is touched), or the machine's own.

mod config;
mod daemons;
mod kvm;
mod members;
mod mounts;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{sys::signal::Signal, unistd::Uid};

use config::Dirs;
use daemons::Daemons;
pub use kvm::is_usable as kvm_is_usable;
pub(crate) use members::end_members;
pub use members::members;
pub use mounts::PrivateMounts;
pub(crate) use network::{remove_networks, reserve as reserve_network};

use crate::{
    deadline::until,
    files,
    instance::{Instance, NetworkRecord, Recorder},
    network_namespace::{NetworkNamespace, Purpose},
    process::{Managed, ProcessId, reap_orphans},
    virsh::Virsh,
};

/// Guests get this long to power off when they are asked to.
const GUEST_STOP: Duration = Duration::from_secs(10);

/// Where libvirt keeps the guests' pid files, below its run directory.
const GUESTS: &str = "qemu";
/// The same of the networks' dnsmasq.
const NETWORKS: &str = "network";
/// Among the pid files there is one of libvirtd itself.
const DRIVER: &str = "driver";

/// One libvirt host of a cluster.
#[derive(Debug)]
pub struct LibvirtHost {
    uri: String,
    own: Option<Own>,
}

/// What a private host has beyond a connection.
#[derive(Debug)]
struct Own {
    dirs: Dirs,
    daemons: Daemons,
    network: NetworkRecord,
    namespace: Option<NetworkNamespace>,
    recorder: Arc<Recorder>,
    /// Whether what is in the directories now is of another libvirt, with a network elsewhere.
    vacated: AtomicBool,
}

impl LibvirtHost {
    /// The libvirt that the machine runs by itself.
    pub(crate) async fn existing(uri: &str) -> Result<Self> {
        Virsh::new(uri).run(&["version"]).await.with_context(|| format!("connect to libvirt at {uri}"))?;
        Ok(Self { uri: uri.to_owned(), own: None })
    }

    /// Starts private host `index` of a cluster, with a NAT network and a storage pool, both named `default`. With
    /// `own_network` it is in a network namespace of its own, as if it were another machine: nobody else reaches its guests.
    pub(crate) async fn start(instance: &Instance, index: usize, own_network: bool) -> Result<Self> {
        if !Uid::effective().is_root() {
            bail!(
                "a private libvirt host needs root (mount namespace, bridge). \
                 Run as root, or set KVMOOR_LIBVIRT_URI (for example qemu:///system) to use the machine's own libvirt"
            );
        }
        let base = instance.dir.join("hosts").join(index.to_string());
        let dirs = Dirs::new(base.clone(), instance.run_dir.join(format!("h{index}")));
        dirs.write()?;
        for dir in Dirs::mount_points() {
            files::make_dir(Path::new(dir), 0o755)?;
        }
        instance.recorder.host(&dirs.run, own_network)?;
        let network = network_of(instance, index, &base)?;
        let socket = Daemons::socket(&dirs.run);
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let name = format!("host-{index}");
        let namespace = own_network.then(|| NetworkNamespace::prepare(instance, &name, dirs.mounts(), Purpose::Host));
        let holder = match &namespace {
            Some(namespace) => {
                namespace.make().await?;
                Some(namespace.holder()?)
            }
            None => None,
        };
        let daemons = Daemons::new(&name, &dirs, holder, instance)?;
        reap_orphans()?;
        let (recorder, vacated) = (instance.recorder.clone(), AtomicBool::new(false));
        let host = Self { uri, own: Some(Own { dirs, daemons, network, namespace, recorder, vacated }) };
        host.bring_up(&base).await.with_context(|| format!("start libvirt host {index}"))?;
        Ok(host)
    }

    async fn bring_up(&self, base: &Path) -> Result<()> {
        let own = self.own()?;
        own.daemons.start_virtlogd().await?;
        own.daemons.start_libvirtd(&self.virsh()).await?;
        let virsh = self.virsh();
        define_network(&virsh, base, &own.network).await?;
        virsh.run(&["net-start", "default"]).await?;
        if virsh.run(&["pool-info", "default"]).await.is_err() {
            virsh.run(&["pool-define-as", "default", "dir", "--target", Dirs::pool_target()]).await?;
            virsh.run(&["pool-autostart", "default"]).await?;
        }
        if !virsh.run(&["pool-list", "--name"]).await?.lines().any(|name| name.trim() == "default") {
            virsh.run(&["pool-start", "default"]).await?;
        }
        Ok(())
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this is the machine's own libvirt, which is not ours to start and stop")
    }

    /// The connection URI, usable by any process of this user.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// `virsh` on this host.
    pub fn virsh(&self) -> Virsh {
        Virsh::new(&self.uri)
    }

    /// libvirtd of a private host.
    ///
    /// # Errors
    /// When this is the machine's own libvirt.
    pub fn libvirtd(&self) -> Result<&Managed> {
        Ok(&self.own()?.daemons.libvirtd)
    }

    /// Ends libvirtd with SIGKILL. Guests live on.
    ///
    /// # Errors
    /// When this is the machine's own libvirt.
    pub async fn kill_libvirtd(&self) -> Result<()> {
        self.libvirtd()?.kill().await;
        Ok(())
    }

    /// Stops libvirtd in good order. Guests live on.
    ///
    /// # Errors
    /// When this is the machine's own libvirt.
    pub async fn stop_libvirtd(&self) -> Result<()> {
        self.libvirtd()?.stop(GUEST_STOP).await;
        Ok(())
    }

    /// Starts libvirtd again after one of the above and waits until it answers.
    ///
    /// # Errors
    /// When this is the machine's own libvirt, or libvirtd does not come up.
    pub async fn start_libvirtd(&self) -> Result<()> {
        self.own()?.daemons.start_libvirtd(&self.virsh()).await
    }

    /// The directory of the storage pool `default`; of a private host only.
    pub fn pool_dir(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.dirs.images())
    }

    /// The directory of libvirt's and the guests' logs; of a private host only.
    pub fn log_dir(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.dirs.log())
    }

    /// What a process must see to take each start of a private host for a boot of its machine.
    pub(crate) fn boot_id_mount(&self) -> Option<PrivateMounts> {
        self.own.as_ref().map(|own| own.dirs.boot_id_mount())
    }

    /// What a private host's processes see.
    pub(crate) fn mounts(&self) -> Option<PrivateMounts> {
        self.own.as_ref().map(|own| own.dirs.mounts())
    }

    /// Makes a private host one that has no libvirt: ends its daemons and guests, and removes all that they have written, but
    /// for logs. Its directories stay, empty, where another libvirt may find them, such as one in a pod. What that one runs is
    /// among [`Self::members`] and [`Self::guests`], and ends with this host; its network is that of whoever starts it.
    ///
    /// # Errors
    /// When this is the machine's own libvirt, or something does not end.
    pub async fn vacate(&self) -> Result<()> {
        let own = self.own()?;
        own.daemons.stop().await;
        // Not all members: the processes of a node are among them.
        let mut networks = processes(&own.dirs.run.join(NETWORKS));
        networks.remove(DRIVER);
        let left = self.guests().into_values().chain(networks.into_values());
        let left: Vec<ProcessId> = left.collect();
        for process in &left {
            process.signal(Signal::SIGKILL);
        }
        let ended = || async { Ok(!left.iter().any(|process| process.is_alive())) };
        until(GUEST_STOP, "guests and networks have ended", ended).await?;
        if own.namespace.is_none() {
            remove_networks(std::slice::from_ref(&own.network));
            remove_leftovers(&own.dirs.run);
        }
        own.vacated.store(true, Ordering::Release);
        own.recorder.network_elsewhere(&own.dirs.run)?;
        own.dirs.empty()
    }

    /// The bridge of the network `default`; of a private host only.
    pub fn bridge(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.network.bridge.as_str())
    }

    /// The QEMU process of each running domain of a private host, by domain name. Needs no libvirtd.
    pub fn guests(&self) -> BTreeMap<String, ProcessId> {
        let mut guests = self.own.as_ref().map(|own| processes(&own.dirs.run.join(GUESTS))).unwrap_or_default();
        guests.remove(DRIVER);
        guests
    }

    /// The QEMU process of a domain; `None` when it does not run.
    pub fn guest(&self, domain: &str) -> Option<ProcessId> {
        self.guests().remove(domain)
    }

    /// Every process of a private host: daemons, guests, dnsmasq.
    pub fn members(&self) -> Vec<ProcessId> {
        self.own.as_ref().map(|own| members(&own.dirs.run)).unwrap_or_default()
    }

    /// The host's daemons that may be supervised.
    pub(crate) fn daemons(&self) -> Vec<&Managed> {
        self.own.as_ref().map(|own| vec![&own.daemons.virtlogd, &own.daemons.libvirtd]).unwrap_or_default()
    }

    /// Asks guests to power off, waits for them for ten seconds and then stops them hard. On a private host these are
    /// all guests, on the machine's own libvirt the domains `ours` alone.
    pub(crate) async fn stop_guests(&self, ours: &BTreeSet<String>) -> Result<()> {
        let virsh = self.virsh();
        for domain in self.running(ours).await? {
            // A guest that is paused or still boots does not take it; the end below is for those.
            drop(virsh.run(&["shutdown", "--mode", "acpi", &domain]).await);
        }
        let off = || async { Ok(self.running(ours).await?.is_empty()) };
        drop(until(GUEST_STOP, "all guests are off", off).await);
        for domain in self.running(ours).await? {
            drop(virsh.run(&["destroy", &domain]).await);
        }
        Ok(())
    }

    async fn running(&self, ours: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut domains = self.virsh().running_domains().await?;
        domains.retain(|domain| self.own.is_some() || ours.contains(domain));
        Ok(domains)
    }

    /// Stops the daemons and ends what is left of the host.
    pub(crate) async fn stop(&self) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        own.daemons.stop().await;
        if let Some(namespace) = &own.namespace {
            namespace.release().await;
        }
        let run = own.dirs.run.clone();
        let is_here = own.namespace.is_none() && !own.vacated.load(Ordering::Acquire);
        let network = is_here.then(|| own.network.clone());
        let ended = tokio::task::spawn_blocking(move || {
            end_members(&run)?;
            if let Some(network) = network {
                remove_networks(&[network]);
                remove_leftovers(&run);
            }
            anyhow::Ok(())
        });
        ended.await?
    }
}

/// The processes that run of which there are pid files in `dir`, by the files' names.
fn processes(dir: &Path) -> BTreeMap<String, ProcessId> {
    let process = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.strip_suffix(".pid")?.to_owned();
        let id = ProcessId::of(fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?)?;
        Some((name, id))
    };
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(process).collect()
}

/// Removes what ended processes of a host leave in the network: bridges that Kvmoor made, and filters of interfaces.
pub(crate) fn remove_leftovers(run: &Path) {
    network::remove_leftovers(run);
}

/// Defines the network, unless it is defined like this from an earlier start: guests then keep their addresses.
async fn define_network(virsh: &Virsh, base: &Path, network: &NetworkRecord) -> Result<()> {
    let path = base.join("network.xml");
    let xml = config::network_xml(network)?;
    if virsh.run(&["net-info", "default"]).await.is_ok() {
        if fs::read_to_string(&path).is_ok_and(|before| before == xml) {
            return Ok(());
        }
        virsh.run(&["net-undefine", "default"]).await?;
    }
    files::write(&path, xml, 0o644)?;
    virsh.run(&["net-define", &path.to_string_lossy()]).await?;
    Ok(())
}

/// The network that the host had before, if it is still free, or a new one.
fn network_of(instance: &Instance, index: usize, base: &Path) -> Result<NetworkRecord> {
    let path = base.join("network.json");
    let before = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<NetworkRecord>(&bytes).ok());
    let wish = before.map(|network| network.subnet);
    let network = network::reserve(&instance.id, index, wish, &instance.recorder)?;
    files::write(&path, serde_json::to_vec(&network)?, 0o644)?;
    Ok(network)
}
