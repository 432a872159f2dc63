//! Fetches the kernel that the distribution has for virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{command, packages};

/// The packages that stand for the newest kernel for virtual machines: Debian's, then Ubuntu's.
const KERNEL_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// Where a kernel and its modules come from, depending on the distribution and its release.
const KERNEL_PARTS: [&str; 3] = ["linux-image-", "linux-modules-", "linux-binary-"];

/// An unpacked kernel.
pub(super) struct Kernel {
    /// The bootable image.
    pub(super) image: PathBuf,
    /// The directory with its modules.
    pub(super) modules: PathBuf,
}

/// Downloads and unpacks a kernel under `work`.
pub(super) async fn fetch(work: &Path) -> anyhow::Result<Kernel> {
    let root = work.join("kernel");
    packages::unpack(&package_names(work).await?, &root).await?;
    find(&root).context("the kernel packages hold no kernel with modules")
}

/// The packages to unpack: those the first known kernel package leads to.
async fn package_names(work: &Path) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for name in KERNEL_PACKAGES {
        let mut pending = vec![name.to_owned()];
        while let Some(next) = pending.pop() {
            let shown = command::output("apt-cache", &["show", "--no-all-versions", &next], work).await?;
            if !shown.status.success() {
                continue;
            }
            pending.extend(
                kernel_dependencies(&String::from_utf8_lossy(&shown.stdout))
                    .into_iter()
                    .filter(|dependency| !found.contains(dependency)),
            );
            found.push(next);
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    anyhow::bail!("apt knows none of {}: run apt-get update first", KERNEL_PACKAGES.join(", "))
}

/// The parts of a kernel among the dependencies in a package's description.
fn kernel_dependencies(description: &str) -> Vec<String> {
    description
        .lines()
        .filter_map(|line| line.strip_prefix("Depends:"))
        .flat_map(|names| names.split([',', '|']))
        .filter_map(|name| name.split_whitespace().next())
        .filter(|name| KERNEL_PARTS.iter().any(|part| name.starts_with(part)))
        .map(str::to_owned)
        .collect()
}

fn find(root: &Path) -> Option<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"].into_iter().find_map(|path| only_entry(&root.join(path)))?;
    let version = modules.file_name()?.to_str()?;
    let image = [root.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")]
        .into_iter()
        .find(|path| path.exists())?;
    Some(Kernel { image, modules })
}

fn only_entry(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.next()?.ok().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_a_kernel_are_followed() {
        let debian = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(kernel_dependencies(debian), ["linux-image-6.1.0-56-cloud-amd64"]);

        let ubuntu = "Package: linux-image-5.15.0-91-generic\n\
            Depends: kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-5.15.0-91-generic\n\
            Recommends: grub-pc | grub-efi-amd64 | lilo, initramfs-tools | linux-initramfs-tool\n";
        assert_eq!(kernel_dependencies(ubuntu), ["linux-modules-5.15.0-91-generic"]);
    }
}
