//! A lock that ends with its process, however that ends.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::files;

/// An exclusive lock on a file, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock unless another process holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        if let Some(parent) = path.parent() {
            files::make_dir(parent, 0o700)?;
        }
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
            let file = file.with_context(|| format!("open {}", path.display()))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // The holder before may have removed the file between our open and our lock.
                Ok(file) if is_at(&file, path) => return Ok(Some(Self { path: path.to_owned(), _file: file })),
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno).with_context(|| format!("lock {}", path.display())),
            }
        }
    }

    /// Takes the lock, waiting for another holder until `deadline` has passed. Blocks.
    pub(crate) fn take(path: &Path, deadline: Duration) -> Result<Self> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if Instant::now() > end {
                bail!("{} is held by another process for longer than {deadline:?}", path.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether nobody holds it.
    pub(crate) fn is_free(path: &Path) -> Result<bool> {
        Ok(!path.exists() || Self::try_take(path)?.is_some())
    }

    /// Gives the lock up and removes its file.
    pub(crate) fn remove(self) -> Result<()> {
        files::remove_file(&self.path)
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(path)) = (file.metadata(), fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (path.dev(), path.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let path = std::env::temp_dir().join(format!("kvmoor-lock-test-{}", std::process::id()));
        let lock = Lock::try_take(&path).unwrap().expect("free");
        assert!(!Lock::is_free(&path).unwrap());
        assert!(Lock::try_take(&path).unwrap().is_none());
        lock.remove().unwrap();
        assert!(Lock::is_free(&path).unwrap());
        assert!(!path.exists());
    }
}
