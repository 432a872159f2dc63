//! What the API server and the node controllers say to each other over HTTPS: whoever asks and whoever answers must
//! agree.
//!
//! The API server proves itself by a token of its service account for that host alone, see [`audience`], so that a host
//! cannot pass for it at another; the node controller by the certificate in its Host, which only that node may write.

use serde::{Deserialize, Serialize};

use crate::Host;
use crate::pinned::Endpoint;

/// Audience of the tokens by which node controllers know each other.
pub const PEER_AUDIENCE: &str = "kvmoor-node";
/// Port that a node controller listens on unless told otherwise.
pub const PORT: u16 = 18445;
/// Protocol of the HTTP upgrade that a display's bytes follow, as the guest's VNC server speaks them.
pub const VNC_PROTOCOL: &str = "kvmoor-vnc";
/// Protocol of the HTTP upgrade that the bytes of a serial port follow, both ways.
pub const SERIAL_PROTOCOL: &str = "kvmoor-serial";
/// Most bytes of a log that are served at once.
pub const LOG_BYTES: u32 = 1 << 20;
/// The name that the certificate is made for. What counts is the certificate itself.
pub const SERVER_NAME: &str = "kvmoor-node";

/// Audience of the tokens that the node controller of that host takes from the API server.
pub fn audience(host: &str) -> String {
    format!("{PEER_AUDIENCE}/{host}")
}

/// What a Host does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// Where its node controller listens.
    #[error("the Host has no address")]
    Address,
    /// With which certificate.
    #[error("the Host has no certificate")]
    Certificate,
}

/// Where the node controller of a host is reached.
///
/// # Errors
/// If the host has not told all of it.
pub fn endpoint(host: &Host) -> Result<Endpoint, Untold> {
    let status = host.status.as_ref().ok_or(Untold::Address)?;
    let address = status.addresses.first().ok_or(Untold::Address)?;
    Ok(Endpoint {
        address: address.address.clone(),
        port: u16::try_from(address.port).map_err(|_| Untold::Address)?,
        certificate: status.certificate.clone().ok_or(Untold::Certificate)?,
        server_name: SERVER_NAME,
    })
}

/// Where the measurements of a virtual machine are.
pub fn stats_path(uid: &str) -> String {
    format!("/v1/vms/{uid}/stats")
}

/// Where the display of a virtual machine is.
pub fn vnc_path(uid: &str) -> String {
    format!("/v1/vms/{uid}/vnc")
}

/// Where the serial port of a virtual machine is.
pub fn serial_path(uid: &str) -> String {
    format!("/v1/vms/{uid}/serial")
}

/// Where the last bytes are that a virtual machine has written on its serial port.
pub fn log_path(uid: &str, bytes: u32) -> String {
    format!("/v1/vms/{uid}/log?bytes={bytes}")
}

/// Where the content of an image is: the file with that SHA-256, in the format of that name.
pub fn image_path(sha256: &str, format: &str) -> String {
    format!("/v1/images/{sha256}.{format}")
}

/// What libvirt measures of a virtual machine at the moment of asking. Of one that is off, all but the size is zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Stats {
    /// libvirt's state: running, paused, shutoff, …
    pub state: String,
    /// Whether there is a QEMU process.
    pub active: bool,
    /// How long it has been on, in seconds.
    pub uptime_seconds: u64,
    /// CPU.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Disks. None are told while libvirt is busy with the virtual machine.
    pub disks: Vec<DiskStats>,
    /// Network interfaces.
    pub networks: Vec<NetworkStats>,
}

/// CPU of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct CpuStats {
    /// Share of all its virtual CPUs that was in use lately: 100 is all of all.
    pub percent: f64,
    /// CPU time that it has used since it was turned on, in nanoseconds.
    pub time_ns: u64,
    /// Virtual CPUs.
    pub count: u32,
}

/// Memory of a virtual machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct MemoryStats {
    /// What the guest uses, by its own account where it gives one, else what it has touched.
    pub used: u64,
    /// What the guest has.
    pub total: u64,
    /// What the host spends on it.
    pub resident: u64,
}

/// A disk of a virtual machine, since it was turned on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DiskStats {
    /// Name of the device, such as vda.
    pub name: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Read operations.
    pub read_ops: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Write operations.
    pub write_ops: u64,
    /// Size that the guest sees, in bytes.
    pub capacity: u64,
    /// What it takes up on the host, in bytes.
    pub allocation: u64,
}

/// A network interface of a virtual machine, since it was turned on, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NetworkStats {
    /// Name of the host's end, such as vnet0.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets lost on the way in.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets sent with errors.
    pub tx_errors: u64,
    /// Packets lost on the way out.
    pub tx_dropped: u64,
}
