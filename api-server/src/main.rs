//! Kvmoor's API server: REST over the Kubernetes API.
//!
//! It keeps nothing of its own. Reads come from caches that watches keep current, writes are custom resources, and the
//! controllers do the rest; so any number of these servers run side by side.

mod agent;
mod app;
mod args;
mod auth;
mod console;
mod delete;
mod error;
mod extract;
mod feed;
mod image;
mod metrics;
mod middleware;
mod model;
mod number;
mod openapi;
mod router;
mod routes;
mod server;
mod snapshot;
mod socket;
mod store;
mod tls;
mod user;
mod vm;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use kvmoor_telemetry::{Telemetry, TelemetryArgs};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{App, Settings};
use crate::args::Args;
use crate::store::Stores;
use crate::tls::Certificate;

/// How long work may go on whose requests are gone, when the server is to stop.
const FINISH: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args {
        listen,
        tls,
        system_namespace,
        max_connections,
        allowed_origins,
        trusted_proxies,
        max_sockets_per_user,
        largest_image,
        drain_seconds,
        telemetry: TelemetryArgs { metrics_address, log_format },
    } = Args::parse();
    log_format.start()?;
    let mut telemetry = Telemetry::listen("api-server", metrics_address).await?;
    let certificate = tls.load().await?;
    let client = telemetry.connect().await?;
    let settings = Settings { allowed_origins, trusted_proxies, max_sockets_per_user, largest_image };
    let mut app = App::new(client, system_namespace, Stores::default())?;
    app.settings = settings;
    let app = Arc::new(app);
    app.start();
    app.metrics.register(telemetry.registry());
    let serving = app.clone();
    tokio::spawn(telemetry.serve(move || serving.ready().is_ok()));
    stop_on_signal(app.drain.clone(), app.stop.clone(), Duration::from_secs(drain_seconds.into()))?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let tls = certificate.clone().map(Certificate::acceptor).transpose()?;
    if let Some(certificate) = certificate {
        tokio::spawn(async move { certificate.keep_current().await });
    }
    tracing::info!(
        address = %listener.local_addr()?,
        tls = tls.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    server::serve(listener, tls, router::router(app.clone())?, max_connections, app.stop.clone()).await;
    app.tasks.close();
    if tokio::time::timeout(FINISH, app.tasks.wait()).await.is_err() {
        tracing::warn!("work was still going on when the time to stop was over");
    }
    tracing::info!("stopped");
    Ok(())
}

/// A signal begins the drain, which ends after its time, or with a second signal.
fn stop_on_signal(drain: CancellationToken, stop: CancellationToken, time: Duration) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut signal = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signal().await;
        drain.cancel();
        tracing::info!(seconds = time.as_secs(), "not ready any more");
        drop(tokio::time::timeout(time, signal()).await);
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}
