//! The directory in which an image is made: one process at a time, and nothing left over from a build that broke off.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Returns the path of version `digest` of the image `name` in `<cache_dir>/images`, which `build` makes in a directory of
/// its own if it is not there yet. Several processes may ask at once: one makes it, the others wait.
pub(crate) async fn ensure(
    cache_dir: &Path,
    name: &str,
    digest: &str,
    build: impl AsyncFnOnce(&Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let images = cache_dir.join("images");
    let image = images.join(format!("{name}-{digest}.qcow2"));
    if image.exists() {
        return Ok(image);
    }
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    let _lock = lock(images.join(format!(".{name}.lock"))).await?;
    if image.exists() {
        return Ok(image);
    }
    let work = images.join(format!(".{name}-build"));
    remove_tree(&work)?;
    fs::create_dir(&work).with_context(|| format!("cannot create {}", work.display()))?;
    tracing::info!(image = %image.display(), "building the image {name}");
    let built = build(&work).await.with_context(|| format!("cannot build the image {name}"))?;
    fs::rename(&built, &image).with_context(|| format!("cannot put the image at {}", image.display()))?;
    remove_tree(&work)?;
    tracing::info!(image = %image.display(), "built the image {name}");
    Ok(image)
}

/// Waits for the exclusive lock on `path`, which lasts as long as the returned file.
async fn lock(path: PathBuf) -> anyhow::Result<File> {
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
