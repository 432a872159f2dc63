//! The domain XML of a virtual machine. Pure: what is in [`DomainConfig`] decides every byte of it.
//!
//! Source: <https://libvirt.org/formatdomain.html>. Every disk format is stated, nothing listens on TCP, and no text of
//! a user stands in it but names that the API has checked and that are written as attributes.

use kvmoor_crds::{Firmware, VirtType, names};
use sha2::{Digest, Sha256};

use super::metadata::Metadata;
use super::room::MemoryRoom;
use super::serial_log;
use super::xml::Element;

/// Where libvirt writes what guests say on their serial port; virtlogd rotates it.
pub const LOG_DIRECTORY: &str = "/var/log/libvirt/qemu";
/// The channel of the guest agent: whoever runs one in the guest opens it. libvirt chooses the path of its socket.
pub const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";
/// Ports for disks that are attached to a guest that runs; libvirt itself leaves none free.
const SPARE_PORTS: usize = 4;
/// Devices of every guest that sit at a port of their own: USB, channel, memory balloon, random numbers.
const OTHER_PORTS: usize = 4;
/// Letters of virtio disks: `vda`, `vdb`, … The API allows 16 disks beside root disk and seed.
const DISK_LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
/// Most queues of a disk; each costs the guest an interrupt.
const MOST_QUEUES: u32 = 16;

/// What a domain is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// UID of the virtual machine; the domain's UUID too.
    pub uid: String,
    /// How the guest's CPUs run.
    pub virt: VirtType,
    /// Architecture, as libvirt names it.
    pub arch: String,
    /// Virtual CPUs.
    pub cpu: u32,
    /// Virtual CPUs that may be plugged in, those of the start included.
    pub max_cpu: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Memory that may be plugged in.
    pub memory_room: Option<MemoryRoom>,
    /// Firmware.
    pub firmware: Firmware,
    /// Whether there is a TPM 2.0.
    pub tpm: bool,
    /// The storage pool with all disks.
    pub pool: String,
    /// Disks in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// Network interfaces in the order in which the guest sees them.
    pub nics: Vec<super::network_xml::Nic>,
}

/// A disk of a domain: a volume of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name of the volume.
    pub volume: String,
    /// Its format; libvirt must not guess it.
    pub format: DiskFormat,
    /// The serial number that the guest sees; QEMU keeps 20 characters.
    pub serial: Option<String>,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// Format of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFormat {
    /// qcow2
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

impl DiskFormat {
    /// The word in libvirt.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A short hash of the XML without metadata: when it differs from the one in force, the domain is defined again.
pub fn fingerprint(config: &DomainConfig) -> String {
    let digest = Sha256::digest(domain(config, None).render().as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The domain XML.
pub fn render(config: &DomainConfig, metadata: &Metadata) -> String {
    domain(config, Some(metadata)).render()
}

fn domain(config: &DomainConfig, metadata: Option<&Metadata>) -> Element {
    let kind = match config.virt {
        VirtType::Kvm => "kvm",
        VirtType::Qemu => "qemu",
    };
    Element::new("domain")
        .attr("type", kind)
        .child(Element::with_text("name", names::domain(&config.uid)))
        .child(Element::with_text("uuid", &config.uid))
        .children(metadata.map(|metadata| Element::new("metadata").child(metadata.to_element())))
        .children(config.memory_room.map(|room| kib("maxMemory", room.maximum_mib).attr("slots", room.slots)))
        .child(kib("memory", config.memory_mib))
        .child(vcpu(config))
        .child(os(config))
        .child(features(config))
        .child(cpu(config.virt).children(config.memory_room.map(|_| numa(config))))
        .child(clock())
        .child(Element::with_text("on_poweroff", "destroy"))
        .child(Element::with_text("on_reboot", "restart"))
        // What is left says that the guest panicked, also to a controller that was not there when it did.
        .child(Element::with_text("on_crash", "preserve"))
        .child(devices(config))
}

fn kib(name: &'static str, mib: u64) -> Element {
    Element::with_text(name, mib.saturating_mul(1024).to_string()).attr("unit", "KiB")
}

fn vcpu(config: &DomainConfig) -> Element {
    let vcpu = Element::with_text("vcpu", config.max_cpu.to_string()).attr("placement", "static");
    if config.cpu < config.max_cpu { vcpu.attr("current", config.cpu) } else { vcpu }
}

/// Memory is plugged into a NUMA node, so there is one.
fn numa(config: &DomainConfig) -> Element {
    let cell = Element::new("cell")
        .attr("id", 0)
        .attr("cpus", format!("0-{}", config.max_cpu.saturating_sub(1)))
        .attr("memory", config.memory_mib.saturating_mul(1024))
        .attr("unit", "KiB");
    Element::new("numa").child(cell)
}

fn os(config: &DomainConfig) -> Element {
    let machine = if config.arch == "aarch64" { "virt" } else { "q35" };
    let kind = Element::with_text("type", "hvm").attr("arch", &config.arch).attr("machine", machine);
    let os = Element::new("os");
    match config.firmware {
        Firmware::Bios => os.child(kind),
        Firmware::Uefi => os.attr("firmware", "efi").child(kind).child(firmware(&[("secure-boot", "no")])),
        Firmware::UefiSecureBoot => {
            os.attr("firmware", "efi").child(kind).child(firmware(&[("secure-boot", "yes"), ("enrolled-keys", "yes")]))
        }
    }
    .child(Element::new("boot").attr("dev", "hd"))
}

fn firmware(features: &[(&str, &str)]) -> Element {
    let feature = |(name, enabled): &(&str, &str)| Element::new("feature").attr("enabled", enabled).attr("name", name);
    Element::new("firmware").children(features.iter().map(feature))
}

/// The firmware guards the keys of Secure Boot in a mode of the CPU that the guest cannot enter.
fn features(config: &DomainConfig) -> Element {
    let smm = (config.firmware == Firmware::UefiSecureBoot).then(|| Element::new("smm").attr("state", "on"));
    Element::new("features").child(Element::new("acpi")).child(Element::new("apic")).children(smm)
}

/// Under KVM the guest has the host's CPU. In software `maximum` is all that QEMU can do: the default `qemu64` lacks
/// what today's distributions ask for (x86-64-v2).
fn cpu(virt: VirtType) -> Element {
    match virt {
        VirtType::Kvm => {
            Element::new("cpu").attr("mode", "host-passthrough").attr("check", "none").attr("migratable", "on")
        }
        VirtType::Qemu => Element::new("cpu").attr("mode", "maximum"),
    }
}

fn clock() -> Element {
    Element::new("clock")
        .attr("offset", "utc")
        .child(Element::new("timer").attr("name", "rtc").attr("tickpolicy", "catchup"))
        .child(Element::new("timer").attr("name", "pit").attr("tickpolicy", "delay"))
        .child(Element::new("timer").attr("name", "hpet").attr("present", "no"))
}

fn devices(config: &DomainConfig) -> Element {
    let DomainConfig { uid, cpu, pool, disks, nics, .. } = config;
    Element::new("devices")
        .children(disks.iter().zip(targets()).map(|(entry, target)| disk(pool, entry, &target, queues(*cpu))))
        .child(Element::new("controller").attr("type", "pci").attr("index", "0").attr("model", "pcie-root"))
        .children(
            (0..disks.len() + nics.len() + OTHER_PORTS + SPARE_PORTS)
                .map(|_| Element::new("controller").attr("type", "pci").attr("model", "pcie-root-port")),
        )
        .child(Element::new("controller").attr("type", "usb").attr("model", "qemu-xhci"))
        .children(nics.iter().map(super::network_xml::Nic::to_element))
        .child(
            Element::new("serial")
                .attr("type", "pty")
                .child(
                    Element::new("log")
                        .attr("file", format!("{LOG_DIRECTORY}/{}", serial_log::file(uid)))
                        .attr("append", "on"),
                )
                .child(Element::new("target").attr("port", "0")),
        )
        .child(
            Element::new("console")
                .attr("type", "pty")
                .child(Element::new("target").attr("type", "serial").attr("port", "0")),
        )
        .child(
            Element::new("channel")
                .attr("type", "unix")
                .child(Element::new("target").attr("type", "virtio").attr("name", AGENT_CHANNEL)),
        )
        .child(Element::new("input").attr("type", "tablet").attr("bus", "usb"))
        // Whoever looks on shares the display, whatever its client asks for.
        .child(
            Element::new("graphics")
                .attr("type", "vnc")
                .attr("sharePolicy", "ignore")
                .child(Element::new("listen").attr("type", "none")),
        )
        // Standard VGA is what BIOS, boot loader and a text console all draw on.
        .child(Element::new("video").child(Element::new("model").attr("type", "vga")))
        // The guest is asked every few seconds how much memory it uses.
        .child(Element::new("memballoon").attr("model", "virtio").child(Element::new("stats").attr("period", "5")))
        .child(
            Element::new("rng")
                .attr("model", "virtio")
                .child(Element::with_text("backend", "/dev/urandom").attr("model", "random")),
        )
        .children((config.arch == "x86_64").then(|| Element::new("panic").attr("model", "isa")))
        .children(config.tpm.then(|| {
            let model = if config.arch == "x86_64" { "tpm-crb" } else { "tpm-tis" };
            let backend = Element::new("backend").attr("type", "emulator").attr("version", "2.0");
            Element::new("tpm").attr("model", model).child(backend)
        }))
}

/// Names of the devices, in order: `vda`, `vdb`, …
pub fn targets() -> impl Iterator<Item = String> {
    DISK_LETTERS.chars().map(|letter| format!("vd{letter}"))
}

/// A disk, to be found by its device and detached.
pub fn disk_to_detach(pool: &str, volume: &str, target: &str) -> Element {
    Element::new("disk")
        .attr("type", "volume")
        .attr("device", "disk")
        .child(Element::new("source").attr("pool", pool).attr("volume", volume))
        .child(Element::new("target").attr("dev", target).attr("bus", "virtio"))
}

/// Queues of the disks of a guest with so many CPUs. The number is stated: QEMU's own choice depends on the CPUs at the
/// start, and memory of a guest whose CPUs were plugged in could not be read back from a snapshot.
pub fn queues(cpus: u32) -> u32 {
    cpus.clamp(1, MOST_QUEUES)
}

/// A disk.
///
/// The host's page cache is used, and flushed whenever the guest asks: no write that a guest was told is safe is lost.
/// Without it every guest would read an image that many stand on from the disk by itself, and not every file system can
/// do without. Native I/O would need to do without, so threads do it.
pub fn disk(pool: &str, disk: &Disk, target: &str, queues: u32) -> Element {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", disk.format.as_str());
    let driver = driver.attr("cache", "writeback").attr("io", "threads").attr("queues", queues);
    // A guest whose disk fails is halted rather than told, so that it goes on unharmed when that is mended.
    let driver = driver.attr("error_policy", "stop").attr("rerror_policy", "stop");
    // Space that the guest gives up goes back to the pool.
    let driver = if disk.read_only { driver } else { driver.attr("discard", "unmap") };
    let element = Element::new("disk")
        .attr("type", "volume")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("pool", pool).attr("volume", &disk.volume))
        .child(Element::new("target").attr("dev", target).attr("bus", "virtio"))
        .children(
            disk.serial.iter().map(|serial| Element::with_text("serial", serial.chars().take(20).collect::<String>())),
        );
    if disk.read_only { element.child(Element::new("readonly")) } else { element }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::super::network_xml::{Link, Nic};
    use super::super::xml::shape;
    use super::*;

    /// A configuration with every string as given.
    pub fn config(text: &str) -> DomainConfig {
        let disk = |format, read_only| Disk { volume: text.into(), format, serial: Some(text.into()), read_only };
        DomainConfig {
            uid: text.into(),
            virt: VirtType::Qemu,
            arch: "x86_64".into(),
            cpu: 2,
            max_cpu: 4,
            memory_mib: 2048,
            memory_room: Some(MemoryRoom { maximum_mib: 8192, slots: 16 }),
            firmware: Firmware::Bios,
            tpm: true,
            pool: text.into(),
            disks: vec![disk(DiskFormat::Qcow2, false), disk(DiskFormat::Raw, true)],
            nics: [Link::Nat, Link::Bridge, Link::Isolated]
                .map(|link| Nic { mac: text.into(), link: link(text.into()) })
                .to_vec(),
        }
    }

    #[test]
    fn what_libvirt_has_accepted() {
        let mut config = config("0");
        config.virt = VirtType::Kvm;
        config.disks.truncate(1);
        let xml = domain(&config, None).render();
        assert!(xml.starts_with(
            "<domain type=\"kvm\"><name>kvmoor-0</name><uuid>0</uuid><maxMemory unit=\"KiB\" slots=\"16\">8388608</maxMemory>\
             <memory unit=\"KiB\">2097152</memory><vcpu placement=\"static\" current=\"2\">4</vcpu>"
        ));
        assert!(xml.contains("<numa><cell id=\"0\" cpus=\"0-3\" memory=\"2097152\" unit=\"KiB\"/></numa></cpu>"));
        assert!(xml.contains(
            "<disk type=\"volume\" device=\"disk\"><driver name=\"qemu\" type=\"qcow2\" cache=\"writeback\" io=\"threads\" \
             queues=\"2\" error_policy=\"stop\" rerror_policy=\"stop\" discard=\"unmap\"/>\
             <source pool=\"0\" volume=\"0\"/><target dev=\"vda\" bus=\"virtio\"/><serial>0</serial></disk>"
        ));
        assert!(xml.contains("<graphics type=\"vnc\" sharePolicy=\"ignore\"><listen type=\"none\"/></graphics>"));
        assert!(!xml.contains("metadata"));
    }

    #[test]
    fn each_firmware_is_asked_for_by_what_it_can() {
        let os = |firmware| domain(&DomainConfig { firmware, ..config("a") }, None).render();
        assert!(!os(Firmware::Bios).contains("efi"));
        let plain = os(Firmware::Uefi);
        assert!(
            plain.contains("<firmware><feature enabled=\"no\" name=\"secure-boot\"/></firmware>")
                && !plain.contains("<smm")
        );
        let secure = os(Firmware::UefiSecureBoot);
        assert!(secure.contains("<feature enabled=\"yes\" name=\"enrolled-keys\"/>"), "{secure}");
        assert!(secure.contains("<smm state=\"on\"/>"), "{secure}");
    }

    #[test]
    fn fingerprint_tells_configurations_apart_and_ignores_metadata() {
        let one = config("a");
        let mut other = one.clone();
        other.memory_mib += 1;
        assert_ne!(fingerprint(&one), fingerprint(&other));
        assert_eq!(fingerprint(&one), fingerprint(&one.clone()));
    }

    proptest! {
        #[test]
        fn any_text_gives_the_same_tree(text in any::<String>(), name in any::<String>()) {
            let metadata = |text: &str| Metadata { uid: text.into(), name: text.into(), ..Metadata::default() };
            let plain = shape::of(&render(&config("plain"), &metadata("plain"))).unwrap();
            prop_assert_eq!(shape::of(&render(&config(&text), &metadata(&name))), Ok(plain));
        }
    }
}
