//! `kvmoor-dev cluster serve`: brings the cluster up, installs Kvmoor on it, and keeps it until a signal.

use std::{env, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::Api;
use kvmoor_crds::names;

use super::Spot;
use crate::{
    PodCluster, SYSTEM_NAMESPACE,
    binaries::{self, NodeBinaries},
    command::{
        fetch,
        place::give_to_caller,
        progress::{Steps, say},
        signals::Signals,
    },
    container_images::Images,
};

/// What Helm and pods may take on a busy machine.
const INSTALL: Duration = Duration::from_secs(600);

/// The tag of images that are built here.
const TAG: &str = "dev";

pub(super) async fn serve(spot: &Spot) -> Result<()> {
    let mut signals = Signals::listen()?;
    let started = tokio::select! {
        started = start(spot) => started,
        () = signals.next() => {
            say("stopped before it was up");
            return Ok(());
        }
    };
    let cluster = started?;
    tokio::select! {
        () = cluster.supervise() => {}
        () = signals.next() => {}
    }
    spot.place.unset_ready()?;
    say("\nending the cluster");
    cluster.stop().await
}

async fn start(spot: &Spot) -> Result<PodCluster> {
    let mut steps = Steps::new(6);
    fetch::control_plane(&mut steps).await?;
    steps.next("kubelet, kube-proxy, kube-scheduler, CoreDNS and Helm");
    NodeBinaries::ensure().await?;
    binaries::ensure_helm().await?;
    fetch::image(&mut steps).await?;
    steps.next("the control plane, a libvirt host, and a Node for pods");
    let programs = env::current_exe().context("find the running program")?;
    let programs = programs.parent().context("a program lies in a directory")?.to_owned();
    let images = Images { programs, out: spot.images(), tag: TAG.to_owned(), label: None, strip: true };
    let cluster = PodCluster::start(Some(spot.place.dir()), &images).await?;
    cluster.control_plane().write_kubeconfig(&spot.place.kubeconfig())?;
    give_to_caller(&spot.place.kubeconfig())?;
    spot.place.write(&spot.place.libvirt_uri(), &format!("{}\n", cluster.host().uri()), 0o644)?;
    let kubectl = spot.place.link_program(cluster.kubectl_program())?;
    spot.place.link_program(cluster.helm_program())?;
    steps.next("Kvmoor's images");
    images.install(cluster.node()).await?;
    steps.next("Kvmoor, with Helm");
    let mut words = vec!["install", "kvmoor", "charts/kvmoor", "--create-namespace"];
    let values = PodCluster::values(TAG);
    words.extend(values.iter().map(String::as_str));
    cluster.helm(&words, INSTALL).await?;
    cluster.declare_tiny().await?;
    let client = cluster.client().await?;
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let address = services.get("kvmoor-api-server").await?.spec.and_then(|spec| spec.cluster_ip);
    let url = format!("http://{}", address.context("the Service has no address")?);
    let secrets: Api<Secret> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let admin = secrets.get(names::ADMIN_SECRET).await?.data.unwrap_or_default();
    let word = |key: &str| admin.get(key).map(|word| String::from_utf8_lossy(&word.0).into_owned()).unwrap_or_default();
    say("\nKvmoor is ready.\n");
    say(format_args!("  kubectl     export KUBECONFIG={}", spot.place.kubeconfig().display()));
    say(format_args!("              {} get pods -A", kubectl.display()));
    say(format_args!("  API         {url}/api   (the Service's address, reachable from this machine)"));
    say(format_args!("  login       {} / {}", word("username"), word("password")));
    say(format_args!("  logs        {}", spot.place.logs().display()));
    say("\n`make cluster-down` ends it and removes all of it.");
    spot.place.set_ready(&url)?;
    Ok(cluster)
}
