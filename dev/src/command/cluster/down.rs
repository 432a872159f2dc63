//! `kvmoor-dev cluster down`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::Spot;
use crate::{command::progress::say, deadline::until, files, instance};

/// Each part of the cluster has its own time to end.
const STOP: Duration = Duration::from_secs(180);

pub(super) async fn down(spot: &Spot) -> Result<()> {
    let dir = spot.place.dir();
    match instance::owner(dir)? {
        Some(owner) => {
            say(format_args!("ending the cluster in {} (process {})", dir.display(), owner.pid));
            owner.signal(Signal::SIGTERM);
            until(STOP, "it has ended", || async { Ok(!owner.is_alive()) }).await.with_context(|| {
                format!("process {} does not end; look at {}, then `kill -9 {0}`", owner.pid, spot.output().display())
            })?;
        }
        None => say(format_args!("no cluster runs in {}", dir.display())),
    }
    // Also what one that was killed has left.
    tokio::task::spawn_blocking(instance::sweep).await??;
    files::remove_dir(dir)?;
    Ok(())
}
