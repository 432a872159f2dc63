//! The boundary between reconciling and libvirt: one trait, in domains and volumes, and the facts that it reports.
//!
//! A call either says what is, completely, or fails; no failure is ever read as "there is none". What changes something
//! is idempotent: done twice it is done once.

use std::future::Future;

use kvmoor_crds::{HostFeature, VirtType};

use super::address_pool::AddressPool;
use super::domain_xml::{Disk, DomainConfig};
use super::guest_agent::GuestReport;
use super::images::record::Content;
use super::metadata::Metadata;
use super::room::Room;
use super::snapshot_xml::SnapshotFacts;
use super::volume_xml::Volume;

mod error;
pub mod libvirt;

pub use error::{Class, HvError};

/// What the host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// How guests run here, or why none can.
    pub virt: Result<VirtType, String>,
    /// Architecture, as libvirt names it.
    pub architecture: String,
    /// Changes with every boot of the host.
    pub boot_id: String,
    /// The storage pool for all volumes.
    pub pool: String,
    /// The libvirt network for interfaces with NAT.
    pub network: String,
    /// Bridges that interfaces may be connected to.
    pub bridges: Vec<String>,
    /// Physical CPUs.
    pub cpus: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// What guests can be made of.
    pub guests: GuestFeatures,
    /// Version of libvirt.
    pub libvirt_version: String,
    /// Version of the hypervisor.
    pub hypervisor_version: String,
}

/// What guests can be made of on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestFeatures {
    /// Most CPUs that a guest may grow to; 0 where nothing can be plugged in.
    pub max_cpus: u32,
    /// What else there is.
    pub features: Vec<HostFeature>,
}

/// What libvirt has under the UUID of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainFacts {
    /// libvirt says that there is no such domain.
    Missing,
    /// A domain that does not carry our mark, or another virtual machine's. It is never touched.
    Foreign(String),
    /// Ours.
    Ours(Box<Domain>),
}

/// A domain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its power state.
    pub power: Power,
    /// What we wrote down in it.
    pub metadata: Metadata,
    /// Virtual CPUs in force.
    pub cpu: u32,
    /// Memory in force, in MiB.
    pub memory_mib: u64,
    /// Addresses that the network's DHCP server gave to its interfaces: MAC address and address.
    pub leases: Vec<Lease>,
    /// Whether a guest agent has opened its channel, as libvirt knows without asking anybody.
    pub agent: bool,
    /// Volumes that the running guest has; none while it is off.
    pub attached: Vec<String>,
}

/// An address given to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// MAC address of the interface.
    pub mac: String,
    /// The address.
    pub address: std::net::IpAddr,
}

/// Power state of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// Its CPUs run.
    Running,
    /// Its CPUs are halted since somebody asked for it.
    Paused,
    /// Its CPUs are halted for a while, by libvirt itself: it is starting, being saved, …
    Busy,
    /// Its CPUs are halted since a disk could not be read or written.
    DiskError(DiskTrouble),
    /// The guest's kernel panicked; nothing but QEMU is left of it.
    Panicked,
    /// Its CPUs are halted since something else went wrong; the text says what.
    Stuck(String),
    /// The guest put itself to sleep.
    Asleep,
    /// The guest is shutting down.
    GoingDown,
    /// Off.
    Off(OffCause),
}

/// What is wrong with a domain's disks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskTrouble {
    /// The devices, such as `vda`; none where libvirt does not say.
    pub disks: Vec<String>,
    /// Whether the storage has no room.
    pub no_space: bool,
}

impl Power {
    /// Whether there is a running hypervisor process.
    pub fn is_active(&self) -> bool {
        !matches!(self, Self::Off(_))
    }
}

/// Why a domain is off, as far as libvirt knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffCause {
    /// The guest powered itself off.
    Shutdown,
    /// Anything else, not knowing included.
    Other,
}

/// What the domain does after it was brought back to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumption {
    /// Its CPUs run.
    Running,
    /// Its CPUs are halted.
    Paused,
    /// It is off. Only a snapshot without memory can be restored so.
    Off,
}

/// The disks of a domain, in the storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskFacts {
    /// Volumes that are there, of those that were asked for, and their sizes as the guest sees them, in bytes.
    pub sizes: Vec<(String, u64)>,
    /// Number of the domain's snapshots.
    pub snapshots: u32,
}

impl DiskFacts {
    /// The size of a volume; `None` where there is none.
    pub fn size(&self, volume: &str) -> Option<u64> {
        self.sizes.iter().find(|(name, _)| name == volume).map(|(_, size)| *size)
    }
}

/// An image volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its path on the host.
    pub path: String,
    /// The size of the disk that it holds, in bytes.
    pub virtual_size: u64,
}

/// An entry of a complete listing of what is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name of the domain or volume.
    pub name: String,
    /// For an image volume the size of the disk that it holds, in bytes.
    pub virtual_size: u64,
}

/// A hypervisor. Every call has a deadline of its own; one that passed it, or was cancelled, may still have been done.
pub trait Hypervisor: Send + Sync + 'static {
    /// What the host is.
    fn host(&self) -> impl Future<Output = Result<HostFacts, HvError>> + Send;
    /// What there is under this UID.
    fn domain(&self, uid: &str) -> impl Future<Output = Result<DomainFacts, HvError>> + Send;
    /// The image volume of that name; `None` where the pool has none.
    fn image(&self, volume: &str) -> impl Future<Output = Result<Option<ImageFacts>, HvError>> + Send;
    /// The imported image with that content; `None` where there is none, or not all of it.
    fn imported_image(&self, content: &Content) -> impl Future<Output = Result<Option<ImageFacts>, HvError>> + Send;
    /// All volumes whose name starts so.
    fn volumes(&self, prefix: &str) -> impl Future<Output = Result<Vec<Listed>, HvError>> + Send;
    /// All domains whose name starts so.
    fn domains(&self, prefix: &str) -> impl Future<Output = Result<Vec<Listed>, HvError>> + Send;

    /// The addresses of the DHCP server of the NAT network; `None` where there is no such server, or no such network.
    fn address_pool(&self) -> impl Future<Output = Result<Option<AddressPool>, HvError>> + Send;

    /// Creates a volume where there is none of its name.
    fn create_volume(&self, volume: Volume) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Creates a raw volume with these bytes, or writes them over what it holds.
    fn write_volume(&self, name: &str, bytes: Vec<u8>) -> impl Future<Output = Result<(), HvError>> + Send;
    /// The bytes of a volume, and little more than `most` where there are more; `None` where there is no such volume.
    fn read_volume(&self, name: &str, most: usize) -> impl Future<Output = Result<Option<Vec<u8>>, HvError>> + Send;
    /// Deletes a volume.
    fn delete_volume(&self, name: &str) -> impl Future<Output = Result<(), HvError>> + Send;

    /// Makes an isolated network unless it is there, and starts it unless it runs.
    fn ensure_isolated_network(&self, name: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Removes the networks whose names start so and that no domain is connected to.
    fn remove_unused_networks(&self, prefix: &str) -> impl Future<Output = Result<(), HvError>> + Send;

    /// Which of these volumes there are, and how many snapshots the domain has. It asks neither QEMU nor the guest.
    fn disks(&self, uid: &str, volumes: Vec<String>) -> impl Future<Output = Result<DiskFacts, HvError>> + Send;
    /// Makes a disk larger, whether the domain is on or off.
    fn grow_disk(&self, uid: &str, volume: &str, bytes: u64) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Gives a disk to the domain that is on.
    fn attach_disk(&self, uid: &str, disk: &Disk) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Takes a disk away from the domain that is on. Fails while the guest has not let go of it.
    fn detach_disk(&self, uid: &str, volume: &str) -> impl Future<Output = Result<(), HvError>> + Send;

    /// Makes this the persistent configuration of the domain.
    fn define(&self, config: &DomainConfig, metadata: &Metadata) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Writes down in the persistent configuration what we must remember.
    fn record(&self, metadata: &Metadata) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Starts it, with halted CPUs if so wanted.
    fn start(&self, uid: &str, paused: bool) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Halts its CPUs.
    fn suspend(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Lets its CPUs run.
    fn resume(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Lets the CPUs run that a disk error halted, and waits for a moment to see whether it comes again.
    fn retry_disks(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Presses the ACPI power button.
    fn press_power_button(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Presses the reset button.
    fn reset(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Turns it off.
    fn destroy(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// What the guest agent says: of the operating system, and of the addresses of these interfaces. It waits for the
    /// guest, for a while.
    fn ask_guest(&self, uid: &str, macs: Vec<String>) -> impl Future<Output = Result<GuestReport, HvError>> + Send;
    /// Has the guest agent freeze the guest's file systems. It waits for the guest, for a while; whatever comes of it, they
    /// may be frozen then, or later.
    fn freeze(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Has the guest agent thaw them, whether they are frozen or not. It waits for the guest, for a while.
    fn thaw(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// What the running domain can be given without a restart.
    fn room(&self, uid: &str) -> impl Future<Output = Result<Room, HvError>> + Send;
    /// Plugs in CPUs, up to so many.
    fn grow_cpus(&self, uid: &str, to: u32) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Plugs in memory, up to so many MiB.
    fn grow_memory(&self, uid: &str, to_mib: u64) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Removes the configuration, with firmware variables, snapshots and saved state.
    fn undefine(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;

    /// Brings the disks of a domain that is off back to a snapshot in them that it does not know of.
    fn go_back(&self, uid: &str, snapshot: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Deletes snapshots in the disks of a domain that is off, which it need not know of, and need not be there.
    fn forget_snapshots(&self, uid: &str, names: &[String]) -> impl Future<Output = Result<(), HvError>> + Send;

    /// The snapshot of that name; `None` where the domain has none.
    fn snapshot(&self, uid: &str, name: &str) -> impl Future<Output = Result<Option<SnapshotFacts>, HvError>> + Send;
    /// Takes a snapshot unless there is one of its name: of the disks, and of the memory if the domain is on.
    fn take_snapshot(&self, uid: &str, name: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Deletes a snapshot; those taken after it stay.
    fn delete_snapshot(&self, uid: &str, name: &str) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Brings the domain back to a snapshot. Its metadata is `metadata` if, and only if, that was done.
    fn revert(
        &self,
        metadata: &Metadata,
        snapshot: &str,
        resumption: Resumption,
    ) -> impl Future<Output = Result<(), HvError>> + Send;
    /// Waits for the operation that is under way on the domain, whoever began it: what is observed after it is settled.
    fn take_turn(&self, uid: &str) -> impl Future<Output = Result<(), HvError>> + Send;
}
