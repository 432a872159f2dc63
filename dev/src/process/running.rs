//! A child process that runs, independent of any async runtime: a thread of its own reaps it.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::{ProcessId, Spec, spawner};

/// A child process.
#[derive(Clone, Debug)]
pub(super) struct Running {
    id: ProcessId,
    exited: watch::Receiver<Option<ExitStatus>>,
}

impl Running {
    pub(super) fn spawn(spec: &Spec) -> io::Result<Self> {
        let mut child = spawner::spawn(spec.command()?)?;
        let pid = child.id().cast_signed();
        // A child that is gone already still has a number: no later process can match start time 0.
        let id = ProcessId::of(pid).unwrap_or(ProcessId { pid, started: 0 });
        let (sender, exited) = watch::channel(None);
        thread::Builder::new().name(format!("reap {}", spec.name)).stack_size(64 << 10).spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
            // Nobody may be waiting.
            let _ = sender.send(Some(status));
        })?;
        Ok(Self { id, exited })
    }

    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        *self.exited.borrow()
    }

    pub(super) async fn wait(&self) -> ExitStatus {
        let mut exited = self.exited.clone();
        match exited.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            Err(_) => ExitStatus::from_raw(-1),
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> bool {
        self.exit_status().is_none() && self.id.signal(signal)
    }

    /// SIGKILL, and wait until it is gone or `deadline` has passed. For `Drop`, where nothing can be awaited.
    pub(super) fn kill_blocking(&self, deadline: Duration) {
        self.signal(Signal::SIGKILL);
        let end = Instant::now() + deadline;
        while self.exit_status().is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
