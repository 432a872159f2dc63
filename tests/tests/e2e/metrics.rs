//! What the processes tell of themselves: metrics as the documentation has them, health, and request ids in the log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_tests::feed::Feed;
use kvmoor_tests::metrics::{Scrape, documented};
use kvmoor_tests::vm::{SOON, TestVm, blank};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::shared::Shared;

/// A process whose libvirt or Kubernetes API has gone tells so within this time.
const NOTICED: Duration = Duration::from_secs(60);

/// Every metric of every process stands in the table of the documentation, and the other way round.
pub async fn all_are_documented_and_none_is_missing(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("metrics").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "counted", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    shared.admin.get("/api/vms").await?;
    for (of, process) in [
        ("api", shared.cluster.api_server()?),
        ("cluster", shared.cluster.cluster_controller()?),
        ("node", shared.cluster.node_controller(0)?),
    ] {
        let served = Scrape::of(&shared.cluster.telemetry_url(process)?).await?;
        let (served, documented) = (served.families, documented(of)?);
        for (name, family) in &documented {
            let served = served.get(name).with_context(|| format!("{of} does not serve {name}"))?;
            ensure!(served == family, "{name} of {of}: documented {family:?}, served {served:?}");
        }
        for (name, family) in &served {
            ensure!(documented.contains_key(name), "{of} serves {name}, which is not documented");
            ensure!(family.kind != "counter" || name.ends_with("_total"), "{name} is a counter");
        }
    }
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// The values follow what happens.
pub async fn they_count_what_happens(shared: &Shared) -> Result<()> {
    let api = shared.cluster.telemetry_url(shared.cluster.api_server()?)?;
    let cluster = shared.cluster.telemetry_url(shared.cluster.cluster_controller()?)?;
    let node = shared.cluster.telemetry_url(shared.cluster.node_controller(0)?)?;
    let before = Scrape::of(&api).await?;

    let refused = json!({ "username": "nobody-of-metrics", "password": "not the password" });
    let (status, _) = shared.anonymous()?.call(Method::POST, "/api/auth/login", Some(refused)).await?;
    ensure!(status == StatusCode::UNAUTHORIZED, "{status}");
    let greedy = json!({ "name": "greedy", "cpu": 1, "memory": 1 << 20, "os_type": "tiny" });
    let user = shared.user("metrics-user").await?;
    let (status, body) = user.call(Method::POST, "/api/vms", Some(greedy)).await?;
    ensure!(status == StatusCode::FORBIDDEN, "{status} {body}");
    user.call(Method::GET, "/api/vms/123456789", None).await?;
    user.call(Method::GET, "/made/up", None).await.ok();
    let feed = Feed::open(&user, "").await?;
    let open = |scrape: &Scrape| scrape.sum("kvmoor_websockets_open", &[("kind", "feed")]);
    wait::until("the feed is open", SOON, || Scrape::of(&api), |now| open(now) == open(&before) + 1.0).await?;
    drop(feed);
    // It is counted when it is open no more.
    let closed = |scrape: &Scrape| scrape.sum("kvmoor_websockets_closed_total", &[("kind", "feed")]);
    let is_closed = |now: &Scrape| open(now) == open(&before) && closed(now) > closed(&before);
    let after = wait::until("the feed is closed", SOON, || Scrape::of(&api), is_closed).await?;

    let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    ensure!(grown("kvmoor_logins_total", &[("result", "refused")]) == 1.0, "one login was refused");
    ensure!(grown("kvmoor_logins_total", &[("result", "accepted")]) == 1.0, "one was accepted");
    ensure!(grown("kvmoor_quota_refusals_total", &[]) == 1.0, "one refusal by quota");
    ensure!(closed(&after) - closed(&before) == 1.0, "one feed was closed");
    let one = [("route", "/api/vms/{id}"), ("method", "GET"), ("code", "404")];
    ensure!(grown("kvmoor_http_requests_total", &one) == 1.0, "by route, not by path");
    ensure!(grown("kvmoor_http_requests_total", &[("route", "none"), ("code", "404")]) == 1.0, "no such route");
    let longs = after.samples.iter().flat_map(|sample| sample.labels.values());
    let odd: Vec<_> = longs.filter(|value| value.contains("123456789") || value.contains("made")).collect();
    ensure!(odd.is_empty(), "labels are not made by callers: {odd:?}");

    let running = |scrape: &Scrape| scrape.sum("kvmoor_virtual_machines", &[("phase", "Running")]);
    let start = running(&Scrape::of(&cluster).await?);
    let vm = TestVm::create(&shared.cluster, &user_namespace(shared).await?, "counted", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    wait::until("it is counted", SOON, || Scrape::of(&cluster), |now| running(now) > start).await?;
    vm.remove().await?;
    let now = Scrape::of(&cluster).await?;
    ensure!(now.sum("kvmoor_leader", &[]) == 1.0, "it leads");
    ensure!(now.sum("kvmoor_hosts", &[("state", "live")]) == 1.0, "the host lives");
    ensure!(now.sum("kvmoor_reconcile_duration_seconds_count", &[("controller", "virtual-machines")]) > 0.0, "looks");
    let now = Scrape::of(&node).await?;
    ensure!(now.sum("kvmoor_libvirt_connected", &[]) == 1.0, "connected to libvirt");
    let starts = [("operation", "start the domain")];
    ensure!(now.sum("kvmoor_libvirt_call_duration_seconds_count", &starts) >= 1.0, "a domain was started");
    Ok(())
}

async fn user_namespace(shared: &Shared) -> Result<String> {
    let users: kube::Api<kvmoor_crds::User> = kube::Api::all(shared.cluster.client().await?);
    let user = users.get(&kvmoor_crds::names::user_object("metrics-user")).await?;
    user.status.and_then(|status| status.namespace).context("a user has a namespace")
}

/// Probes: alive all the time, ready when all that is needed is there; and nothing of it where users are.
pub async fn probes(shared: &Shared) -> Result<()> {
    for process in shared.cluster.processes() {
        let url = shared.cluster.telemetry_url(process)?;
        for path in ["/livez", "/readyz"] {
            let status = probe(&url, path).await?;
            ensure!(status == StatusCode::OK, "{} {path}: {status}", process.name());
        }
    }
    let answer = reqwest::get(format!("{}/metrics", shared.cluster.api_url())).await?;
    ensure!(answer.status() == StatusCode::NOT_FOUND, "metrics are not for users");

    let host = shared.cluster.host(0)?;
    let node = shared.cluster.telemetry_url(shared.cluster.node_controller(0)?)?;
    host.kill_libvirtd().await?;
    let connected = |scrape: &Scrape| scrape.sum("kvmoor_libvirt_connected", &[]) == 1.0;
    let away = wait::until("libvirt is away", NOTICED, || Scrape::of(&node), |now| !connected(now)).await;
    let (live, ready) = (probe(&node, "/livez").await?, probe(&node, "/readyz").await?);
    host.start_libvirtd().await?;
    away?;
    ensure!(live == StatusCode::OK && ready == StatusCode::SERVICE_UNAVAILABLE, "{live}, {ready}");
    wait::until("libvirt is back", NOTICED, || Scrape::of(&node), connected).await?;
    wait::until("ready", NOTICED, || probe(&node, "/readyz"), |status| *status == StatusCode::OK).await?;
    Ok(())
}

async fn probe(url: &str, path: &str) -> Result<StatusCode> {
    Ok(reqwest::get(format!("{url}{path}")).await?.status())
}
