//! The signals that end a run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals closer together are one.
const SAME: Duration = Duration::from_secs(1);

/// Ctrl-C, a polite kill, and the terminal that is closed.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Waits for one that is meant as another: `make` and sudo may each pass on the same Ctrl-C.
    pub(super) async fn another(&mut self) {
        let start = Instant::now();
        self.next().await;
        while start.elapsed() < SAME {
            self.next().await;
        }
    }
}
