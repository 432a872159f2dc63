//! The files and command lines of a node's parts: containerd, kubelet, kube-proxy, CoreDNS.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{files, instance::Instance, libvirt_host::PrivateMounts};

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "localhost/kvmoor-pause:dev";
/// The right to make a process less likely to be killed when memory is short. Sandboxes have it not.
const CAP_SYS_RESOURCE: u32 = 24;

/// Directories of a node, as seen from outside. Inside, each is where the programs look for it by themselves.
#[derive(Clone, Debug)]
pub(super) struct Dirs {
    base: PathBuf,
    /// `/run/containerd`, on a short path.
    run: PathBuf,
}

impl Dirs {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { base: instance.dir.join("node"), run: instance.run_dir.join("containerd") }
    }

    fn binds(&self) -> [(PathBuf, &'static str); 8] {
        [
            (self.run.clone(), "/run/containerd"),
            (self.base.join("containerd"), "/var/lib/containerd"),
            (self.base.join("kubelet"), "/var/lib/kubelet"),
            (self.base.join("cni"), "/etc/cni/net.d"),
            (self.base.join("cni-state"), "/var/lib/cni"),
            (self.base.join("netns"), "/run/netns"),
            (self.base.join("pods"), "/var/log/pods"),
            (self.base.join("containers"), "/var/log/containers"),
        ]
    }

    /// Makes the directories, and the places that they are seen at.
    pub(super) fn make(&self) -> Result<()> {
        for (source, target) in self.binds() {
            files::make_dir(&source, 0o711)?;
            files::make_dir(Path::new(target), 0o755)?;
        }
        Ok(())
    }

    /// The view of the node's processes: that of its libvirt host, and these directories.
    pub(super) fn mounts(&self, host: PrivateMounts) -> PrivateMounts {
        self.binds().into_iter().fold(host, |mounts, (source, target)| mounts.bind(source, target))
    }

    /// In which containerd has a directory for each container.
    pub(super) fn tasks(&self) -> PathBuf {
        self.run.join("io.containerd.runtime.v2.task/k8s.io")
    }

    pub(super) fn containerd_config(&self) -> PathBuf {
        self.base.join("containerd.toml")
    }

    pub(super) fn kubelet_config(&self) -> PathBuf {
        self.base.join("kubelet.yaml")
    }

    pub(super) fn proxy_config(&self) -> PathBuf {
        self.base.join("proxy.yaml")
    }

    pub(super) fn kubeconfig(&self, of: &str) -> PathBuf {
        self.base.join(format!("{of}.kubeconfig"))
    }

    pub(super) fn corefile(&self) -> PathBuf {
        self.base.join("Corefile")
    }

    /// Writes all configuration. `address` is the node's.
    pub(super) fn write(&self, authority: &Path, pods: Ipv4Addr, address: Ipv4Addr) -> Result<()> {
        files::write(&self.containerd_config(), containerd(), 0o644)?;
        files::write(&self.base.join("cni/10-kvmoor.conflist"), serde_json::to_vec_pretty(&cni(pods))?, 0o644)?;
        files::write(&self.kubelet_config(), serde_yaml::to_string(&kubelet(authority, address))?, 0o644)?;
        files::write(&self.corefile(), corefile(&self.kubeconfig("coredns"), address), 0o644)?;
        let proxy = proxy(&self.kubeconfig("kube-proxy"), pods);
        files::write(&self.proxy_config(), serde_yaml::to_string(&proxy)?, 0o644)
    }
}

fn containerd() -> String {
    let restrict = !may_change_oom_scores(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    format!(
        r#"# Written by kvmoor-dev.
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = {restrict}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{}"
    conf_dir = "/etc/cni/net.d"
"#,
        cni_plugins().display()
    )
}

/// Where the distribution has put the CNI plugins.
fn cni_plugins() -> &'static Path {
    let places = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].map(Path::new);
    places.into_iter().find(|dir| dir.join("ptp").exists()).unwrap_or(Path::new("/opt/cni/bin"))
}

/// Whether a process with this `/proc/PID/status` has [`CAP_SYS_RESOURCE`].
fn may_change_oom_scores(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}

/// A link for each pod and no bridge: all that pods say to each other is routed, so it meets kube-proxy's rules also
/// where the kernel does not show them what crosses a bridge.
fn cni(pods: Ipv4Addr) -> Value {
    let range = json!([[{ "subnet": format!("{pods}/24") }]]);
    let ptp = json!({
        "type": "ptp",
        "ipMasq": false,
        "ipam": { "type": "host-local", "ranges": range, "routes": [{ "dst": "0.0.0.0/0" }] },
    });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "0.4.0", "name": "kvmoor", "plugins": [ptp, portmap] })
}

fn kubelet(authority: &Path, dns: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": authority },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        // Images cannot be fetched again, and a full disk is the developer's own business.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "0%", "imagefs.inodesFree": "0%", "memory.available": "0%",
            "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        },
        // Names of the cluster and no others: it is not connected to anything.
        "clusterDNS": [dns],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
    })
}

fn corefile(kubeconfig: &Path, address: Ipv4Addr) -> String {
    format!(
        "# Written by kvmoor-dev.\n.:53 {{\n    bind {address}\n    errors\n    kubernetes cluster.local {{\n        \
         kubeconfig {}\n        ttl 5\n    }}\n}}\n",
        kubeconfig.display()
    )
}

fn proxy(kubeconfig: &Path, pods: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": format!("{pods}/24"),
        "clientConnection": { "kubeconfig": kubeconfig },
        // The machine's settings are left alone.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "metricsBindAddress": "127.0.0.1:10249",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_is_a_bit_of_the_effective_set() {
        assert!(may_change_oom_scores("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_change_oom_scores("CapEff:\t000001fffeffffff\n"));
        assert!(!may_change_oom_scores(""));
    }
}
