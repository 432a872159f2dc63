//! The cluster, Helm's release on it, and a session of its first admin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Api;
use kube::api::ListParams;
use kvmoor_crds::names;
use kvmoor_dev::container_images::Images;
use kvmoor_dev::{PodCluster, SYSTEM_NAMESPACE, checkout_root};
use kvmoor_tests::rest::Rest;
use kvmoor_tests::wait;

/// Helm and pods, on a busy machine.
pub const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(60);

/// The release's name.
pub const RELEASE: &str = "kvmoor";
/// The tags of the images: the second differs from the first by a label only, and that is another image.
pub const TAGS: [&str; 2] = ["first", "second"];

/// A cluster with both versions of the images, and perhaps the release on it.
pub struct Installation {
    pub cluster: PodCluster,
    /// What the machine had before.
    before: Machine,
    work: PathBuf,
}

impl Installation {
    /// Starts the cluster and builds the images from the programs beside this one.
    pub async fn start() -> Result<Self> {
        let before = Machine::look()?;
        let program = std::env::current_exe()?;
        let programs = program.ancestors().nth(2).context("a test runs in `deps`")?.to_owned();
        let work = std::env::temp_dir().join(format!("kvmoor-cluster-test-{}", std::process::id()));
        std::fs::create_dir_all(&work)?;
        let images = |number: usize| Images {
            programs: programs.clone(),
            out: work.join("images"),
            tag: TAGS[number].to_owned(),
            label: Some(format!("kvmoor.dev/build={number}")),
            strip: true,
        };
        let cluster = PodCluster::start(None, &images(0)).await?;
        for number in 0..TAGS.len() {
            images(number).install(cluster.node()).await?;
        }
        images(0).install_libvirt(cluster.node()).await?;
        Ok(Self { cluster, before, work })
    }

    /// Runs Helm in the release's namespace.
    pub async fn helm(&self, words: &[&str]) -> Result<String> {
        self.cluster.helm(&[words, &["--namespace", SYSTEM_NAMESPACE]].concat(), LONG).await
    }

    /// Runs kubectl.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster.kubectl(words, LONG).await
    }

    /// Writes a file for kubectl or Helm.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.work.join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// The chart as a later version of it, with a change that each pod sees.
    pub fn later_chart(&self) -> Result<PathBuf> {
        let chart = self.work.join("chart");
        copy(&checkout_root().join("charts/kvmoor"), &chart)?;
        let file = chart.join("Chart.yaml");
        let text = std::fs::read_to_string(&file)?;
        let version =
            |line: &str| line.strip_prefix("version: ").map(|version| format!("version: {version}-later.1\n"));
        let text: String = text.lines().map(|line| version(line).unwrap_or_else(|| format!("{line}\n"))).collect();
        std::fs::write(&file, text)?;
        Ok(chart)
    }

    /// Where the API is: the address of its Service.
    pub async fn url(&self) -> Result<String> {
        let services: Api<Service> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let spec = services.get("kvmoor-api-server").await?.spec.context("a spec")?;
        Ok(format!("http://{}:80", spec.cluster_ip.context("an address")?))
    }

    /// A session of the first admin, whose password only the cluster knows.
    pub async fn admin(&self) -> Result<Rest> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let data = secrets.get(names::ADMIN_SECRET).await?.data.context("data")?;
        let word = |key: &str| anyhow::Ok(String::from_utf8(data.get(key).context("a key")?.0.clone())?);
        let (username, password) = (word("username")?, word("password")?);
        let rest = Rest::new(&self.url().await?)?;
        let what = "the first admin can log in";
        let session = || rest.login(&username, &password);
        // A session has a token in it, which no failure is to show.
        let logged_in = || async { session().await.map(drop) };
        wait::until(what, SHORT, logged_in, |()| true).await?;
        session().await
    }

    /// The images that the installation's pods run, once there are no others.
    pub async fn until_images(&self, tag: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let look = || async {
            let list = pods.list(&ListParams::default()).await?;
            let containers = list.items.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
            Ok(containers.filter_map(|container| container.image).collect::<BTreeSet<_>>())
        };
        let suffix = format!(":{tag}");
        let all = |images: &BTreeSet<String>| images.len() == 3 && images.iter().all(|image| image.ends_with(&suffix));
        wait::until(&format!("all pods run {tag}"), LONG, look, all).await?;
        Ok(())
    }

    /// For a failure.
    pub async fn print_state(&self) {
        let commands = [
            vec!["get", "pods,kvm,kvmhost,nodes", "-A", "-o", "wide"],
            vec!["get", "events", "-A", "--sort-by=.lastTimestamp"],
            vec!["logs", "-n", SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=kvmoor", "--prefix", "--tail=40"],
            vec!["describe", "pods", "-n", SYSTEM_NAMESPACE],
        ];
        for words in commands {
            match self.cluster.kubectl(&words, SHORT).await {
                Ok(text) => eprintln!("---- kubectl {}\n{text}", words.join(" ")),
                Err(error) => eprintln!("---- kubectl {}: {error:#}", words.join(" ")),
            }
        }
        for name in ["kubelet", "containerd", "kube-proxy", "coredns"] {
            let log = std::fs::read_to_string(self.cluster.dir().join(format!("logs/{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or_default();
            eprintln!("---- the end of {name}'s log\n{}", tail.join("\n"));
        }
    }

    /// Ends the cluster and looks whether anything is left of it.
    pub async fn end(self) -> Result<()> {
        let Self { cluster, before, work } = self;
        let dir = cluster.dir().to_owned();
        let bridge = cluster.host().bridge().context("a private host")?;
        // All interfaces of a cluster have names that begin alike.
        let ours = bridge.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        cluster.stop().await?;
        std::fs::remove_dir_all(work)?;
        ensure!(!dir.exists(), "its directory is left");
        let look = || async { Machine::look() };
        let same = |now: &Machine| now.added_to(&before).is_empty();
        wait::until("the machine is as it was", SHORT, look, same).await?;
        let left = mentions(&ours)?;
        ensure!(left.is_empty(), "interfaces and firewall rules are left: {left:?}");
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Interfaces whose names begin with `ours`, and firewall rules about them.
fn mentions(ours: &str) -> Result<Vec<String>> {
    let interfaces = std::fs::read_dir("/sys/class/net")?.flatten().filter_map(|e| e.file_name().into_string().ok());
    let rules = firewall()?;
    Ok(interfaces.chain(rules).filter(|line| line.contains(ours)).collect())
}

/// The machine's firewall, a line a chain or rule.
fn firewall() -> Result<Vec<String>> {
    let output = Command::new("iptables-save").output().context("run iptables-save")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// The chain that a line declares. libvirt's own stay, as on every machine that has it.
fn chain(line: String) -> Option<String> {
    let name = line.strip_prefix(':')?.split(' ').next()?;
    (!name.starts_with("LIBVIRT_")).then(|| name.to_owned())
}

/// What a cluster adds to a machine, besides files of its own.
#[derive(Debug)]
struct Machine {
    mounts: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    programs: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    chains: BTreeSet<String>,
}

impl Machine {
    fn look() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?.lines().map(str::to_owned).collect();
        let names =
            |dir: &str| anyhow::Ok(std::fs::read_dir(dir)?.flatten().filter_map(|e| e.file_name().into_string().ok()));
        // Other clusters may come and go beside this one.
        let interfaces = names("/sys/class/net")?.filter(|name| !name.starts_with("kvm-")).collect();
        let command = |pid: String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = ["containerd", "/kubelet", "kube-proxy", "coredns"].iter().any(|name| line.contains(name));
            ours.then(|| format!("{pid} {line}"))
        };
        let programs = names("/proc")?.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).filter_map(command);
        // Whatever a container has started is in one of these, in either version of control groups.
        let hierarchies = names("/sys/fs/cgroup")?.map(|name| format!("/sys/fs/cgroup/{name}/k8s.io"));
        let groups = hierarchies.chain(["/sys/fs/cgroup/k8s.io".to_owned()]);
        let containers = groups.filter_map(|dir| names(&dir).ok()).flatten();
        // Where guests of a libvirt in a pod are.
        let guests = names("/sys/fs/cgroup")?.map(|name| format!("/sys/fs/cgroup/{name}/kvmoor-libvirt"));
        let guests = guests.chain(["/sys/fs/cgroup/kvmoor-libvirt".to_owned()]).filter(|dir| Path::new(dir).exists());
        let cgroups = containers.chain(guests).collect();
        let chains = firewall()?.into_iter().filter_map(chain).collect();
        Ok(Self { mounts, interfaces, programs: programs.collect(), cgroups, chains })
    }

    fn added_to(&self, before: &Self) -> Vec<String> {
        let pairs = [
            (&self.mounts, &before.mounts),
            (&self.interfaces, &before.interfaces),
            (&self.programs, &before.programs),
            (&self.cgroups, &before.cgroups),
            (&self.chains, &before.chains),
        ];
        pairs.into_iter().flat_map(|(now, before)| now.difference(before)).cloned().collect()
    }
}
