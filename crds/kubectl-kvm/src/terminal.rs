//! The terminal in raw mode: every key goes to the guest, which echoes it. It is put back whatever happens.

use std::io::{IsTerminal as _, Stdin, stdin};

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// A terminal in raw mode.
pub struct Raw {
    stdin: Stdin,
    before: Option<Termios>,
}

impl Raw {
    /// Enters raw mode, where the input is a terminal.
    pub fn enter() -> Result<Self> {
        let stdin = stdin();
        if !stdin.is_terminal() {
            return Ok(Self { stdin, before: None });
        }
        let before = tcgetattr(&stdin).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("cannot set the terminal's mode")?;
        Ok(Self { stdin, before: Some(before) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nobody left to tell.
            let _ = tcsetattr(&self.stdin, SetArg::TCSANOW, before);
        }
    }
}
