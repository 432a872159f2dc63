//! `kvmoor-dev down`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{place::Place, progress::say};
use crate::{deadline::until, files, instance};

/// Guests get ten seconds, and each process its own time.
const STOP: Duration = Duration::from_secs(120);

/// What to take down.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Forget everything too: objects, disks, passwords, logs.
    #[arg(long)]
    purge: bool,
}

pub(super) async fn down(place: &Place, args: &Args) -> Result<()> {
    match instance::owner(place.dir())? {
        Some(owner) => {
            say(format_args!("ending the cluster in {} (process {})", place.dir().display(), owner.pid));
            owner.signal(Signal::SIGTERM);
            until(STOP, "it has ended", || async { Ok(!owner.is_alive()) }).await.with_context(|| {
                format!("process {} does not end; look at what it says, then `kill -9 {}`", owner.pid, owner.pid)
            })?;
        }
        None => say(format_args!("no cluster runs in {}", place.dir().display())),
    }
    // Also what one that was killed has left.
    instance::sweep()?;
    place.unset_ready()?;
    if args.purge {
        files::remove_dir(place.dir())?;
        say(format_args!("removed {}", place.dir().display()));
    }
    Ok(())
}
