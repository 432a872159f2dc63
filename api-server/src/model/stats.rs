//! What libvirt measures of a virtual machine, over REST.

use jiff::Timestamp;
use kvmoor_crds::agent::Stats as Measured;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// What a virtual machine uses, measured at the time of asking. Of one that is off, all but its size is zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMStats)]
pub struct Stats {
    /// Number of the virtual machine.
    #[schema(minimum = 1, example = 1)]
    pub vm_id: i64,
    /// When it was measured.
    pub timestamp: Timestamp,
    /// The state of its domain in libvirt's words: running, paused, shut off, …
    #[schema(example = "running")]
    pub state: String,
    /// How long it has been on, in seconds.
    #[schema(minimum = 0)]
    pub uptime_seconds: u64,
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Disks. None are told while libvirt is busy with the virtual machine.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub networks: Vec<Network>,
}

/// CPU of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMCpuStats)]
pub struct Cpu {
    /// Share of all its virtual CPUs that was in use lately: 100 is all of all.
    #[schema(minimum = 0, maximum = 100, example = 12.5)]
    pub percent: f64,
    /// CPU time that it has used since it was turned on, in nanoseconds.
    #[schema(minimum = 0)]
    pub time_ns: u64,
    /// Virtual CPUs.
    #[schema(minimum = 0, example = 2)]
    pub count: u32,
}

/// Memory of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMMemoryStats)]
pub struct Memory {
    /// What the guest uses in MiB: by its own account where it gives one, else what it has touched.
    #[schema(minimum = 0, example = 512)]
    pub used: u64,
    /// What the guest has, in MiB.
    #[schema(minimum = 0, example = 2048)]
    pub total: u64,
    /// `used` in bytes.
    #[schema(minimum = 0)]
    pub used_bytes: u64,
    /// `total` in bytes.
    #[schema(minimum = 0)]
    pub total_bytes: u64,
    /// What the host spends on it, in bytes.
    #[schema(minimum = 0)]
    pub resident_bytes: u64,
}

/// A disk of a virtual machine. Counted since it was turned on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMDiskStats)]
pub struct Disk {
    /// Name of the device.
    #[schema(example = "vda")]
    pub name: String,
    /// Bytes read.
    #[schema(minimum = 0)]
    pub read_bytes: u64,
    /// Read operations.
    #[schema(minimum = 0)]
    pub read_ops: u64,
    /// Bytes written.
    #[schema(minimum = 0)]
    pub write_bytes: u64,
    /// Write operations.
    #[schema(minimum = 0)]
    pub write_ops: u64,
    /// Size that the guest sees, in bytes.
    #[schema(minimum = 0)]
    pub capacity_bytes: u64,
    /// What it takes up on the host, in bytes.
    #[schema(minimum = 0)]
    pub allocation_bytes: u64,
}

/// A network interface of a virtual machine, as the guest sees it. Counted since it was turned on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMNetworkStats)]
pub struct Network {
    /// Name of the host's end.
    #[schema(example = "vnet0")]
    pub name: String,
    /// Bytes received.
    #[schema(minimum = 0)]
    pub rx_bytes: u64,
    /// Packets received.
    #[schema(minimum = 0)]
    pub rx_packets: u64,
    /// Packets received with errors.
    #[schema(minimum = 0)]
    pub rx_errors: u64,
    /// Packets lost on the way in.
    #[schema(minimum = 0)]
    pub rx_dropped: u64,
    /// Bytes sent.
    #[schema(minimum = 0)]
    pub tx_bytes: u64,
    /// Packets sent.
    #[schema(minimum = 0)]
    pub tx_packets: u64,
    /// Packets sent with errors.
    #[schema(minimum = 0)]
    pub tx_errors: u64,
    /// Packets lost on the way out.
    #[schema(minimum = 0)]
    pub tx_dropped: u64,
}

impl Stats {
    /// The measurements of a virtual machine.
    pub fn new(vm_id: i64, timestamp: Timestamp, measured: Measured) -> Self {
        let Measured { state, active: _, uptime_seconds, cpu, memory, disks, networks } = measured;
        Self {
            vm_id,
            timestamp,
            state,
            uptime_seconds,
            cpu: Cpu { percent: (cpu.percent * 10.0).round() / 10.0, time_ns: cpu.time_ns, count: cpu.count },
            memory: Memory {
                used: memory.used.div_ceil(MIB),
                total: memory.total / MIB,
                used_bytes: memory.used,
                total_bytes: memory.total,
                resident_bytes: memory.resident,
            },
            disks: disks
                .into_iter()
                .map(|disk| Disk {
                    name: disk.name,
                    read_bytes: disk.read_bytes,
                    read_ops: disk.read_ops,
                    write_bytes: disk.write_bytes,
                    write_ops: disk.write_ops,
                    capacity_bytes: disk.capacity,
                    allocation_bytes: disk.allocation,
                })
                .collect(),
            networks: networks
                .into_iter()
                .map(|network| Network {
                    name: network.name,
                    rx_bytes: network.rx_bytes,
                    rx_packets: network.rx_packets,
                    rx_errors: network.rx_errors,
                    rx_dropped: network.rx_dropped,
                    tx_bytes: network.tx_bytes,
                    tx_packets: network.tx_packets,
                    tx_errors: network.tx_errors,
                    tx_dropped: network.tx_dropped,
                })
                .collect(),
        }
    }
}
