//! `kvmoor-dev cluster`: a whole Kubernetes cluster with pods, and Kvmoor installed on it with Helm. It runs in the
//! background until `down`.

mod down;
mod serve;
mod up;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;

use super::place::Place;

/// What to do with it.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Starts it in the background and waits until Kvmoor is ready.
    Up,
    /// Ends it with all virtual machines in it, and removes all that it had.
    Down,
    /// Runs it, until a signal or `down`. This is what `up` starts.
    #[command(hide = true)]
    Serve,
}

/// The cluster's directory and what is in it for people to read.
#[derive(Clone, Debug)]
struct Spot {
    place: Place,
}

impl Spot {
    fn new(dev: &Path) -> Self {
        Self { place: Place::new(dev.join("cluster")) }
    }

    /// What `serve` prints.
    fn output(&self) -> PathBuf {
        self.place.dir().join("output")
    }

    /// The archives of the images.
    fn images(&self) -> PathBuf {
        self.place.dir().join("images")
    }
}

pub(super) async fn run(dev: &Path, command: &Command) -> Result<()> {
    let spot = Spot::new(dev);
    match command {
        Command::Up => up::up(&spot).await,
        Command::Down => down::down(&spot).await,
        Command::Serve => serve::serve(&spot).await,
    }
}
