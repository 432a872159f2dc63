//! `kubectl kvm`: what one does with virtual machines, in words rather than patches.
//!
//! Power, snapshots and addresses are read and written as custom resources with the caller's own kubeconfig. Display and
//! serial console go through Kvmoor's API server, which has users of its own. The crate stands beside the API types
//! because it is the other thing that somebody with kubectl installs, and must be of their version.

use std::process::ExitCode;

mod args;
mod clone;
mod cluster;
mod console;
mod display;
mod power;
mod server;
mod snapshot;
mod socket;
mod terminal;

use anyhow::Result;
use args::{Cli, Command};
use clap::Parser;
use kvmoor_crds::power::PowerAction;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider for all: the one that kube brings. It can be set once, and this is once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let Cli { cluster, command } = cli;
    let namespace = cluster::connect(&cluster).await?;
    match command {
        Command::Start(target) => power::run(&namespace, PowerAction::Start, &target).await?,
        Command::Stop(target) => power::run(&namespace, PowerAction::Stop, &target).await?,
        Command::Restart(target) => power::run(&namespace, PowerAction::Restart, &target).await?,
        Command::Pause(target) => power::run(&namespace, PowerAction::Pause, &target).await?,
        Command::Snapshot(args) => snapshot::take(&namespace, &args).await?,
        Command::Restore(args) => snapshot::restore(&namespace, &args).await?,
        Command::Clone(args) => clone::run(&namespace, &args).await?,
        Command::SshAddress { vm } => println!("{}", cluster::ssh_address(&namespace.vm(&vm).await?)?),
        Command::Vnc { vm, listen, server } => display::run(&namespace.vm(&vm).await?, listen, &server).await?,
        Command::Console { vm, server } => match console::run(&namespace.vm(&vm).await?, &server).await? {},
    }
    Ok(())
}
