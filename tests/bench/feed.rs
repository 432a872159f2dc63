//! How soon a change is told to a thousand clients of `/ws/vm-status`: from before the write of the change to the
//! Kubernetes API until the frame is read, at a hundred changes a second.
//!
//! The clients run in this very process, so their own work is in the figures too.

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
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut feed = Feed::open(admin, "").await?;
        clients.spawn(async move {
            let mut last = Vec::with_capacity(CHANGES);
            while last.len() < CHANGES {
                let frame = feed.frame().await?;
                if let Some(n) = frame["vm"]["name"].as_str().and_then(|name| name.strip_prefix("change ")) {
                    last.push((n.parse::<usize>()?, Instant::now()));
                }
            }
            anyhow::Ok(last)
        });
    }
    figures.add("feed_1000_clients_connect", begin.elapsed().as_secs_f64() * 1000.0, "ms");

    let begin = Instant::now();
    let mut writes = JoinSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut written = Vec::with_capacity(CHANGES);
    for n in 0..CHANGES {
        ticks.tick().await;
        written.push(Instant::now());
        let (api, object) = objects.get(n % VMS).context("an object")?.clone();
        writes.spawn(async move {
            let patch = json!({ "spec": { "displayName": format!("change {n}") } });
            api.patch(&object, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        });
    }
    while let Some(write) = writes.join_next().await {
        write??;
    }
    figures.add("feed_changes_per_second", CHANGES as f64 / begin.elapsed().as_secs_f64(), "1/s");
    let mut times = Vec::with_capacity(CLIENTS * CHANGES);
    while let Some(client) = clients.join_next().await {
        for (n, read) in client?? {
            times.push(read.saturating_duration_since(*written.get(n).context("a change")?));
        }
    }
    figures.times("feed_write_to_frame", &mut times);
    let p99 = times.get(times.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    figures.add("feed_write_to_frame_p99", p99, "ms");
    for vm in vms {
        admin.ok(reqwest::Method::DELETE, &format!("/api/vms/{}", vm["id"]), None).await?;
    }
    Ok(())
}
