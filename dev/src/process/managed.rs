//! A program that is started, stopped, killed and started again in the course of a cluster's life.

use std::{
    ffi::OsString,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::{sync::Notify, time::timeout};

use super::{ProcessId, Spec, running::Running};
use crate::instance::Recorder;

/// A process after SIGKILL is gone within this time, or is stuck in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

const EPITAPH_LINES: usize = 20;

/// A program of a cluster. It is killed when this handle is dropped.
#[derive(Debug)]
pub struct Managed {
    state: Mutex<State>,
    recorder: Arc<Recorder>,
    started: Notify,
}

#[derive(Debug)]
struct State {
    spec: Spec,
    running: Option<Running>,
    started_at: Option<Timestamp>,
    wanted: bool,
}

impl Managed {
    /// A program that is not started yet.
    pub(crate) fn new(spec: Spec, recorder: Arc<Recorder>) -> Self {
        let state = Mutex::new(State { spec, running: None, started_at: None, wanted: false });
        Self { state, recorder, started: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Running> {
        self.state().running.clone()
    }

    /// The program's name.
    pub fn name(&self) -> String {
        self.state().spec.name.clone()
    }

    /// The file that its output goes to.
    pub fn log(&self) -> std::path::PathBuf {
        self.state().spec.log.clone()
    }

    /// The process, while it runs.
    pub fn id(&self) -> Option<ProcessId> {
        self.running().filter(|running| running.exit_status().is_none()).map(|running| running.id())
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.id().map(|id| id.pid)
    }

    /// The program that it is.
    pub fn program(&self) -> std::path::PathBuf {
        self.state().spec.program.clone()
    }

    /// An environment variable that it is started with on top of the inherited ones.
    pub fn env(&self, name: &str) -> Option<String> {
        self.state().spec.env.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// Sets an environment variable (or with `None` takes it back) for starts from now on.
    pub fn set_env(&self, name: &str, value: Option<&str>) {
        let mut state = self.state();
        match value {
            Some(value) => drop(state.spec.env.insert(name.to_owned(), OsString::from(value))),
            None => drop(state.spec.env.remove(name)),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already or cannot be executed.
    pub fn start(&self) -> Result<()> {
        let mut state = self.state();
        if state.running.as_ref().is_some_and(|running| running.exit_status().is_none()) {
            bail!("{} runs already", state.spec.name);
        }
        let started_at = Timestamp::now();
        let running = Running::spawn(&state.spec)
            .with_context(|| format!("start {} ({})", state.spec.name, state.spec.program.display()))?;
        self.recorder.process(&state.spec.name, running.id())?;
        state.running = Some(running);
        state.started_at = Some(started_at);
        state.wanted = true;
        drop(state);
        self.started.notify_waiters();
        Ok(())
    }

    /// What to say when it has ended though it should run: how it ended and the end of its log, which may soon be gone.
    pub(crate) fn epitaph(&self) -> String {
        let status = self.running().and_then(|running| running.exit_status());
        let status = status.map_or_else(|| "not started".to_owned(), |status| status.to_string());
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(EPITAPH_LINES).collect();
        lines.reverse();
        format!("{} has ended ({status}); the end of {}:\n{}", self.name(), self.log().display(), lines.join("\n"))
    }

    /// Waits until the process has ended, by whatever cause. At once when it does not run.
    pub async fn wait(&self) -> Option<ExitStatus> {
        match self.running() {
            Some(running) => Some(running.wait().await),
            None => None,
        }
    }

    /// Sends a signal; says whether there was a process to take it.
    pub fn signal(&self, signal: Signal) -> bool {
        self.running().is_some_and(|running| running.signal(signal))
    }

    /// SIGTERM, then SIGKILL after `grace`. Answers how it ended, `None` when it did not run.
    pub async fn stop(&self, grace: Duration) -> Option<ExitStatus> {
        self.state().wanted = false;
        let running = self.running()?;
        running.signal(Signal::SIGTERM);
        match timeout(grace, running.wait()).await {
            Ok(status) => Some(status),
            Err(_) => {
                tracing::warn!("{} did not stop within {grace:?} and is killed", self.name());
                self.kill().await
            }
        }
    }

    /// SIGKILL, and waits until it is gone. `None` when it did not run.
    pub async fn kill(&self) -> Option<ExitStatus> {
        self.state().wanted = false;
        let running = self.running()?;
        running.signal(Signal::SIGKILL);
        timeout(KILL_DEADLINE, running.wait()).await.ok()
    }

    /// Waits until the process has ended without having been told to.
    pub(crate) async fn unexpected_exit(&self) -> ExitStatus {
        loop {
            let started = self.started.notified();
            if let Some(running) = self.running() {
                let status = running.wait().await;
                let state = self.state();
                let same = state.running.as_ref().is_some_and(|now| now.id() == running.id());
                if state.wanted && same {
                    return status;
                }
                if !same {
                    continue;
                }
            }
            // Stopped on purpose, or never started.
            tokio::select! {
                () = started => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// When it was last started: what is older than that, an earlier process has done.
    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.state().started_at
    }

    /// Whether it ran until it was told to end, or still does.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state().wanted
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &state.running {
            running.kill_blocking(KILL_DEADLINE);
        }
    }
}
