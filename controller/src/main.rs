//! Kvmoor's controllers: `cluster` is everything that needs one mind, `node` is one KVM host.

mod args;
mod check;
mod cluster;
mod delay;
mod fault;
mod https;
mod metrics;
mod node;
mod warnings;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use kvmoor_telemetry::{Telemetry, TelemetryArgs};
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
    let Args { system_namespace, telemetry: TelemetryArgs { metrics_address, log_format }, command } = args;
    log_format.start()?;
    let shutdown = shutdown_on_signal().context("cannot listen for signals")?;
    match command {
        Command::Check(args) => shutdown.run_until_cancelled(check::run(args)).await.unwrap_or(Ok(())),
        Command::Cluster(args) => {
            let telemetry = Telemetry::listen("controller-cluster", metrics_address).await?;
            cluster::run(args, telemetry.connect().await?, system_namespace, telemetry, shutdown).await
        }
        Command::Node(args) => {
            let telemetry = Telemetry::listen("controller-node", metrics_address).await?;
            node::run(*args, telemetry.connect().await?, system_namespace, telemetry, shutdown).await
        }
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
