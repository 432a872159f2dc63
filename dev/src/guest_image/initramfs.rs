//! Packs the guest's root file system: busybox, the scripts under `rootfs`, and the kernel modules they load.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    command,
    cpio::Archive,
    kernel::Kernel,
    modules::{Module, Modules, Need},
    packages,
};

/// A file of the guest that is part of this program.
pub(super) struct Embedded {
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) content: &'static [u8],
}

macro_rules! embed {
    ($path:literal, $mode:literal, $source:literal) => {
        Embedded { path: $path, mode: $mode, content: include_bytes!(concat!("rootfs/", $source)) }
    };
}

pub(super) const FILES: &[Embedded] = &[
    embed!("etc/inittab", 0o644, "etc/inittab"),
    embed!("etc/acpi/PWRF/00000080", 0o755, "lib/power-button"),
    embed!("lib/tiny/boot", 0o755, "lib/boot"),
    embed!("lib/tiny/commands.awk", 0o644, "lib/commands.awk"),
    embed!("lib/tiny/console", 0o755, "lib/console"),
    embed!("lib/tiny/dhcp", 0o755, "lib/dhcp"),
    embed!("lib/tiny/flush", 0o755, "lib/flush"),
    embed!("lib/tiny/hotplug", 0o755, "lib/hotplug"),
    embed!("lib/tiny/late", 0o755, "lib/late"),
    embed!("lib/tiny/lease", 0o755, "lib/lease"),
    embed!("lib/tiny/load", 0o755, "lib/load"),
    embed!("lib/tiny/power", 0o755, "lib/power"),
    embed!("lib/tiny/seed", 0o755, "lib/seed"),
    embed!("lib/tiny/yaml.awk", 0o644, "lib/yaml.awk"),
    embed!("www/cgi-bin/disk", 0o755, "www/state.cgi"),
    embed!("www/cgi-bin/index.cgi", 0o755, "www/index.cgi"),
    embed!("www/cgi-bin/ram", 0o755, "www/state.cgi"),
];

const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "disk",
    "etc",
    "etc/acpi",
    "etc/acpi/PWRF",
    "lib",
    "lib/modules",
    "lib/tiny",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var",
    "var/run",
    "www",
    // The web server answers for a directory without an index with cgi-bin/index.cgi.
    "www/boot-id",
    "www/firmware",
    "www/cgi-bin",
    "www/instance-id",
    "www/meminfo",
    "www/nproc",
    "www/partitions",
    "www/runcmd.log",
    "www/ssh-authorized-keys",
    "www/uptime",
];

/// Modules to load, in order, before the guest looks for its disks and network.
const BOOT_MODULES: &[(&str, Need)] = &[
    ("virtio_pci", Need::Required),
    ("virtio_blk", Need::Required),
    ("virtio_net", Need::Required),
    ("nls_cp437", Need::Optional),
    ("nls_ascii", Need::Optional),
    ("nls_iso8859_1", Need::Optional),
    ("nls_utf8", Need::Optional),
    ("vfat", Need::Required),
    ("evdev", Need::Required),
    ("button", Need::Required),
];

/// Modules for a seed that is not a FAT file system.
const ISO9660_MODULES: &[(&str, Need)] = &[("isofs", Need::Required)];

/// Modules for a seed that is not on a virtio disk. Debian's kernel has no AHCI, so it sees no SATA CD-ROM.
const SCSI_MODULES: &[(&str, Need)] = &[
    ("virtio_scsi", Need::Optional),
    ("ata_piix", Need::Optional),
    ("ahci", Need::Optional),
    ("sd_mod", Need::Optional),
    ("sr_mod", Need::Optional),
];

/// Modules to load once the guest answers.
const LATE_MODULES: &[(&str, Need)] = &[
    ("virtio_balloon", Need::Optional),
    ("virtio_rng", Need::Optional),
    ("virtio_mem", Need::Optional),
    ("pvpanic_pci", Need::Optional),
    ("pvpanic_mmio", Need::Optional),
];

/// The scripts load a list by its name: always `boot` first, then any of the others.
const MODULE_LISTS: [(&str, &[(&str, Need)]); 4] =
    [("boot", BOOT_MODULES), ("iso9660", ISO9660_MODULES), ("scsi", SCSI_MODULES), ("late", LATE_MODULES)];

/// Writes the initramfs for `kernel` under `work` and returns its path.
pub(super) async fn build(kernel: &Kernel, work: &Path) -> anyhow::Result<PathBuf> {
    let modules = Modules::list(&kernel.modules)?;
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory, 0o755);
    }
    // The kernel opens the console for init before anything could make this node.
    archive.character_device("dev/console", 0o600, (5, 1));
    for Embedded { path, mode, content } in FILES {
        archive.file(path, *mode, content);
    }

    let busybox = busybox(work).await?;
    archive.file("bin/busybox", 0o755, &fs::read(&busybox)?);
    archive.symlink("init", "bin/busybox");
    let applets = command::run(&busybox, &["--list"], work).await?;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }

    let mut packed: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (list, names) in MODULE_LISTS {
        let mut loaded: Vec<Module> = Vec::new();
        for (name, need) in names {
            modules.load(name, *need, &mut loaded).await?;
        }
        let paths: String = loaded.iter().map(|module| format!("/lib/modules/{}.ko\n", module.name)).collect();
        archive.file(&format!("lib/tiny/modules.{list}"), 0o644, paths.as_bytes());
        packed.extend(loaded.into_iter().map(|module| (module.name, module.image)));
    }
    for (name, image) in &packed {
        archive.file(&format!("lib/modules/{name}.ko"), 0o644, image);
    }

    let path = work.join("initrd");
    fs::write(&path, archive.finish())?;
    let compressed = command::run("gzip", &["-9nc".as_ref(), path.as_os_str()], work).await?;
    fs::write(&path, compressed)?;
    Ok(path)
}

/// Fetches the statically linked busybox. One that is installed may be the other kind.
async fn busybox(work: &Path) -> anyhow::Result<PathBuf> {
    let root = work.join("busybox");
    packages::unpack(&["busybox-static".to_owned()], &root).await?;
    ["bin/busybox", "usr/bin/busybox"]
        .into_iter()
        .map(|path| root.join(path))
        .find(|path| path.exists())
        .context("the package busybox-static holds no busybox")
}
