//! The configuration of a private libvirt host: files under its own `/etc/libvirt`, and the XML of its network.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use quick_xml::{Writer, events::BytesText};

use super::{PrivateMounts, kvm};
use crate::{files, instance::NetworkRecord};

/// Where Linux tells one boot from another: guests that ran before this one went down with the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Directories of a host, as seen from outside.
#[derive(Clone, Debug)]
pub(super) struct Dirs {
    base: PathBuf,
    /// `/run/libvirt`, on a short path.
    pub(super) run: PathBuf,
}

impl Dirs {
    pub(super) fn new(base: PathBuf, run: PathBuf) -> Self {
        Self { base, run }
    }

    pub(super) fn etc(&self) -> PathBuf {
        self.base.join("etc")
    }

    pub(super) fn lib(&self) -> PathBuf {
        self.base.join("lib")
    }

    /// The directory of the pool `default`.
    pub(super) fn images(&self) -> PathBuf {
        self.lib().join("images")
    }

    /// libvirt's logs and the guests'.
    pub(super) fn log(&self) -> PathBuf {
        self.base.join("log")
    }

    /// libvirt's package makes it, not the daemon.
    pub(super) fn guest_logs(&self) -> PathBuf {
        self.log().join("qemu")
    }

    pub(super) fn pool_target() -> &'static str {
        "/var/lib/libvirt/images"
    }

    fn no_kvm(&self) -> PathBuf {
        self.base.join("no-kvm")
    }

    fn cache(&self) -> PathBuf {
        self.base.join("cache")
    }

    /// Makes the directories and the files in them.
    pub(super) fn write(&self) -> Result<()> {
        // QEMU runs as a user of its own and passes through these.
        for dir in [self.lib(), self.images(), self.guest_logs(), self.cache(), self.run.clone()] {
            files::make_dir(&dir, 0o711)?;
        }
        files::make_dir(&self.etc(), 0o755)?;
        files::write(&self.etc().join("libvirtd.conf"), libvirtd_conf(&self.host_uuid()?), 0o644)?;
        files::write(&self.etc().join("qemu.conf"), QEMU_CONF, 0o644)?;
        files::write(&self.etc().join("network.conf"), NETWORK_CONF, 0o644)?;
        copy_network_filters(&self.etc().join("nwfilter"))?;
        files::write(&self.boot_id(), crate::random::uuid(), 0o444)?;
        files::write(&self.no_kvm(), b"", 0o000)
    }

    /// Removes what is in the directories that [`Self::mounts`] shows, but for logs.
    pub(super) fn empty(&self) -> Result<()> {
        for dir in [self.lib(), self.etc(), self.cache(), self.run.clone()] {
            for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?.flatten() {
                match entry.file_type()?.is_dir() {
                    true => files::remove_dir(&entry.path())?,
                    false => files::remove_file(&entry.path())?,
                }
            }
        }
        Ok(())
    }

    /// The view of the host's processes.
    pub(super) fn mounts(&self) -> PrivateMounts {
        // libvirt's package makes these, but a machine may have been cleaned.
        let mut mounts = PrivateMounts::default()
            .bind(self.lib(), "/var/lib/libvirt")
            .bind(&self.run, "/run/libvirt")
            .bind(self.etc(), "/etc/libvirt")
            .bind(self.cache(), "/var/cache/libvirt")
            .bind(self.log(), "/var/log/libvirt");
        if Path::new(kvm::DEVICE).exists() && !kvm::is_usable() {
            mounts = mounts.bind(self.no_kvm(), kvm::DEVICE);
        }
        mounts
    }

    /// Makes [`BOOT_ID`] this host's own, new with each start of it.
    pub(super) fn boot_id_mount(&self) -> PrivateMounts {
        PrivateMounts::default().bind(self.boot_id(), BOOT_ID)
    }

    fn boot_id(&self) -> PathBuf {
        self.base.join("boot-id")
    }

    /// The directories that must exist on the machine for [`Self::mounts`].
    pub(super) fn mount_points() -> [&'static str; 5] {
        ["/var/lib/libvirt", "/run/libvirt", "/etc/libvirt", "/var/cache/libvirt", "/var/log/libvirt"]
    }

    /// The host's identity, kept: libvirt refuses to migrate between hosts of the same one.
    fn host_uuid(&self) -> Result<String> {
        let path = self.base.join("host-uuid");
        if let Ok(uuid) = fs::read_to_string(&path) {
            return Ok(uuid);
        }
        let uuid = crate::random::uuid();
        files::write(&path, &uuid, 0o644)?;
        Ok(uuid)
    }
}

fn libvirtd_conf(host_uuid: &str) -> String {
    format!(
        r#"# Written by kvmoor-dev.
host_uuid = "{host_uuid}"
# The directory of the socket is open to its owner alone.
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
"#
    )
}

/// A private device tree per guest and confinement profiles expect the real directories; cgroups would be shared by
/// hosts that do not know of each other.
const QEMU_CONF: &str = r"# Written by kvmoor-dev.
namespaces = []
security_driver = []
cgroup_controllers = []
";

/// Only this backend's rules can be told apart and removed after a crash. Older versions know no other and ignore it.
const NETWORK_CONF: &str = r#"# Written by kvmoor-dev.
firewall_backend = "iptables"
"#;

/// The filters that libvirt ships, so that a guest's interface may name one.
fn copy_network_filters(to: &Path) -> Result<()> {
    files::make_dir(to, 0o700)?;
    let Ok(filters) = fs::read_dir("/etc/libvirt/nwfilter") else { return Ok(()) };
    for filter in filters.flatten() {
        let target = to.join(filter.file_name());
        if !target.exists() {
            fs::copy(filter.path(), &target).with_context(|| format!("copy to {}", target.display()))?;
        }
    }
    Ok(())
}

/// The NAT network `default`.
pub(super) fn network_xml(network: &NetworkRecord) -> Result<String> {
    let [a, b, c, _] = network.subnet.octets();
    let host = |last: u8| format!("{a}.{b}.{c}.{last}");
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.create_element("network").write_inner_content(|writer| {
        writer.create_element("name").write_text_content(BytesText::new("default"))?;
        writer.create_element("forward").with_attribute(("mode", "nat")).write_empty()?;
        let bridge = writer.create_element("bridge").with_attribute(("name", network.bridge.as_str()));
        bridge.with_attributes([("stp", "on"), ("delay", "0")]).write_empty()?;
        let ip = writer.create_element("ip").with_attribute(("address", host(1).as_str()));
        ip.with_attribute(("netmask", "255.255.255.0")).write_inner_content(|writer| {
            writer.create_element("dhcp").write_inner_content(|writer| {
                let range = writer.create_element("range").with_attribute(("start", host(2).as_str()));
                range.with_attribute(("end", host(254).as_str())).write_inner_content(|writer| {
                    // A guest that is deleted leaves its address only when the lease ends.
                    let lease = writer.create_element("lease");
                    lease.with_attributes([("expiry", "10"), ("unit", "minutes")]).write_empty()?;
                    Ok(())
                })?;
                Ok(())
            })?;
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(String::from_utf8(writer.into_inner())?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_network_is_on_its_own_bridge_and_addresses() {
        let record = NetworkRecord { bridge: "kvm-1-0".into(), subnet: Ipv4Addr::new(192, 168, 140, 0) };
        let xml = network_xml(&record).unwrap();
        assert!(xml.contains(r#"<bridge name="kvm-1-0" stp="on" delay="0"/>"#), "{xml}");
        assert!(xml.contains(r#"<range start="192.168.140.2" end="192.168.140.254">"#), "{xml}");
        assert!(xml.contains(r#"<lease expiry="10" unit="minutes"/>"#), "{xml}");
    }
}
