//! Fetches the boot loaders that UEFI firmware starts with Secure Boot: the distribution's, with their signatures.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::packages;

/// The packages with them.
const PACKAGES: [&str; 2] = ["shim-signed", "grub-efi-amd64-signed"];
/// Where the first is, depending on the distribution and its release.
const FIRST: [&str; 3] = [
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/shimx64.efi.signed.latest",
    "usr/lib/shim/shimx64.efi.dualsigned",
];
/// Where the second is.
const SECOND: &str = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";

/// Two boot loaders.
pub(super) struct Loaders {
    /// What the firmware starts: it knows the distribution's key.
    pub(super) first: PathBuf,
    /// What that starts: it knows file systems and kernels.
    pub(super) second: PathBuf,
}

/// Downloads and unpacks them under `work`.
pub(super) async fn fetch(work: &Path) -> anyhow::Result<Loaders> {
    let root = work.join("efi");
    packages::unpack(&PACKAGES.map(str::to_owned), &root).await?;
    let first = FIRST.iter().map(|path| root.join(path)).find(|path| path.is_file());
    let first = first.context("the package shim-signed holds no signed boot loader")?;
    let second = root.join(SECOND);
    anyhow::ensure!(second.is_file(), "the package grub-efi-amd64-signed holds no signed boot loader");
    Ok(Loaders { first, second })
}
