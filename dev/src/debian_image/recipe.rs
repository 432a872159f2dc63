//! What the Debian is made of.

use sha2::{Digest as _, Sha256};

/// The release.
pub(super) const SUITE: &str = "bookworm";
/// Where packages come from when the machine's own sources name no Debian.
pub(super) const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Packages beside the smallest system. debootstrap does not know which package stands for a virtual one, so
/// python3-cffi-backend is named.
pub(super) const PACKAGES: &[&str] = &[
    "cloud-guest-utils",
    "cloud-init",
    "ifupdown",
    "iproute2",
    "isc-dhcp-client",
    "linux-image-cloud-amd64",
    "openssh-server",
    "python3-cffi-backend",
    "qemu-guest-agent",
    "sudo",
    "systemd-sysv",
    "udev",
];

/// A file of the image.
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) content: &'static str,
}

/// Files that are written after the packages were installed.
pub(super) const FILES: &[File] = &[
    File { path: "etc/fstab", content: "LABEL=debian-root / ext4 defaults 0 1\n" },
    File { path: "etc/hostname", content: "debian\n" },
    File {
        path: "etc/network/interfaces",
        content: "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
    },
    File { path: "etc/cloud/cloud.cfg.d/99-datasource.cfg", content: "datasource_list: [NoCloud, None]\n" },
    // The package's hook runs what is in fsfreeze-hook.d, and the agent runs the hook only if told to.
    File { path: "etc/qemu/qemu-ga.conf", content: "[general]\nfsfreeze-hook=/etc/qemu/fsfreeze-hook\n" },
    // A small initramfs: in software it takes seconds to unpack a large one.
    File { path: "etc/initramfs-tools/conf.d/small", content: "MODULES=list\nCOMPRESS=gzip\n" },
    File { path: "etc/initramfs-tools/modules", content: "virtio_pci\nvirtio_blk\next4\n" },
];

/// What is not needed, or must not be the same in two guests.
pub(super) const REMOVED: &[&str] = &["var/cache/apt/archives", "var/lib/apt/lists", "debootstrap"];

/// The boot loader's configuration.
pub(super) const BOOT_CONFIG: &str = "\
DEFAULT debian
PROMPT 0
LABEL debian
  KERNEL vmlinuz
  INITRD initrd
  APPEND root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 mitigations=off
";

/// Changes whenever the code makes another image of the same recipe.
const FORMAT_VERSION: u32 = 1;

/// Identifies what goes into the image, apart from the packages' versions.
pub(super) fn digest() -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT_VERSION.to_be_bytes());
    let files = FILES.iter().flat_map(|file| [file.path, file.content]);
    for part in [SUITE, BOOT_CONFIG].into_iter().chain(PACKAGES.iter().copied()).chain(files) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
