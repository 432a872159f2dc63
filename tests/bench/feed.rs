//! How soon a change is told to a thousand clients of `/ws/vm-status`: from before the write of the change to the
//! Kubernetes API until the frame is read, at a hundred changes a second.
//!
//! Once each client follows one of twenty virtual machines, and once each follows all of them, which is twenty times the
//! frames. The clients run in this very process, so their own work is in the figures too.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kvmoor_crds::VirtualMachine;
use kvmoor_dev::Cluster;
use kvmoor_tests::feed::Feed;
use kvmoor_tests::rest::Rest;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::figures::Figures;

const CLIENTS: usize = 1000;
/// The changes take turns among them, because those of one object at the same time would wait for each other.
const VMS: usize = 20;
const CHANGES: usize = 1000;
const INTERVAL: Duration = Duration::from_millis(10);

pub async fn measure(cluster: &Cluster, admin: &Rest, figures: &mut Figures) -> Result<()> {
    let mut vms = Vec::new();
    for _ in 0..VMS {
        let body = json!({ "name": "followed", "cpu": 1, "memory": 32, "start": false });
        vms.push(admin.post("/api/vms", body).await?);
    }
    let client = cluster.client().await?;
    let objects = vms.iter().map(|vm| {
        let namespace = vm["namespace"].as_str().context("a namespace")?;
        let api: Api<VirtualMachine> = Api::namespaced(client.clone(), namespace);
        Ok((api, vm["resource_name"].as_str().context("a name")?.to_owned()))
    });
    let objects: Vec<_> = objects.collect::<Result<_>>()?;
    for (name, all) in [("own", false), ("all", true)] {
        let ids: Vec<_> = vms.iter().map(|vm| vm["id"].to_string()).collect();
        round(admin, &objects, &ids, name, all, figures).await?;
    }
    for vm in vms {
        admin.ok(reqwest::Method::DELETE, &format!("/api/vms/{}", vm["id"]), None).await?;
    }
    Ok(())
}

async fn round(
    admin: &Rest,
    objects: &[(Api<VirtualMachine>, String)],
    ids: &[String],
    name: &str,
    all: bool,
    figures: &mut Figures,
) -> Result<()> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    let wanted = if all { CHANGES } else { CHANGES / VMS };
    let prefix = format!("{name} ");
    for client in 0..CLIENTS {
        let query = if all { String::new() } else { format!("vm_id={}", ids[client % VMS]) };
        let mut feed = Feed::open(admin, &query).await?;
        feed.frame().await?;
        let prefix = format!(r#""name":"{prefix}"#);
        clients.spawn(async move {
            let mut read = Vec::with_capacity(wanted);
            while read.len() < wanted {
                let Message::Text(text) = feed.message().await.context("the feed ended")?? else { continue };
                // Not as JSON, which would cost more than the reading.
                if let Some((_, rest)) = text.split_once(&prefix) {
                    let n = rest.split('"').next().unwrap_or_default();
                    read.push((n.parse::<usize>()?, Instant::now()));
                }
            }
            anyhow::Ok(read)
        });
    }
    figures.add(&format!("feed_{name}_1000_clients_connect"), begin.elapsed().as_secs_f64() * 1000.0, "ms");

    let begin = Instant::now();
    let mut writes = JoinSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut written = Vec::with_capacity(CHANGES);
    for n in 0..CHANGES {
        ticks.tick().await;
        written.push(Instant::now());
        let (prefix, (api, object)) = (prefix.clone(), objects.get(n % VMS).context("an object")?.clone());
        writes.spawn(async move {
            let patch = json!({ "spec": { "displayName": format!("{prefix}{n}") } });
            api.patch(&object, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        });
    }
    while let Some(write) = writes.join_next().await {
        write??;
    }
    figures.add(&format!("feed_{name}_changes_per_second"), CHANGES as f64 / begin.elapsed().as_secs_f64(), "1/s");
    let mut times = Vec::with_capacity(CLIENTS * CHANGES);
    while let Some(client) = clients.join_next().await {
        for (n, read) in client?? {
            times.push(read.saturating_duration_since(*written.get(n).context("a change")?));
        }
    }
    figures.times(&format!("feed_{name}_write_to_frame"), &mut times);
    let p99 = times.get(times.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    figures.add(&format!("feed_{name}_write_to_frame_p99"), p99, "ms");
    Ok(())
}
