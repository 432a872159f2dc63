//! The command `kvmoor-dev`, which `make run` calls: a cluster to try Kvmoor on, until Ctrl-C.

mod cluster;
mod debian;
mod down;
mod fetch;
mod first_vm;
mod greeting;
mod place;
mod progress;
mod signals;
mod up;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use place::Place;
use tracing_subscriber::EnvFilter;

use crate::checkout_root;

/// Kvmoor on this machine: a real Kubernetes control plane, a real libvirt host, and Kvmoor's processes on them.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// Where everything is kept. By default `.dev` in the checkout.
    #[arg(long, global = true, env = "KVMOOR_DEV_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster with a first virtual machine and stays until Ctrl-C, which ends all of it.
    Up(up::Args),
    /// Ends a cluster that `up` runs, or what is left of one that was killed.
    Down(down::Args),
    /// A whole Kubernetes cluster that runs pods, with Kvmoor installed by Helm, in the background.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Fetches or builds what `up` needs and the network gives, without root.
    Fetch(fetch::Args),
    /// Makes the Debian that the tests boot, with root's rights.
    Debian,
}

/// Does what the command line asks for.
///
/// # Errors
/// With a message for the person at the terminal.
pub fn run(args: &Args) -> Result<()> {
    tracing_subscriber::fmt()
        // kube-client's errors are those of a control plane that still starts; what fails for good is returned.
        .with_env_filter(EnvFilter::new("warn,kube_client=off,kvmoor_dev=info"))
        .with_ansi(false)
        .event_format(progress::UnderStep)
        .init();
    if let Command::Up(up) = &args.command {
        // The kernel sends it when the thread that asked for it would be orphaned: this is the one that stays.
        up.follow_parent()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let place = Place::new(args.dir.clone().unwrap_or_else(|| checkout_root().join(".dev")));
    runtime.block_on(async {
        match &args.command {
            Command::Up(up) => up::up(&place, up).await,
            Command::Cluster(command) => cluster::run(place.dir(), command).await,
            Command::Down(down) => down::down(&place, down).await,
            Command::Fetch(args) => fetch::fetch(args).await,
            Command::Debian => debian::make().await,
        }
    })
}
