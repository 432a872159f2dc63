//! Reaps the orphans of descendants at once, as a machine's own init would.
//!
//! libvirtd starts guests, its probes of QEMU and dnsmasq as daemons, and waits until a dead one is gone from the process
//! table: for a guest before it says that it is off, for a probe up to fifteen seconds. The init of a container or sandbox
//! may take that long to reap, or never do it. So this process takes the orphans of its descendants
//! (`PR_SET_CHILD_SUBREAPER`, see prctl(2)) and reaps them.
//!
//! Orphans are told from children that somebody here waits for by their session: a daemon has begun one of its own
//! (setsid(2)), and no child that this process starts does.

use std::{sync::OnceLock, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::{self, Pid},
};

use super::stat::{Stat, pids};

/// How long to leave a dead child to whoever waits for it, and how soon to look for children while there are none.
const PAUSE: Duration = Duration::from_millis(5);

/// Starts reaping, from now until this process ends. Further calls do nothing.
///
/// # Errors
/// When the kernel does not let this process take orphans, or no thread can be started.
pub(crate) fn reap_orphans() -> Result<()> {
    static STARTED: OnceLock<()> = OnceLock::new();
    if STARTED.set(()).is_err() {
        return Ok(());
    }
    prctl::set_child_subreaper(true).context("take orphans (PR_SET_CHILD_SUBREAPER)")?;
    let session = unistd::getsid(None).context("ask for the session")?;
    thread::Builder::new().name("reap orphans".into()).stack_size(64 << 10).spawn(move || {
        loop {
            // Returns when a child has died, and leaves it where it is.
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(_) => reap(session),
                Err(Errno::EINTR) => continue,
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

/// Reaps every dead child of another session than this.
fn reap(session: Pid) {
    let own = unistd::getpid();
    for pid in pids().filter(|pid| Stat::of(*pid).is_some_and(|stat| is_dead_orphan(stat, own, session))) {
        // It is dead: this does not wait.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Whether that is a zombie, of this parent and of another session.
fn is_dead_orphan(stat: Stat, parent: Pid, session: Pid) -> bool {
    stat.state == 'Z' && stat.parent == parent.as_raw() && stat.session != session.as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_orphans_are_reaped() {
        let dead = |state, parent, its_session| {
            let stat = Stat { state, parent, session: its_session, started: 0 };
            is_dead_orphan(stat, Pid::from_raw(10), Pid::from_raw(7))
        };
        assert!(dead('Z', 10, 42), "a daemon that this process inherited");
        assert!(!dead('S', 10, 42), "it still runs");
        assert!(!dead('Z', 10, 7), "a child that somebody waits for");
        assert!(!dead('Z', 11, 42), "the child of another process");
    }
}
