//! Reaps dead guests at once, as the machine's own init would.
//!
//! A guest's QEMU is an orphan: libvirtd starts it as a daemon. libvirt waits until a dead one is gone from the process
//! table before it says so, and the init of a container or sandbox may take seconds to reap. So this process takes the
//! orphans of its descendants (`PR_SET_CHILD_SUBREAPER`, see prctl(2)) and reaps those that a host's pid files name, and
//! no others: its other children have somebody who waits for them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        prctl,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Short beside the 100 ms in which a guest's death is to be seen.
const INTERVAL: Duration = Duration::from_millis(10);

/// Reaps the guests of one host until dropped.
#[derive(Debug)]
pub(super) struct Reaper(Arc<AtomicBool>);

impl Reaper {
    /// Starts reaping the guests whose pid files stand in `dir`.
    pub(super) fn start(dir: PathBuf) -> Result<Self> {
        prctl::set_child_subreaper(true).context("take orphaned guests (PR_SET_CHILD_SUBREAPER)")?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let work = move || {
            while !ended.load(Ordering::Relaxed) {
                pids(&dir).for_each(|pid| {
                    // An error says that it is not, or not yet, a child of this process.
                    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                });
                thread::sleep(INTERVAL);
            }
        };
        thread::Builder::new().name("reap guests".into()).stack_size(64 << 10).spawn(work)?;
        Ok(Self(end))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The processes that libvirt's pid files name, libvirtd's own left out.
fn pids(dir: &Path) -> impl Iterator<Item = Pid> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let guests = files.filter(|path| {
        path.extension().is_some_and(|extension| extension == "pid")
            && path.file_stem().is_some_and(|name| name != super::DRIVER)
    });
    guests.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok().map(Pid::from_raw))
}
