//! The first virtual machine from an image that must be fetched, and 20 at once from one that is there, beside what an
//! administrator types for it: `curl`, `sha256sum`, `qemu-img create -b`, `virsh define` and `virsh start`.
//!
//! The image holds noise and no system: what is measured ends when QEMU runs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::await_condition;
use kvmoor_crds::{Image, Phase, VirtualMachine, names};
use kvmoor_dev::Cluster;
use kvmoor_dev::virsh::Virsh;
use kvmoor_tests::files::{Files, Serve};
use kvmoor_tests::vm::{TestVm, in_phase};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Command;
use uuid::Uuid;

use crate::NAMESPACE;
use crate::figures::Figures;

/// Size of the image, in MiB.
const SIZE: usize = 256;
/// Virtual machines at once.
const MANY: usize = 20;
/// A loaded machine has done it by then.
const DEADLINE: Duration = Duration::from_secs(120);
/// Name of the file that is fetched without Kvmoor.
const FETCHED: &str = "bench-fetched.qcow2";

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let pool = cluster.host(0)?.pool_dir().context("a private host has a pool directory")?;
    let file = noise(&cluster.dir().join("bench-image")).await?;
    let sha256: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    let files = Files::start().await?;
    let url = files.serve("/image", Serve::File(Arc::new(file)));

    let images: Api<Image> = Api::all(cluster.client().await?);
    let image = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Image", "metadata": { "name": "bench" },
        "spec": { "url": url, "sha256": sha256, "format": "qcow2" },
    });
    images.create(&PostParams::default(), &serde_json::from_value(image)?).await?;
    let start = Instant::now();
    let model = create(cluster, "bench-first".to_owned()).await?;
    let first = start.elapsed();

    let raw = Raw::of(cluster, &model, pool).await?;
    let start = Instant::now();
    raw.fetch(&url, &sha256).await?;
    let domain = raw.create().await?;
    let first_raw = start.elapsed();
    raw.remove(&domain).await?;
    tell(figures, "image_first", first_raw, first);

    let (domains, raw_times) = at_once((0..MANY).map(|_| raw.create())).await?;
    for domain in &domains {
        raw.remove(domain).await?;
    }
    let (vms, times) = at_once((0..MANY).map(|n| create(cluster, format!("bench-{n}")))).await?;
    // Those that run take the processors from those that do not yet, and Kvmoor starts some before others: the last one
    // alone would say that to have half of them soon is worse than to have none.
    tell(figures, "image_20_at_once_half", middle(&raw_times), middle(&times));
    tell(figures, "image_20_at_once", last(&raw_times), last(&times));

    try_join_all(vms.into_iter().chain([model]).map(TestVm::remove)).await?;
    images.delete("bench", &DeleteParams::default()).await?;
    Ok(())
}

/// Does all at once: the results, and when each was there, in order.
async fn at_once<T>(
    creations: impl Iterator<Item = impl Future<Output = Result<T>>>,
) -> Result<(Vec<T>, Vec<Duration>)> {
    let start = Instant::now();
    let timed = creations.map(|creation| async move { Ok::<_, anyhow::Error>((creation.await?, start.elapsed())) });
    let (made, mut times): (Vec<_>, Vec<_>) = try_join_all(timed).await?.into_iter().unzip();
    times.sort_unstable();
    Ok((made, times))
}

fn middle(times: &[Duration]) -> Duration {
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn last(times: &[Duration]) -> Duration {
    times.last().copied().unwrap_or_default()
}

fn tell(figures: &mut Figures, name: &str, raw: Duration, ours: Duration) {
    let (raw, ours) = (raw.as_secs_f64() * 1000.0, ours.as_secs_f64() * 1000.0);
    figures.add(&format!("{name}_raw"), raw, "ms");
    figures.add(name, ours, "ms");
    figures.add(&format!("{name}_ratio"), ours / raw, "x");
}

/// A qcow2 file of noise.
async fn noise(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![0; SIZE << 20];
    for (block, chunk) in bytes.chunks_mut(32).enumerate() {
        chunk.copy_from_slice(&Sha256::digest(block.to_le_bytes()));
    }
    let (raw, qcow2) = (path.with_extension("raw"), path.with_extension("qcow2"));
    tokio::fs::write(&raw, bytes).await?;
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &qcow2])).await?;
    let file = tokio::fs::read(&qcow2).await?;
    tokio::fs::remove_file(&raw).await?;
    tokio::fs::remove_file(&qcow2).await?;
    Ok(file)
}

/// Creates a virtual machine from the image and waits until it is Running. By a watch: to ask for 20 all the time keeps the
/// Kubernetes API from what is measured.
async fn create(cluster: &Cluster, name: String) -> Result<TestVm<'_>> {
    let spec = json!({ "cpu": 1, "memory": "64Mi", "osType": "bench", "terminationGracePeriodSeconds": 1 });
    let vm = TestVm::create(cluster, NAMESPACE, &name, spec).await?;
    let api: Api<VirtualMachine> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let runs =
        await_condition(api, &name, |vm: Option<&VirtualMachine>| vm.is_some_and(|vm| in_phase(vm, Phase::Running)));
    tokio::time::timeout(DEADLINE, runs).await.with_context(|| format!("{name} does not run"))??;
    Ok(vm)
}

/// What is done without Kvmoor, for domains that differ from one of its own in nothing but their names.
struct Raw {
    virsh: Virsh,
    uid: String,
    xml: String,
    /// The pool's directory, as it is here and as libvirt sees it.
    pool: (PathBuf, String),
}

impl Raw {
    async fn of(cluster: &Cluster, model: &TestVm<'_>, pool: PathBuf) -> Result<Self> {
        let virsh = cluster.host(0)?.virsh();
        let root = names::root_volume(model.uid());
        let path = virsh.run(&["vol-path", "--pool", "default", &root]).await?;
        let inside = path.trim().strip_suffix(&format!("/{root}")).context("the path of a volume")?.to_owned();
        let xml = virsh.run(&["dumpxml", "--inactive", &model.domain()]).await?;
        // Files, so that the pool need not be read anew for each.
        let xml = xml.replace("<disk type='volume'", "<disk type='file'");
        let xml = xml.replace("<source pool='default' volume='", &format!("<source file='{inside}/"));
        ensure!(xml.contains(&format!("<source file='{inside}/{root}'")), "{xml}");
        Ok(Self { virsh, uid: model.uid().to_owned(), xml, pool: (pool, inside) })
    }

    async fn fetch(&self, url: &str, sha256: &str) -> Result<()> {
        let file = self.pool.0.join(FETCHED);
        run(Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", "--output"]).arg(&file).arg(url))
            .await?;
        let sum = run(Command::new("sha256sum").arg(&file)).await?;
        ensure!(sum.starts_with(sha256), "{sum}");
        Ok(())
    }

    /// One more domain on the file that was fetched: its UUID.
    async fn create(&self) -> Result<String> {
        let uid = Uuid::new_v4().to_string();
        let (root, seed) = (names::root_volume(&uid), names::seed_volume(&uid));
        let backing = format!("{}/{FETCHED}", self.pool.1);
        let overlay = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &backing];
        run(Command::new("qemu-img").args(overlay).arg(self.pool.0.join(root)).arg("10G")).await?;
        tokio::fs::copy(self.pool.0.join(names::seed_volume(&self.uid)), self.pool.0.join(seed)).await?;
        let mac = |uid: &str| names::mac_address(uid, "default");
        let xml = self.xml.replace(&self.uid, &uid).replace(&mac(&self.uid), &mac(&uid));
        let file = self.pool.0.join(format!("{uid}.xml"));
        tokio::fs::write(&file, xml).await?;
        self.virsh.run(&["define", file.to_str().context("a path in UTF-8")?]).await?;
        self.virsh.run(&["start", &names::domain(&uid)]).await?;
        tokio::fs::remove_file(&file).await?;
        Ok(uid)
    }

    async fn remove(&self, uid: &str) -> Result<()> {
        self.virsh.run(&["destroy", &names::domain(uid)]).await?;
        self.virsh.run(&["undefine", &names::domain(uid)]).await?;
        for volume in [names::root_volume(uid), names::seed_volume(uid)] {
            tokio::fs::remove_file(self.pool.0.join(volume)).await?;
        }
        Ok(())
    }
}

/// What a command printed.
async fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(DEADLINE, output).await.context("it takes too long")??;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
