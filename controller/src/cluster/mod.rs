//! The cluster controller: everything that needs one mind.
//!
//! Any number of replicas run; the holder of the Lease leads, and only it watches anything but the Lease. What it does
//! stands in four loops, each over its own watches and each the only writer of what it decides:
//!
//! | loop | decides | writes |
//! |---|---|---|
//! | [`vms`] | ids, admission, placement, finalizers, lost hosts | VirtualMachine |
//! | [`quotas`] | ids, the default Quota, what is used | Quota |
//! | [`snapshots`] | ids, admission, hosts and finalizers of snapshots and restores | VirtualMachineSnapshot, VirtualMachineRestore |
//! | [`tenants`] | ids, namespaces and rights of users, the first admin | User, Namespace, RoleBinding, Secret |
//!
//! Beside them [`catalog`] makes the Images, the classes and the default Quota that the installation comes with.
//!
//! Every replica serves [`guest_data`] to the hosts: what a guest is told from Secrets.
//!
//! Decisions are pure functions over what a loop has seen and what it has written (its own answers count as seen, so it
//! never decides on less than it did). Ids may be lost in a crash but are never given twice: see [`ids`].

mod backoff;
mod catalog;
mod guest_data;
mod ids;
mod leader;
mod metrics;
mod mirror;
mod quotas;
mod resources;
mod snapshots;
mod tenants;
mod vms;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use kvmoor_crds::names;
use kvmoor_telemetry::Telemetry;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::catalog::Catalog;
use crate::cluster::ids::Kind;
use crate::cluster::ids::marks::Marks;
use crate::cluster::leader::{Leadership, Settings};
use crate::cluster::metrics::Metrics;
use crate::cluster::writer::Writer;
use crate::warnings::Warnings;

/// How long the loops may take to finish the writes under way when the process is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Settings of the cluster controller.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name of this replica in the Lease; unique among those that run. Made up where it is missing.
    #[arg(long, env = "KVMOOR_IDENTITY")]
    identity: Option<String>,
    /// Seconds after which a leader that does not renew its Lease is succeeded.
    #[arg(long, env = "KVMOOR_LEASE_DURATION_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=300))]
    lease_duration_seconds: u16,
    /// Where the node controllers are served what their guests are told, over HTTPS. Port 0 is any that is free.
    #[arg(long, env = "KVMOOR_GUEST_DATA_LISTEN", default_value_t = guest_data::DEFAULT_LISTEN)]
    guest_data_listen: SocketAddr,
    /// Where the node controllers reach this very process: in a pod its own address (status.podIP), not that of a
    /// Service, because the certificate is this process' own. It is told in the Lease. Without it, the address of
    /// `--guest-data-listen` if it is a certain one, else the one that the network routes from.
    #[arg(long, env = "KVMOOR_GUEST_DATA_ADDRESS")]
    guest_data_address: Option<String>,
    /// File with the Images, the classes and the default Quota that are to be there.
    #[arg(long, env = "KVMOOR_CATALOG")]
    catalog: Option<std::path::PathBuf>,
}

/// Runs one replica until `shutdown`, or until it loses the Lease.
///
/// # Errors
/// When the Lease is lost or a loop fails for good: the process must end, because another replica may lead by then.
pub async fn run(
    args: Args,
    client: Client,
    system_namespace: String,
    mut telemetry: Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::register(telemetry.registry());
    // A replica that waits for the Lease is ready for it.
    tokio::spawn(telemetry.serve(|| true));
    let Args { identity, lease_duration_seconds, guest_data_listen, guest_data_address, catalog } = args;
    let catalog = catalog.map(|path| Catalog::read(&path)).transpose()?;
    let serving = CancellationToken::new();
    let _ends_with_this = serving.clone().drop_guard();
    let (annotations, serve) =
        guest_data::start(guest_data_listen, guest_data_address, client.clone(), &system_namespace, serving.clone())
            .await?;
    tokio::spawn(serving.run_until_cancelled_owned(serve));
    let settings = Settings {
        annotations,
        identity: identity.unwrap_or_else(made_up_identity),
        namespace: system_namespace.clone(),
        duration: Duration::from_secs(lease_duration_seconds.into()),
    };
    tracing::info!(identity = %settings.identity, "waiting for the Lease");
    let Some(leadership) = leader::acquire(client.clone(), settings, &shutdown).await else {
        return Ok(());
    };
    tracing::info!("leading");
    metrics.leader.set(1);
    let catalog = catalog.unwrap_or_default();
    let outcome = lead(client, system_namespace, catalog, leadership, metrics.clone(), shutdown).await;
    metrics.leader.set(0);
    outcome
}

async fn lead(
    client: Client,
    system_namespace: String,
    catalog: Catalog,
    leadership: Leadership,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let writer = Writer::new(client.clone(), leadership.claim(), metrics.reconciles.clone()).of("ids");
    let warnings = Warnings::new(client.clone(), names::LEADER_LEASE, None);
    let marks = Arc::new(Marks::new(writer.clone(), system_namespace.clone()));
    let (usage_tx, usage) = watch::channel(None);
    let (count_tx, snapshot_count) = watch::channel(None);
    let vm_gone = Arc::new(Notify::new());
    // Loops stop on their own token, before the Lease is given back.
    let stop = CancellationToken::new();
    let mut loops = JoinSet::new();
    loops.spawn(vms::run(vms::Context {
        client: client.clone(),
        writer: writer.of("virtual-machines"),
        metrics,
        ids: ids::Source::load(Kind::VirtualMachine, marks.clone()).await.context("cannot read the ids")?,
        system_namespace: system_namespace.clone(),
        usage: usage_tx,
        warnings: warnings.clone(),
        gone: vm_gone.clone(),
        stop: stop.clone(),
    }));
    loops.spawn(quotas::run(quotas::Context {
        client: client.clone(),
        writer: writer.of("quotas"),
        ids: ids::Source::load(Kind::Quota, marks.clone()).await.context("cannot read the ids")?,
        system_namespace: system_namespace.clone(),
        usage,
        snapshots: snapshot_count,
        stop: stop.clone(),
    }));
    loops.spawn(snapshots::run(snapshots::Context {
        client: client.clone(),
        writer: writer.of("snapshots"),
        ids: ids::Source::load(Kind::VirtualMachineSnapshot, marks.clone()).await.context("cannot read the ids")?,
        system_namespace: system_namespace.clone(),
        count: count_tx,
        warnings,
        stop: stop.clone(),
    }));
    loops.spawn(catalog::run(catalog::Context {
        writer: writer.of("catalog"),
        catalog,
        system_namespace: system_namespace.clone(),
        stop: stop.clone(),
    }));
    loops.spawn(tenants::run(tenants::Context {
        client,
        writer: writer.of("users"),
        ids: ids::Source::load(Kind::User, marks).await.context("cannot read the ids")?,
        system_namespace,
        vm_gone,
        stop: stop.clone(),
    }));
    let (renewal, lost) = leadership.keep();
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = lost => Err(error),
        ended = loops.join_next() => Err(loop_ended(ended)),
    };
    stop.cancel();
    if outcome.is_err() {
        // Another replica may lead already: nothing is finished, nothing is given back.
        loops.abort_all();
        return outcome;
    }
    let finished = tokio::time::timeout(STOP_DEADLINE, async { while loops.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!("writes under way did not end in time");
        loops.abort_all();
    }
    renewal.release().await;
    Ok(())
}

fn loop_ended(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => anyhow::Error::new(error).context("a loop died"),
        Some(Ok(Ok(()))) | None => anyhow::anyhow!("a loop ended though nobody asked it to"),
    }
}

/// Host name, process id and a random part: two replicas never share it, not even after a restart.
fn made_up_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let random: u32 = rand::random();
    format!("{}-{}-{random:08x}", host.trim(), std::process::id())
}
