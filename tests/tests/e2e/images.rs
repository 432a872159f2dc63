//! Images from a real HTTP server: imported once, whole or not at all, and only from where it is allowed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Host, Image, Phase};
use kvmoor_tests::files::{Files, Serve};
use kvmoor_tests::vm::{SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::{pool, wait};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crash::{Ended, MOST, arm, converge};
use crate::shared::Shared;
use crate::trouble::SmallPool;

const ALLOWED: &str = "KVMOOR_IMAGE_SOURCES_ALLOWED";
pub const KEEP: &str = "KVMOOR_KEEP_UNUSED_IMAGES";

/// The qcow2 file of the image `tiny`, with so many zeros after its end: another file, the same disk.
pub fn tiny_file(shared: &Shared, more: usize) -> Result<Arc<Vec<u8>>> {
    let pool = shared.cluster.host(0)?.pool_dir().context("a private host has a pool directory")?;
    let mut bytes = std::fs::read(pool.join("kvmoor-image-tiny.qcow2"))?;
    bytes.resize(bytes.len() + more, 0);
    Ok(Arc::new(bytes))
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An Image in the Kubernetes API.
pub struct TestImage {
    api: Api<Image>,
    pub name: String,
    sha256: String,
}

impl TestImage {
    pub async fn create(shared: &Shared, name: &str, url: &str, sha256: &str, format: &str) -> Result<Self> {
        let api: Api<Image> = Api::all(shared.cluster.client().await?);
        let image = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Image", "metadata": { "name": name },
            "spec": { "url": url, "sha256": sha256, "format": format },
        });
        api.create(&PostParams::default(), &serde_json::from_value(image)?).await?;
        Ok(Self { api, name: name.to_owned(), sha256: sha256.to_owned() })
    }

    /// One that is there.
    pub async fn named(shared: &Shared, name: &str, sha256: &str) -> Result<Self> {
        let api = Api::all(shared.cluster.client().await?);
        Ok(Self { api, name: name.to_owned(), sha256: sha256.to_owned() })
    }

    /// The spec of a small virtual machine with it.
    pub fn spec(&self) -> Value {
        with(tiny(), json!({ "osType": self.name }))
    }

    /// What the pool holds of it.
    pub async fn volumes(&self, shared: &Shared) -> Result<BTreeSet<String>> {
        let prefix = format!("kvmoor-import-{}", self.sha256);
        let all = pool::volumes(&shared.cluster.host(0)?.virsh()).await?;
        Ok(all.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    }

    /// Checks that it is there once: its bytes, as the server gave them, and its record.
    pub async fn check_whole(&self, shared: &Shared) -> Result<()> {
        let volumes = self.volumes(shared).await?;
        let records = volumes.iter().filter(|name| name.ends_with(".record")).count();
        ensure!(volumes.len() == 2 && records == 1, "one volume and one record, not {volumes:?}");
        let pool = shared.cluster.host(0)?.pool_dir().context("a private host has a pool directory")?;
        let volume = volumes.iter().find(|name| !name.ends_with(".record")).context("just counted")?;
        ensure!(sha256(&std::fs::read(pool.join(volume))?) == self.sha256, "the volume is what was asked for");
        Ok(())
    }

    pub async fn until_nothing_is_left(&self, shared: &Shared) -> Result<()> {
        let what = format!("nothing of {} is left in the pool", self.name);
        wait::until(&what, SOON, || self.volumes(shared), BTreeSet::is_empty).await.map(drop)
    }

    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// What the first host says of an image, and of its import.
async fn host_says(shared: &Shared, image: &str) -> Result<(bool, Option<String>)> {
    let hosts: Api<Host> = Api::all(shared.cluster.client().await?);
    let status = hosts.get(&shared.cluster.node_name(0)).await?.status.unwrap_or_default();
    let import = status.image_imports.into_iter().find(|import| import.name == image).map(|import| import.reason);
    Ok((status.images.iter().any(|present| present.name == image), import))
}

/// Starts the node controller anew with that in its environment.
pub async fn restart_with(shared: &Shared, name: &str, value: &str) -> Result<()> {
    let process = shared.cluster.node_controller(0)?;
    process.kill().await;
    process.set_env(name, Some(value));
    process.start()?;
    shared.cluster.wait_ready().await
}

pub async fn imported_once_for_all_that_wait(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-once").await?;
    let files = Files::start().await?;
    let file = tiny_file(shared, 512)?;
    // How far it is is told every 10 s.
    files.serve("/tiny", Serve::Slowly(file.clone(), Duration::from_secs(25)));
    let url = files.serve("/moved", Serve::Redirect("/tiny".into()));
    let image = TestImage::create(shared, "imported", &url, &sha256(&file), "qcow2").await?;
    let first = TestVm::create(&shared.cluster, &namespace, "first", image.spec()).await?;
    let second = TestVm::create(&shared.cluster, &namespace, "second", image.spec()).await?;
    for vm in [&first, &second] {
        let message = vm.until_condition(types::PROVISIONED, "False", "ImageImporting").await?;
        ensure!(message.contains("imported"), "it names the image: {message}");
        let phase = vm.get().await?.status.and_then(|status| status.phase);
        ensure!(phase == Some(Phase::Provisioning), "Provisioning, not {phase:?}");
        ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing of it in libvirt yet");
    }
    let told = |(_, import): &(bool, Option<String>)| import.as_deref() == Some("ImageImporting");
    wait::until("the host tells of the import", SOON, || host_says(shared, "imported"), told).await?;
    let says_percent = |vm: &kvmoor_crds::VirtualMachine| {
        let message = vm.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        message.contains(" % of ")
    };
    first.until("tells how far it is", SOON, says_percent).await?;
    for vm in [&first, &second] {
        vm.until_phase(Phase::Running).await?;
        vm.until_condition(types::PROVISIONED, "True", "Provisioned").await?;
    }
    ensure!(first.until_booted().await? == "first", "the guest runs from the image");
    ensure!((files.requests("/moved"), files.requests("/tiny")) == (1, 1), "one download for both");
    image.check_whole(shared).await?;
    let present = |(present, import): &(bool, Option<String>)| *present && import.is_none();
    wait::until("the host has it", SOON, || host_says(shared, "imported"), present).await?;
    // The next one starts from what is there.
    let third = TestVm::create(&shared.cluster, &namespace, "third", image.spec()).await?;
    third.until_phase(Phase::Running).await?;
    ensure!(files.requests("/moved") == 1, "no further download");
    image.delete().await?;
    for vm in [first, second, third] {
        vm.remove().await?;
    }
    shared.drop_namespace(&namespace).await
}

pub async fn what_is_wrong_is_said_and_nothing_is_left(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-wrong").await?;
    let files = Files::start().await?;
    let good = tiny_file(shared, 0)?;
    let mut evil = good.to_vec();
    // A backing file: the name stands behind the header's extensions.
    evil[8..16].copy_from_slice(&2048_u64.to_be_bytes());
    evil[16..20].copy_from_slice(&11_u32.to_be_bytes());
    evil[2048..2059].copy_from_slice(b"/etc/passwd");
    let mut huge = good.to_vec();
    huge[24..32].copy_from_slice(&(1_u64 << 55).to_be_bytes());
    let (evil, huge) = (Arc::new(evil), Arc::new(huge));
    let sum = sha256(&good);
    let dead = { Files::start().await?.url("/") };
    let to_metadata = files.serve("/to-metadata", Serve::Redirect("gopher://127.0.0.1/".into()));
    let cases: [(&str, String, String, &str, &str, &str); 9] = [
        ("sum", files.serve("/sum", Serve::File(good.clone())), "0".repeat(64), "qcow2", "ImageChecksumMismatch", &sum),
        ("dead", dead, sum.clone(), "qcow2", "ImageDownloadFailed", "127.0.0.1"),
        ("missing", files.url("/missing"), sum.clone(), "qcow2", "ImageDownloadFailed", "404"),
        ("half", files.serve("/half", Serve::Half(good.clone())), sum.clone(), "qcow2", "ImageDownloadFailed", ""),
        ("endless", files.serve("/endless", Serve::Endless), sum.clone(), "raw", "ImageInvalid", "larger than"),
        ("evil", files.serve("/evil", Serve::File(evil.clone())), sha256(&evil), "qcow2", "ImageInvalid", "backing"),
        ("huge", files.serve("/huge", Serve::File(huge.clone())), sha256(&huge), "qcow2", "ImageInvalid", "size"),
        ("raw", files.serve("/raw", Serve::File(good.clone())), sum.clone(), "raw", "ImageInvalid", "qcow2"),
        ("scheme", to_metadata, sum.clone(), "qcow2", "ImageSourceRefused", "gopher"),
    ];
    for (name, url, sum, format, reason, words) in cases {
        let image = TestImage::create(shared, name, &url, &sum, format).await?;
        let vm = TestVm::create(&shared.cluster, &namespace, name, image.spec()).await?;
        let message = vm.until_condition(types::PROVISIONED, "False", reason).await?;
        ensure!(message.contains(words) && message.contains(name), "{name}: {message}");
        let phase = vm.get().await?.status.and_then(|status| status.phase);
        ensure!(phase == Some(Phase::Error), "{name}: Error, not {phase:?}");
        ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "{name}: nothing in libvirt");
        image.until_nothing_is_left(shared).await?;
        vm.remove().await?;
        image.delete().await?;
    }
    ensure!(files.sent("/endless") < 512 << 20, "what has no end is broken off");
    // A server that comes to its senses: it is tried again.
    let url = files.url("/late");
    let file = tiny_file(shared, 1024)?;
    let image = TestImage::create(shared, "late", &url, &sha256(&file), "qcow2").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "late", image.spec()).await?;
    vm.until_condition(types::PROVISIONED, "False", "ImageDownloadFailed").await?;
    files.serve("/late", Serve::File(file));
    vm.until("is Running", Duration::from_secs(60), |vm| in_phase(vm, Phase::Running)).await?;
    image.check_whole(shared).await?;
    vm.remove().await?;
    image.delete().await?;
    shared.drop_namespace(&namespace).await
}

/// Nobody said how large the file is, and the room that there was at first goes while it comes.
pub async fn the_pool_fills_up_meanwhile(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-full").await?;
    let files = Files::start().await?;
    let file = tiny_file(shared, 16 << 20)?;
    let pool = SmallPool::mount(shared, 192).await?;
    let url = files.serve("/unsized", Serve::Unsized(file.clone(), Duration::from_secs(8)));
    let image = TestImage::create(shared, "unsized", &url, &sha256(&file), "qcow2").await?;
    let spec = with(image.spec(), json!({ "disk": { "size": "1Gi" } }));
    let vm = TestVm::create(&shared.cluster, &namespace, "unsized", spec).await?;
    let sent = || async { Ok(files.sent("/unsized")) };
    wait::until("a part has come", SOON, sent, |sent| *sent > 4 << 20).await?;
    pool.fill_up().await;
    let message = vm.until_condition(types::PROVISIONED, "False", "PoolFull").await?;
    let stands = |text| message.contains(text);
    ensure!(stands("unsized") && stands("make room") && !stands("kvmoor-import"), "{message}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing of it in libvirt");
    image.until_nothing_is_left(shared).await?;
    pool.make_room().await?;
    vm.until("is Running", Duration::from_secs(90), |vm| in_phase(vm, Phase::Running)).await?;
    vm.remove().await?;
    image.delete().await?;
    pool.unmount().await?;

    // Room for the image and for nothing more: it is not fetched again and again.
    let pool = SmallPool::mount(shared, 96).await?;
    let file = tiny_file(shared, (16 << 20) + 512)?;
    let url = files.serve("/tight", Serve::Unsized(file.clone(), Duration::from_millis(500)));
    let image = TestImage::create(shared, "tight", &url, &sha256(&file), "qcow2").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "tight", image.spec()).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "PoolFull").await?;
    ensure!(message.contains("MiB left"), "{message}");
    let volumes = image.volumes(shared).await?;
    ensure!(volumes.len() == 2, "the image is there: {volumes:?}");
    ensure!(vm.domains().await?.is_empty(), "no machine that could not run");
    let once = || async { Ok(files.requests("/tight") == 1) };
    wait::always("it is fetched once", Duration::from_secs(10), once).await?;
    vm.remove().await?;
    image.delete().await?;
    pool.unmount().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn private_addresses_are_refused_unless_allowed(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-private").await?;
    let files = Files::start().await?;
    let file = tiny_file(shared, 1536)?;
    let url = files.serve("/private", Serve::File(file.clone()));
    let by_name = url.replacen("127.0.0.1", "localhost", 1);
    restart_with(shared, ALLOWED, "192.0.2.0/24").await?;
    for (name, url) in [("by-address", &url), ("by-name", &by_name)] {
        let image = TestImage::create(shared, name, url, &sha256(&file), "qcow2").await?;
        let vm = TestVm::create(&shared.cluster, &namespace, name, image.spec()).await?;
        let message = vm.until_condition(types::PROVISIONED, "False", "ImageSourceRefused").await?;
        ensure!(message.contains("loopback") && message.contains(ALLOWED), "{message}");
        vm.remove().await?;
        image.delete().await?;
    }
    ensure!(files.requests("/private") == 0, "nobody connected");
    restart_with(shared, ALLOWED, "0.0.0.0/0,::/0").await?;
    shared.drop_namespace(&namespace).await
}

pub async fn killed_in_the_middle_of_an_import(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-killed").await?;
    let files = Files::start().await?;
    let file = tiny_file(shared, 2048)?;
    let url = files.serve("/slow", Serve::Slowly(file.clone(), Duration::from_secs(6)));
    let image = TestImage::create(shared, "killed", &url, &sha256(&file), "qcow2").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "killed", image.spec()).await?;
    let sent = || async { Ok(files.sent("/slow")) };
    wait::until("a part has come", SOON, sent, |sent| *sent > 2 << 20).await?;
    let process = shared.cluster.node_controller(0)?;
    process.kill().await;
    let half = image.volumes(shared).await?;
    ensure!(half.len() == 1 && !half.iter().any(|name| name.ends_with(".record")), "half an image: {half:?}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing stands on it");
    process.start()?;
    vm.until("is Running", Duration::from_secs(60), |vm| in_phase(vm, Phase::Running)).await?;
    ensure!(files.requests("/slow") == 2, "it began anew: {}", files.requests("/slow"));
    let check = || async { image.check_whole(shared).await };
    wait::until("what was half there is collected", SOON, check, |()| true).await?;
    vm.remove().await?;
    image.delete().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn crash_while_importing(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-import").await?;
    let process = shared.cluster.node_controller(0)?;
    let files = Files::start().await?;
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "importing has more than {MOST} side effects");
        let name = format!("import-{n}");
        let file = tiny_file(shared, 4096 + 512 * n)?;
        let url = files.serve(&format!("/{name}"), Serve::File(file.clone()));
        let image = TestImage::create(shared, &name, &url, &sha256(&file), "qcow2").await?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let vm = TestVm::create(&shared.cluster, &namespace, &name, with(blank(), json!({ "osType": name }))).await?;
        let done = || async { Ok(in_phase(&vm.get().await?, Phase::Running)) };
        let ended = converge(process, &format!("{name}: converges"), SOON, done).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        let check = || async { image.check_whole(shared).await };
        wait::until(&format!("{name}: is there once"), SOON, check, |()| true).await?;
        ensure!(vm.starts()? == 1, "{name}: QEMU was started {} times", vm.starts()?);
        vm.remove().await?;
        image.delete().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 8, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("import: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}

pub async fn unused_ones_are_collected(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("images-unused").await?;
    let files = Files::start().await?;
    let (used, asked) = (tiny_file(shared, 2560)?, tiny_file(shared, 3072)?);
    restart_with(shared, KEEP, "2s").await?;
    let url = files.serve("/used", Serve::File(used.clone()));
    let image = TestImage::create(shared, "used", &url, &sha256(&used), "qcow2").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "user", image.spec()).await?;
    vm.until_phase(Phase::Running).await?;
    // Ahead of time, with nobody waiting.
    let url = files.serve("/asked", Serve::File(asked.clone()));
    let prefetched = TestImage::create(shared, "asked", &url, &sha256(&asked), "qcow2").await?;
    let patch = json!({ "spec": { "prefetch": true } });
    let params = kube::api::PatchParams::default();
    prefetched.api.patch("asked", &params, &kube::api::Patch::Merge(&patch)).await?;
    let check = || async { prefetched.check_whole(shared).await };
    wait::until("it is fetched ahead of time", SOON, check, |()| true).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    image.check_whole(shared).await.context("a disk stands on it")?;
    prefetched.check_whole(shared).await.context("it is to stay")?;
    vm.remove().await?;
    image.until_nothing_is_left(shared).await?;
    prefetched.delete().await?;
    prefetched.until_nothing_is_left(shared).await?;
    image.delete().await?;
    restart_with(shared, KEEP, "168h").await?;
    shared.drop_namespace(&namespace).await
}
