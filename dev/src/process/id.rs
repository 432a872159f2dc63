//! A process id that stays true: the number alone may be given to another process once its first owner is gone, the
//! number and the start time together may not.

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::stat::Stat;

/// A process, named by its id and the time it started. No signal reaches a later process with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this id now; `None` when there is none, or only what is left of one (a zombie).
    pub fn of(pid: i32) -> Option<Self> {
        let Stat { state, started, .. } = Stat::of(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id().cast_signed();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Whether the process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal` if the process still runs; says whether it did.
    pub fn signal(self, signal: Signal) -> bool {
        self.is_alive() && signal::kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_another_process() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        let earlier = ProcessId { started: own.started.wrapping_sub(1), ..own };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::SIGKILL), "must not reach this test");
    }
}
