//! Puts a kernel and its initramfs on a bootable disk.
//!
//! The disk is one FAT file system without a partition table: that a file can be made into it without mounting it is
//! what spares root and a loop device.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::{command, efi};

/// Virtual size in bytes. Kernel and initramfs take a third, the rest is for the guest's own state.
const SIZE: u64 = 64 << 20;

/// By which the guest finds the disk, padded to the 11 bytes of FAT.
const LABEL: [u8; 11] = *b"KVMOORTINY ";

/// The boot loader's configuration. The screen and the serial port both show the guest's messages; the latter is its
/// `/dev/console`.
pub(super) const BOOT_CONFIG: &str = "\
DEFAULT tiny
PROMPT 0
NOESCAPE 1
LABEL tiny
  KERNEL vmlinuz
  INITRD initrd
  APPEND quiet console=tty0 console=ttyS0,115200 mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests
";

/// The same for UEFI.
pub(super) const EFI_CONFIG: &str = "\
search --no-floppy --label KVMOORTINY --set=root
linux /vmlinuz quiet console=tty0 console=ttyS0,115200 mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests
initrd /initrd
boot
";

/// Writes the disk under `work` and returns the path of the qcow2 file.
pub(super) async fn build(
    kernel: &Path,
    initramfs: &Path,
    loaders: &efi::Loaders,
    work: &Path,
) -> anyhow::Result<PathBuf> {
    let raw = work.join("tiny.raw");
    write_files(&raw, kernel, initramfs, loaders).with_context(|| format!("cannot write {}", raw.display()))?;
    command::run("syslinux", &["--install".as_ref(), raw.as_os_str()], work).await?;

    let qcow2 = work.join("tiny.qcow2");
    let args = ["convert", "-f", "raw", "-O", "qcow2", "tiny.raw", "tiny.qcow2"];
    command::run("qemu-img", &args, work).await?;
    Ok(qcow2)
}

fn write_files(raw: &Path, kernel: &Path, initramfs: &Path, loaders: &efi::Loaders) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(raw)?;
    file.set_len(SIZE)?;
    fatfs::format_volume(&mut file, FormatVolumeOptions::new().volume_label(LABEL))?;
    let disk = FileSystem::new(file, FsOptions::new())?;
    let root = disk.root_dir();
    root.create_file("vmlinuz")?.write_all(&fs::read(kernel)?)?;
    root.create_file("initrd")?.write_all(&fs::read(initramfs)?)?;
    root.create_file("syslinux.cfg")?.write_all(BOOT_CONFIG.as_bytes())?;
    let efi = root.create_dir("EFI")?;
    // What firmware starts from a disk that it has not been told of.
    let boot = efi.create_dir("BOOT")?;
    boot.create_file("BOOTX64.EFI")?.write_all(&fs::read(&loaders.first)?)?;
    boot.create_file("grubx64.efi")?.write_all(&fs::read(&loaders.second)?)?;
    // A signed boot loader looks in the place of its distribution.
    for vendor in ["debian", "ubuntu"] {
        efi.create_dir(vendor)?.create_file("grub.cfg")?.write_all(EFI_CONFIG.as_bytes())?;
    }
    drop((boot, efi, root));
    disk.unmount()
}
