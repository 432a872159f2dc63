//! How soon a change is told to a thousand clients of `/ws/vm-status`, at a hundred changes a second or as many as the
//! control plane can write: until the frame is read, from before the write to the Kubernetes API and from its answer.
//!
//! The controllers are stopped meanwhile: they answer each change with writes of their own, and what is measured is the
//! feed, not how much the control plane can write.
//!
//! Once each client follows one of twenty virtual machines, and once each follows all of them, which is twenty times the
//! frames. The clients run in this very process, so their own work is in the figures too.
//!
//! A plain watch of the Kubernetes API follows beside them: what the frames are later than its events is Kvmoor's part.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::Api;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use kvmoor_crds::VirtualMachine;
use kvmoor_dev::Cluster;
use kvmoor_tests::feed::Feed;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::Message;

use crate::figures::Figures;

const CLIENTS: usize = 1000;
/// The changes take turns among them.
const VMS: usize = 20;
const CHANGES: usize = 1000;
const INTERVAL: Duration = Duration::from_millis(10);
/// No round takes longer.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a controller may take to end.
const STOP: Duration = Duration::from_secs(10);

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
    for vm in &vms {
        let path = format!("/api/vms/{}", vm["id"]);
        wait::until("it is Stopped", SOON, || admin.get(&path), |vm| vm["phase"] == "Stopped").await?;
    }
    cluster.node_controller(0)?.stop(STOP).await;
    cluster.cluster_controller()?.stop(STOP).await;
    for (name, all) in [("own", false), ("all", true)] {
        let ids: Vec<_> = vms.iter().map(|vm| vm["id"].to_string()).collect();
        let round = round(admin, &objects, &ids, name, all, figures);
        tokio::time::timeout(DEADLINE, round).await.context("not all frames were read in time")??;
    }
    cluster.start_components().await?;
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

    let seen = watch(objects, prefix.clone()).await?;
    // One writer an object, since those of one object at the same time would only wait for each other.
    let begin = Instant::now();
    let mut writers = JoinSet::new();
    for (first, (api, object)) in objects.iter().cloned().enumerate() {
        let prefix = prefix.clone();
        writers.spawn(async move {
            tokio::time::sleep(INTERVAL * u32::try_from(first)?).await;
            let mut ticks = tokio::time::interval(INTERVAL * u32::try_from(VMS)?);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut written = Vec::with_capacity(CHANGES / VMS);
            for n in (first..CHANGES).step_by(VMS) {
                ticks.tick().await;
                let start = Instant::now();
                let patch = json!({ "spec": { "displayName": format!("{prefix}{n}") } });
                api.patch(&object, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                written.push((n, start, Instant::now()));
            }
            anyhow::Ok(written)
        });
    }
    let mut written = vec![None; CHANGES];
    while let Some(writer) = writers.join_next().await {
        for (n, start, end) in writer?? {
            written[n] = Some((start, end));
        }
    }
    figures.add(&format!("feed_{name}_changes_per_second"), CHANGES as f64 / begin.elapsed().as_secs_f64(), "1/s");
    let mut writing: Vec<_> = written.iter().flatten().map(|(start, end)| *end - *start).collect();
    figures.times(&format!("feed_{name}_write"), &mut writing);
    let seen = seen.await??;
    let mut times = Vec::with_capacity(CLIENTS * wanted);
    let (mut after, mut ours) = (times.clone(), times.clone());
    while let Some(client) = clients.join_next().await {
        for (n, read) in client?? {
            let (start, end) = written[n].context("a change")?;
            times.push(read.saturating_duration_since(start));
            after.push(read.saturating_duration_since(end));
            ours.push(read.saturating_duration_since(seen[n].context("an event")?));
        }
    }
    let mut raw: Vec<_> =
        seen.iter().zip(&written).filter_map(|(seen, written)| Some((*seen)? - written.as_ref()?.0)).collect();
    let all = [
        ("write_to_frame", &mut times),
        ("written_to_frame", &mut after),
        ("write_to_raw_event", &mut raw),
        ("raw_event_to_frame", &mut ours),
    ];
    for (what, times) in all {
        figures.times(&format!("feed_{name}_{what}"), times);
        let p99 = times.get(times.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        figures.add(&format!("feed_{name}_{what}_p99"), p99, "ms");
    }
    Ok(())
}

/// When a plain watch, which is open when this returns, tells of each change; it ends with the last one.
async fn watch(
    objects: &[(Api<VirtualMachine>, String)],
    prefix: String,
) -> Result<tokio::task::JoinHandle<Result<Vec<Option<Instant>>>>> {
    let api = objects.first().context("a virtual machine")?.0.clone();
    let mut events = api.watch(&WatchParams::default(), "0").await?.boxed();
    Ok(tokio::spawn(async move {
        let mut seen = vec![None; CHANGES];
        while seen.iter().any(Option::is_none) {
            let WatchEvent::Modified(vm) = events.next().await.context("the watch ended")?? else { continue };
            let name = vm.spec.display_name.unwrap_or_default();
            if let Some(n) = name.strip_prefix(&prefix).and_then(|n| n.parse::<usize>().ok()) {
                seen[n].get_or_insert_with(Instant::now);
            }
        }
        Ok(seen)
    }))
}
