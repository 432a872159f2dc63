//! Ending what a cluster left on the machine: processes, guests, bridges, firewall rules, directories.
//!
//! Nothing here waits for a runtime: it also runs while a panic unwinds.

use std::{fs, path::Path};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{Lock, State, lock_path, runtime_root};
use crate::{files, libvirt_host, node::cgroup};

/// Removes everything of clusters whose owners are dead. Clusters that live are not touched.
///
/// # Errors
/// When the directory of clusters cannot be read. A cluster that cannot be cleaned up is only warned of.
pub fn sweep() -> Result<()> {
    let root = runtime_root();
    let Ok(entries) = fs::read_dir(&root) else { return Ok(()) };
    for entry in entries.flatten() {
        let run_dir = entry.path();
        if !run_dir.is_dir() {
            continue;
        }
        if let Err(error) = sweep_one(&run_dir, &entry.file_name().to_string_lossy()) {
            tracing::warn!("clean-up of {}: {error:#}", run_dir.display());
        }
    }
    Ok(())
}

fn sweep_one(run_dir: &Path, id: &str) -> Result<()> {
    let Some(lock) = Lock::try_take(&lock_path(id))? else { return Ok(()) };
    if let Some(state) = State::read(run_dir)? {
        tracing::info!("removing what the dead cluster of {} left behind", state.dir.display());
        clean_up(run_dir, &state)?;
    }
    lock.remove()
}

/// Ends everything that `state` names. Repeatable.
pub(crate) fn clean_up(run_dir: &Path, state: &State) -> Result<()> {
    // The controllers first, so that nothing is started again while the rest goes.
    for process in state.processes.values() {
        process.signal(Signal::SIGKILL);
    }
    for run in &state.hosts {
        libvirt_host::end_members(run)?;
    }
    for tasks in &state.containers {
        cgroup::end_containers(tasks)?;
    }
    cgroup::remove_guests_group();
    libvirt_host::remove_networks(&state.networks);
    let in_ours = state.hosts.iter().filter(|run| !state.own_networks.contains(run));
    in_ours.for_each(|run| libvirt_host::remove_leftovers(run));
    if state.temporary {
        files::remove_dir(&state.dir)?;
    }
    files::remove_dir(run_dir)
}
