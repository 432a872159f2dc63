//! The room to grow: what a domain is defined with beyond what it has, and what fits into it while the guest runs.
//! Pure.
//!
//! CPUs are plugged in up to the domain's maximum. Memory grows by whole DIMMs, because only these are given by the host:
//! with a balloon, or with virtio-mem before QEMU 8.2, the guest itself decides whether it takes no more than it was
//! told, and no guest may have more than it was admitted with. Nothing is taken away from a guest that runs: it would
//! have to agree, and QEMU up to 7.2 can crash when a CPU of a guest in software is unplugged.
//!
//! Room costs the guest something: data for each CPU that may come, and 64 MiB of bounce buffers that Linux sets aside
//! as soon as memory may come above 4 GiB, where QEMU puts it. So small guests have no room for memory.

use super::xml::Element;
use super::xml_reader::{attribute, walk};

/// CPUs that every guest may grow to.
const FEW_CPUS: u32 = 4;
/// Guests with less memory, in MiB, have no room for more.
const SMALL_GUEST: u64 = 1024;
/// A domain's maximum is so many times its memory.
const MEMORY_FACTOR: u64 = 4;
/// No maximum is higher, in MiB: QEMU refuses a machine whose addresses exceed the CPU's, which may be 1 TiB.
const HIGHEST_ROOM: u64 = 512 << 10;
/// How often memory can be plugged in between two starts.
const DIMM_SLOTS: u32 = 16;
/// Linux takes memory in blocks of so many MiB, and in larger ones where it has more than [`LARGE_GUEST`] MiB.
const BLOCK: u64 = 128;
const LARGE_BLOCK: u64 = 2048;
const LARGE_GUEST: u64 = 64 << 10;

/// Memory that may be plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRoom {
    /// All memory together, in MiB.
    pub maximum_mib: u64,
    /// How often.
    pub slots: u32,
}

/// The room of a running domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Most CPUs.
    pub cpus: u32,
    /// Most memory, in MiB.
    pub memory_mib: u64,
    /// Free slots for memory.
    pub slots: u32,
}

/// Most CPUs of a domain that starts with `cpus`, where the host's QEMU knows no more than `limit`.
pub fn cpus(cpus: u32, limit: u32) -> u32 {
    cpus.saturating_mul(2).max(FEW_CPUS).min(limit).max(cpus)
}

/// The room for memory of a domain that starts with `memory_mib`.
pub fn memory(memory_mib: u64, host_memory: u64) -> Option<MemoryRoom> {
    let maximum_mib = memory_mib.saturating_mul(MEMORY_FACTOR).min(host_memory >> 30 << 10).min(HIGHEST_ROOM);
    let has_room = memory_mib >= SMALL_GUEST && maximum_mib >= memory_mib.saturating_add(block(memory_mib));
    has_room.then_some(MemoryRoom { maximum_mib, slots: DIMM_SLOTS })
}

impl Room {
    /// Reads the XML of a running domain. `None` where it is none.
    pub fn of(domain_xml: &str) -> Option<Self> {
        let mut room = Self::default();
        let mut dimms = 0_u32;
        walk(domain_xml, |path, start, text| match (path, start, text) {
            (["domain", "vcpu"], _, Some(text)) => room.cpus = text.parse().unwrap_or_default(),
            (["domain", "maxMemory"], Some(start), _) => {
                room.slots = attribute(start, "slots").and_then(|slots| slots.parse().ok()).unwrap_or_default();
            }
            // libvirt writes it in KiB, whatever it was given in.
            (["domain", "maxMemory"], _, Some(text)) => {
                room.memory_mib = text.parse::<u64>().unwrap_or_default() / 1024;
            }
            (["domain", "devices", "memory"], Some(_), _) => dimms = dimms.saturating_add(1),
            _ => {}
        })?;
        room.slots = room.slots.saturating_sub(dimms);
        Some(room)
    }

    /// Whether the CPUs can be added.
    pub fn has_cpus(&self, wanted: u32) -> bool {
        wanted <= self.cpus
    }

    /// Whether a guest that has `present` MiB can be given `wanted`.
    pub fn has_memory(&self, present: u64, wanted: u64) -> bool {
        let growth = wanted.saturating_sub(present);
        self.slots > 0 && wanted <= self.memory_mib && growth.is_multiple_of(block(present))
    }
}

/// Memory to plug in, as libvirt takes it.
pub fn dimm(mib: u64) -> Element {
    let size = Element::with_text("size", mib.saturating_mul(1024).to_string()).attr("unit", "KiB");
    let target = Element::new("target").child(size).child(Element::with_text("node", "0"));
    Element::new("memory").attr("model", "dimm").child(target)
}

fn block(present: u64) -> u64 {
    if present >= LARGE_GUEST { LARGE_BLOCK } else { BLOCK }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn twice_the_cpus_and_at_least_four() {
        assert_eq!([1, 2, 3, 8].map(|count| cpus(count, 255)), [4, 4, 6, 16]);
        assert_eq!(cpus(200, 255), 255);
        assert_eq!(cpus(300, 255), 300, "what QEMU does not take is not for this to refuse");
        assert_eq!(cpus(2, 0), 2, "where CPUs cannot be plugged in");
    }

    #[test]
    fn small_guests_have_no_room_for_memory() {
        let host = 64 << 30;
        assert_eq!(memory(1023, host), None);
        assert_eq!(memory(1024, host), Some(MemoryRoom { maximum_mib: 4096, slots: 16 }));
        assert_eq!(memory(20 << 10, host).map(|room| room.maximum_mib), Some(64 << 10), "bounded by the host");
        assert_eq!(memory(64 << 10, host), None);
        assert_eq!(memory(600 << 10, 4 << 40), None);
    }

    #[test]
    fn reads_a_running_domain() {
        let xml = "<domain><maxMemory slots='16' unit='KiB'>8388608</maxMemory><memory unit='KiB'>1310720</memory>\
                   <vcpu placement='static' current='2'>4</vcpu><devices><memory model='dimm'><target>\
                   <size unit='KiB'>262144</size></target></memory></devices></domain>";
        let room = Room::of(xml).unwrap();
        assert_eq!(room, Room { cpus: 4, memory_mib: 8192, slots: 15 });
        assert!(room.has_cpus(4) && !room.has_cpus(5));
        assert!(room.has_memory(1280, 1408) && room.has_memory(1280, 8192));
        assert!(!room.has_memory(1280, 1300), "not a whole block");
        assert!(!room.has_memory(1280, 8320), "more than its maximum");
        assert!(!Room { slots: 0, ..room }.has_memory(1280, 1408));
        assert!(Room { memory_mib: 1 << 20, ..room }.has_memory(65536, 67584));
        assert!(!Room { memory_mib: 1 << 20, ..room }.has_memory(65536, 65664));
        let without = Room::of("<domain><vcpu>1</vcpu></domain>").unwrap();
        assert!(!without.has_memory(512, 1024));
    }

    proptest! {
        #[test]
        fn room_is_never_less_than_what_is_asked(count in 1..512_u32, mib in 16..(16_u64 << 20), host in 0..(8_u64 << 40)) {
            prop_assert!(cpus(count, 255) >= count);
            if let Some(room) = memory(mib, host) {
                prop_assert!(room.maximum_mib > mib && room.maximum_mib <= host >> 20);
            }
        }
    }
}
