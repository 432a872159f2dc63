//! Which processes belong to a private libvirt host: those that see its directory at `/run/libvirt`. That holds for
//! daemons, guests and dnsmasq alike, needs no record and cannot hit anything else.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::process::{ProcessId, pids};

const DEADLINE: Duration = Duration::from_secs(20);

/// The processes of the host whose private `/run/libvirt` is `run`.
pub fn members(run: &Path) -> Vec<ProcessId> {
    let Ok(wanted) = fs::metadata(run) else { return Vec::new() };
    let sees = |id: &ProcessId| {
        let seen = fs::metadata(format!("/proc/{}/root/run/libvirt", id.pid));
        seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (wanted.dev(), wanted.ino()))
    };
    pids().filter_map(ProcessId::of).filter(sees).collect()
}

/// Kills every process of the host and waits until none is left.
pub(crate) fn end_members(run: &Path) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        // Again and again: a daemon may have forked since the last look.
        let members = members(run);
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("processes of the libvirt host at {} do not end: {members:?}", run.display());
        }
        for member in members {
            member.signal(Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
