//! A Debian for tests, in which cloud-init itself is seen at work: what `tiny` understands of a seed is Kvmoor's own
//! reading of it, this is not.
//!
//! It is made with debootstrap from the machine's package mirror, boots by BIOS from a disk with two partitions (a boot
//! loader with kernel and initramfs, and the root file system), and holds what cloud-init needs and little else. Both
//! file systems are written into files, so that no loop device is needed; debootstrap itself needs root.

mod disk;
mod recipe;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::guest_image::{
    command,
    workshop::{self, remove_tree},
};

/// Returns the path of the image in `<cache_dir>/images`, made if this version of it is not there yet. Several processes
/// may ask at once: one makes it, the others wait. It takes a minute or two, and longer on a machine that is busy.
///
/// # Errors
/// When a program is missing, or the mirror does not give the packages.
pub async fn ensure(cache_dir: &Path) -> Result<PathBuf> {
    workshop::ensure(cache_dir, "debian", &recipe::digest(), build).await
}

async fn build(work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    let packages = format!("--include={}", recipe::PACKAGES.join(","));
    let mirror = mirror();
    let root_text = root.to_string_lossy().into_owned();
    // Without the keyring debootstrap would say so and go on unchecked.
    let args = ["--force-check-gpg", "--variant=minbase", &packages, recipe::SUITE, &root_text, &mirror];
    command::run("debootstrap", &args, work).await?;
    for file in recipe::FILES {
        let path = root.join(file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, file.content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    command::run("chroot", &[root_text.as_str(), "update-initramfs", "-u"], work).await?;
    for pattern in recipe::REMOVED {
        remove_tree(&root.join(pattern))?;
    }
    disk::build(&root, work).await
}

/// The mirror that the machine's own packages come from.
fn mirror() -> String {
    let listed = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let sources = listed("/etc/apt/sources.list.d/debian.sources") + &listed("/etc/apt/sources.list");
    mirror_in(&sources).unwrap_or(recipe::DEFAULT_MIRROR).to_owned()
}

/// The first archive of Debian itself in apt's sources, of either format.
fn mirror_in(sources: &str) -> Option<&str> {
    sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let new = "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(new), Some("http://mirror.example/debian"));
        assert_eq!(
            mirror_in("deb [arch=amd64] https://m.example/debian/ bookworm main"),
            Some("https://m.example/debian/")
        );
        assert_eq!(mirror_in("URIs: http://m.example/debian-security\n"), None);
    }
}
