//! Puts the Debian on a disk: a partition table, a boot partition (FAT) and a root partition (ext4).

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::recipe;
use crate::guest_image::{command, packages};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Where the boot partition begins.
const BOOT_AT: u64 = MIB;
/// Size of the boot partition. Kernel and initramfs take a quarter of it.
const BOOT_SIZE: u64 = 96 * MIB;
/// Where the root partition begins.
const ROOT_AT: u64 = BOOT_AT + BOOT_SIZE;
/// Size of the root partition. The system takes half of it.
const ROOT_SIZE: u64 = 1400 * MIB;
/// The part of the first sector that is code.
const CODE: usize = 440;

/// Writes the disk under `work` and returns the path of the qcow2 file.
pub(super) async fn build(root: &Path, work: &Path) -> Result<PathBuf> {
    boot_partition(root, work).await?;
    sparse(&work.join("root.part"), ROOT_SIZE)?;
    let root_text = root.to_string_lossy();
    command::run("mke2fs", &["-q", "-t", "ext4", "-L", "debian-root", "-d", &root_text, "root.part"], work).await?;

    packages::unpack(&["syslinux-common".to_owned()], &work.join("syslinux")).await?;
    let code = fs::read(work.join("syslinux/usr/lib/syslinux/mbr/mbr.bin")).context("read the boot code")?;
    sparse(&work.join("disk.raw"), ROOT_AT + ROOT_SIZE)?;
    let mut disk = File::options().write(true).open(work.join("disk.raw"))?;
    disk.write_all(&first_sector(&code))?;
    disk.flush()?;
    for (part, at) in [("boot.part", BOOT_AT), ("root.part", ROOT_AT)] {
        disk.seek(SeekFrom::Start(at))?;
        let mut from = File::open(work.join(part))?;
        std::io::copy(&mut from, &mut disk)?;
    }
    drop(disk);
    let offset = BOOT_AT.to_string();
    command::run("syslinux", &["--install", "--offset", &offset, "disk.raw"], work).await?;
    let args = ["convert", "-f", "raw", "-O", "qcow2", "-c", "disk.raw", "debian.qcow2"];
    command::run("qemu-img", &args, work).await?;
    Ok(work.join("debian.qcow2"))
}

async fn boot_partition(root: &Path, work: &Path) -> Result<()> {
    sparse(&work.join("boot.part"), BOOT_SIZE)?;
    let hidden = (BOOT_AT / SECTOR).to_string();
    command::run("mformat", &["-i", "boot.part", "-H", &hidden, "-F", "::"], work).await?;
    fs::write(work.join("syslinux.cfg"), recipe::BOOT_CONFIG)?;
    let kernel = find(&root.join("boot"), "vmlinuz-")?;
    let initramfs = find(&root.join("boot"), "initrd.img-")?;
    for (from, to) in [(kernel, "::vmlinuz"), (initramfs, "::initrd"), (work.join("syslinux.cfg"), "::syslinux.cfg")] {
        command::run("mcopy", &["-i", "boot.part", &from.to_string_lossy(), to], work).await?;
    }
    Ok(())
}

fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .filter(|path| path.extension().is_none_or(|extension| extension != "dpkg-bak"))
        .collect();
    names.sort();
    names.pop().with_context(|| format!("there is no {prefix}* in {}", dir.display()))
}

fn sparse(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(file.set_len(size)?)
}

/// Boot code and partition table.
fn first_sector(code: &[u8]) -> Vec<u8> {
    let mut sector: Vec<u8> = code.iter().copied().take(CODE).collect();
    sector.resize(446, 0);
    for (active, kind, at, size) in [(0x80, 0x0c, BOOT_AT, BOOT_SIZE), (0, 0x83, ROOT_AT, ROOT_SIZE)] {
        // Cylinders, heads and sectors say nothing any more.
        sector.extend([active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
        for number in [at / SECTOR, size / SECTOR] {
            sector.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sector_has_code_and_two_partitions() {
        let sector = first_sector(&[0x90; 1000]);
        assert_eq!(sector.len(), 512);
        assert_eq!(&sector[..440], &[0x90; 440]);
        assert_eq!(&sector[440..446], &[0; 6]);
        assert_eq!((sector[446], sector[450], sector[462], sector[466]), (0x80, 0x0c, 0, 0x83));
        assert_eq!(&sector[454..462], [2048_u32.to_le_bytes(), 196_608_u32.to_le_bytes()].as_flattened());
        assert_eq!(&sector[510..], &[0x55, 0xaa]);
    }
}
