//! A cluster's place on the machine: which directory it uses, who owns it, and what must go when the owner is dead.
//!
//! Long-lived data lies in the cluster's own directory. Sockets and the state file lie under a short path
//! ([`runtime_root`]), because a Unix socket's path must stay below 108 bytes and because leftovers of all clusters
//! are found there. A lock held for life tells an owner that works from one that died.

mod lock;
mod record;
mod sweep;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};

pub(crate) use lock::Lock;
pub use record::{NetworkRecord, Recorder, State};
pub use sweep::sweep;

use crate::{files, process::ProcessId};

/// Where in a cluster's directory the processes log to.
pub(crate) const LOGS: &str = "logs";

/// A cluster directory that this process owns.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) recorder: std::sync::Arc<Recorder>,
    lock: Option<Lock>,
}

/// What came of the attempt to own a cluster directory.
pub(crate) enum Claim {
    /// It is ours; leftovers of an earlier owner are gone.
    Owned(Instance),
    /// Another living process owns it.
    Taken(Option<ProcessId>),
}

impl Instance {
    /// Takes ownership of `dir`, which need not exist, and removes what a dead owner left behind.
    ///
    /// A temporary directory is removed with everything in it when the cluster ends.
    pub(crate) fn claim(dir: &Path, temporary: bool) -> Result<Claim> {
        files::make_dir(dir, 0o700)?;
        let dir = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        let id = id_of(&dir);
        let run_dir = runtime_root().join(&id);
        let Some(lock) = Lock::try_take(&lock_path(&id))? else {
            return Ok(Claim::Taken(State::read(&run_dir).ok().flatten().and_then(|state| state.owner)));
        };
        if let Some(left) = State::read(&run_dir)? {
            sweep::clean_up(&run_dir, &State { temporary: false, ..left })?;
        }
        files::make_dir(&run_dir, 0o700)?;
        files::make_dir(&dir.join(LOGS), 0o700)?;
        let state = State { owner: Some(ProcessId::own()), dir: dir.clone(), temporary, ..State::default() };
        let recorder = std::sync::Arc::new(Recorder::new(&run_dir, state)?);
        Ok(Claim::Owned(Self { id, dir, run_dir, recorder, lock: Some(lock) }))
    }

    /// The directory that the processes log to.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join(LOGS)
    }

    /// The log of the process `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Ends everything that is recorded and gives the directory up.
    pub(crate) fn release(&mut self) -> Result<()> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        sweep::clean_up(&self.run_dir, &self.recorder.state())?;
        lock.remove()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!("clean-up of {}: {error:#}", self.dir.display());
        }
    }
}

/// Who owns the cluster in `dir`: `None` when nobody alive does.
pub fn owner(dir: &Path) -> Result<Option<ProcessId>> {
    let Ok(dir) = dir.canonicalize() else { return Ok(None) };
    let id = id_of(&dir);
    if Lock::is_free(&lock_path(&id))? {
        return Ok(None);
    }
    Ok(State::read(&runtime_root().join(id))?.and_then(|state| state.owner))
}

/// The directory of all clusters' sockets and state files.
pub fn runtime_root() -> PathBuf {
    if Uid::effective().is_root() {
        return "/run/kvmoor".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => Path::new(&dir).join("kvmoor"),
        None => std::env::temp_dir().join(format!("kvmoor-{}", Uid::effective())),
    }
}

fn lock_path(id: &str) -> PathBuf {
    runtime_root().join(format!("{id}.lock"))
}

/// Eight hexadecimal digits that name the cluster of a directory, short enough for an interface's name.
fn id_of(dir: &Path) -> String {
    let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
