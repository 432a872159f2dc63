//! From POST to Running as a client sees it, beside `virsh define` and `virsh start` of the very same domain.
//!
//! Kvmoor's time has in it what the raw one has not: two volumes, quota, placement, and the way through the Kubernetes
//! API and back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvmoor_crds::names;
use kvmoor_dev::Cluster;
use kvmoor_dev::audit;
use kvmoor_dev::virsh::Virsh;
use kvmoor_tests::rest::Rest;
use serde_json::json;
use uuid::Uuid;

use crate::SAMPLES;
use crate::figures::Figures;

const DEADLINE: Duration = Duration::from_secs(60);
const POOL: &str = "default";

pub async fn measure(cluster: &Cluster, admin: &Rest, figures: &mut Figures) -> Result<()> {
    let virsh = cluster.host(0)?.virsh();
    // Both once before, so that neither pays for what is done once: QEMU's capabilities, caches, connections.
    let model = one_by_rest(admin).await?.1;
    // Off, so that its volumes can be copied.
    admin.action(model.id, "poweroff").await?;
    until_status(admin, model.id, "Stopped").await?;
    let xml = virsh.run(&["dumpxml", "--inactive", &names::domain(&model.uuid)]).await?;
    let model = Model { uuid: model.uuid, xml };
    one_raw(&virsh, &model, cluster.dir()).await?;

    let (mut raw, mut kvmoor, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        raw.push(one_raw(&virsh, &model, cluster.dir()).await?);
        let (time, made) = one_by_rest(admin).await?;
        writes.push(writes_until_running(cluster, &made.uuid).await?);
        kvmoor.push(time);
        admin.ok(reqwest::Method::DELETE, &format!("/api/vms/{}", made.id), None).await?;
        until_gone(admin, made.id).await?;
    }
    let (raw_median, raw_p95) = figures.times("create_raw_define_and_start", &mut raw);
    let (median, p95) = figures.times("create_post_to_running", &mut kvmoor);
    figures.add("create_ratio_median", median / raw_median, "x");
    figures.add("create_ratio_p95", p95 / raw_p95, "x");
    let all: usize = writes.iter().sum();
    figures.add("create_api_writes_per_vm", all as f64 / writes.len() as f64, "writes");
    Ok(())
}

struct Model {
    uuid: String,
    xml: String,
}

struct Made {
    id: i64,
    uuid: String,
}

/// Creates a virtual machine and waits until GET says Running. The one made is left.
async fn one_by_rest(admin: &Rest) -> Result<(Duration, Made)> {
    let start = Instant::now();
    let vm = admin.post("/api/vms", json!({ "name": "bench", "cpu": 1, "memory": 96, "os_type": "tiny" })).await?;
    let id = vm["id"].as_i64().context("an id")?;
    let uuid = vm["uuid"].as_str().context("a uuid")?.to_owned();
    until_status(admin, id, "Running").await?;
    Ok((start.elapsed(), Made { id, uuid }))
}

async fn until_status(admin: &Rest, id: i64, status: &str) -> Result<()> {
    let start = Instant::now();
    let path = format!("/api/vms/{id}");
    while admin.get(&path).await?["status"] != status {
        if start.elapsed() > DEADLINE {
            bail!("not {status}: {}", admin.get(&path).await?);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn until_gone(admin: &Rest, id: i64) -> Result<()> {
    let start = Instant::now();
    while admin.call(reqwest::Method::GET, &format!("/api/vms/{id}"), None).await?.0.is_success() {
        if start.elapsed() > DEADLINE {
            bail!("VM {id} is not gone");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// `virsh define` and `virsh start` of a domain that differs from the model in nothing but its names. Its volumes are
/// made before and are not in the time.
async fn one_raw(virsh: &Virsh, model: &Model, dir: &Path) -> Result<Duration> {
    let uuid = Uuid::new_v4().to_string();
    let network = "default";
    let mut xml = model.xml.replace(&model.uuid, &uuid);
    xml = xml.replace(&names::mac_address(&model.uuid, network), &names::mac_address(&uuid, network));
    for volume in [names::root_volume(&model.uuid), names::seed_volume(&model.uuid)] {
        let copy = volume.replace(&model.uuid, &uuid);
        virsh.run(&["vol-clone", "--pool", POOL, &volume, &copy]).await?;
    }
    let file = dir.join("raw.xml");
    tokio::fs::write(&file, xml).await?;
    let file = file.to_str().context("a path in UTF-8")?;
    let domain = names::domain(&uuid);

    let start = Instant::now();
    virsh.run(&["define", file]).await?;
    virsh.run(&["start", &domain]).await?;
    let time = start.elapsed();

    virsh.run(&["destroy", &domain]).await?;
    virsh.run(&["undefine", &domain]).await?;
    for volume in [names::root_volume(&uuid), names::seed_volume(&uuid)] {
        virsh.run(&["vol-delete", "--pool", POOL, &volume]).await?;
    }
    Ok(time)
}

/// How many writes through the Kubernetes API a virtual machine had cost when it was Running: of the object itself and
/// of anything else in that time, but Leases.
async fn writes_until_running(cluster: &Cluster, uid: &str) -> Result<usize> {
    let client = cluster.client().await?;
    let vms: kube::Api<kvmoor_crds::VirtualMachine> = kube::Api::all(client);
    let all = vms.list(&kube::api::ListParams::default()).await?;
    let vm = all.into_iter().find(|vm| vm.metadata.uid.as_deref() == Some(uid)).context("the object")?;
    let name = vm.metadata.name.context("a name")?;
    let entries = audit::read(&cluster.control_plane().audit_log())?;
    let start = entries.iter().find(|entry| entry.object_ref.name == name).context("its creation in the audit log")?;
    let from = start.request_received_timestamp;
    let ours = |entry: &&audit::Entry| {
        entry.request_received_timestamp >= from
            && entry.object_ref.resource != "leases"
            && entry.user.username.contains(":kvmoor-system:")
    };
    Ok(entries.iter().filter(ours).count())
}
