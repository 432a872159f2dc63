//! Kvmoor's controllers: `cluster` is everything that needs one mind, `node` is one KVM host.

mod args;
mod check;
mod cluster;
mod fault;
mod https;
mod node;
mod telemetry;
mod warnings;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Command};

/// A libvirt call that never returns keeps its thread; the process ends without it after this time.
const STUCK: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(STUCK);
    result
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { system_namespace, log_format, command } = args;
    telemetry::init(log_format).map_err(anyhow::Error::from_boxed).context("cannot set up logging")?;
    let shutdown = shutdown_on_signal().context("cannot listen for signals")?;
    if let Command::Check(args) = command {
        return shutdown.run_until_cancelled(check::run(args)).await.unwrap_or(Ok(()));
    }
    let client = kvmoor_crds::client::connect(kvmoor_crds::client::DEADLINE).await?;
    match command {
        Command::Check(_) => Ok(()),
        Command::Cluster(args) => cluster::run(args, client, system_namespace, shutdown).await,
        Command::Node(args) => node::run(args, client, system_namespace, shutdown).await,
    }
}

/// A token that SIGTERM or SIGINT cancels.
fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        cancelled.cancel();
    });
    Ok(token)
}
