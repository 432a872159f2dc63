//! The directory in which an image is made: one process at a time, and nothing left over from a build that broke off.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Waits for the exclusive lock on `path`, which lasts as long as the returned file.
pub(crate) async fn lock(path: PathBuf) -> anyhow::Result<File> {
    tokio::task::spawn_blocking(move || {
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    })
    .await?
}

pub(crate) fn remove_tree(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
