//! The guest `tiny`: a Linux small enough to boot in seconds without KVM, yet a real guest for everything Kvmoor does.
//!
//! It boots by BIOS or UEFI, with Secure Boot if need be, from a virtio disk with 96 MiB of memory (in less than 76 MiB the kernel of Debian 12 cannot unpack
//! itself), takes an address by DHCP on each interface, applies a NoCloud seed (host name, SSH keys, `runcmd` or a
//! script, once per instance-id), and powers off within a second of the ACPI power button. Processors, memory and
//! interfaces plugged in later are taken into use. There is a root shell without a password on the screen and on the
//! serial port: it is a guest for tests and demonstrations only.
//!
//! Over HTTP on port 80 it answers, as plain text:
//!
//! | path | answer |
//! |---|---|
//! | `/` | host name |
//! | `/boot-id` | random, new with each boot |
//! | `/instance-id`, `/ssh-authorized-keys`, `/runcmd.log` | what came of the seed |
//! | `/firmware` | `bios`, `uefi` or `uefi-secure`, and `tpm` where there is one |
//! | `/uptime`, `/nproc`, `/meminfo` | seconds since the boot, processors online, `/proc/meminfo` |
//! | `/partitions` | `/proc/partitions`: the disks and their sizes in KiB |
//! | `/cgi-bin/ram`, `/cgi-bin/disk` | the note last POSTed there, kept in memory or on the disk |
//!
//! The paths outside `/cgi-bin` redirect to themselves with a slash at the end.
//!
//! Kernel and busybox are the distribution's, unpacked from their packages and never installed: building the image
//! changes nothing on the machine, and needs neither root nor a loop device.

pub(crate) mod command;
mod cpio;
mod disk;
mod efi;
mod initramfs;
mod kernel;
mod modules;
pub(crate) mod packages;
pub(crate) mod workshop;

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The Debian and Ubuntu packages whose programs build the image.
pub const PACKAGES: &[&str] = &["gzip", "mtools", "qemu-utils", "syslinux", "xz-utils", "zstd"];

/// Changes whenever the code makes another image of the same embedded files.
const FORMAT_VERSION: u32 = 2;

/// Returns the path of the image `tiny` in `<cache_dir>/images`, built if this version of it is not there yet.
///
/// Several processes may ask at once: one builds, the others wait for it.
///
/// # Errors
///
/// When a program of [`PACKAGES`] is missing, the packages of kernel or busybox cannot be downloaded (apt's package lists
/// may be missing or old), or the cache cannot be written.
pub async fn ensure(cache_dir: &Path) -> anyhow::Result<PathBuf> {
    workshop::ensure(cache_dir, "tiny", &recipe(), build).await
}

async fn build(work: &Path) -> anyhow::Result<PathBuf> {
    tracing::info!("fetching the guest's kernel");
    let kernel = kernel::fetch(work).await?;
    tracing::info!(kernel = %kernel.image.display(), "packing the guest's disk");
    let initramfs = initramfs::build(&kernel, work).await?;
    tracing::info!("fetching the guest's boot loaders");
    let loaders = efi::fetch(work).await?;
    disk::build(&kernel.image, &initramfs, &loaders, work).await
}

/// Identifies what goes into the image, apart from the distribution's packages.
fn recipe() -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT_VERSION.to_be_bytes());
    hash.update(disk::BOOT_CONFIG);
    hash.update(disk::EFI_CONFIG);
    for file in initramfs::FILES {
        for part in [file.path.as_bytes(), &file.mode.to_be_bytes(), file.content] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
