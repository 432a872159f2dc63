//! The command line of `kvmoor-controller node`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kvmoor_crds::agent;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), agent::PORT);
const DEFAULT_PEER_TOKEN_FILE: &str = "/var/run/secrets/kvmoor.dev/peer/token";
const DEFAULT_TOKEN_FILE: &str = "/var/run/secrets/kvmoor.dev/guest-data/token";

/// Runs the virtual machines that are bound to one host.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of the Node that this host is.
    #[arg(long, env = "KVMOOR_NODE_NAME")]
    pub node_name: String,

    /// Where libvirt listens.
    #[arg(long, env = "KVMOOR_LIBVIRT_URI", default_value = "qemu:///system")]
    pub libvirt_uri: String,

    /// The libvirt storage pool for images and disks.
    #[arg(long, env = "KVMOOR_STORAGE_POOL", default_value = "default")]
    pub storage_pool: String,

    /// The libvirt network of interfaces of type Nat. All guests share it; the ports of its bridge are isolated from
    /// each other, so that no guest reaches another.
    #[arg(long, env = "KVMOOR_NETWORK", default_value = "default")]
    pub network: String,

    /// Bridges of the host that interfaces of type Bridge may name, separated by commas. None unless given.
    #[arg(long, env = "KVMOOR_ALLOW_BRIDGE", value_delimiter = ',')]
    pub allow_bridge: Vec<String>,

    /// How guests run: by KVM, in software by QEMU, or by KVM wherever it can really be used.
    #[arg(long, env = "KVMOOR_VIRT_TYPE", default_value = "auto")]
    pub virt_type: VirtSetting,

    /// Virtual CPUs that guests may have for each physical one.
    #[arg(long, env = "KVMOOR_CPU_OVERCOMMIT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub cpu_overcommit: u32,

    /// Memory that the host keeps for itself, such as 512Mi.
    #[arg(long, env = "KVMOOR_RESERVED_MEMORY", default_value = "512Mi", value_parser = parse_quantity)]
    pub reserved_memory: u64,

    /// Where this process sees `/var/log/libvirt/qemu` of the host, in which libvirt writes down what guests say on
    /// their serial ports. Where it is not there, boot logs are not served, nor removed with their virtual machine.
    #[arg(long, env = "KVMOOR_SERIAL_LOGS", default_value = super::domain_xml::LOG_DIRECTORY)]
    pub serial_logs: PathBuf,

    /// Where the host serves measurements and consoles to the API server, over HTTPS. Port 0 is any that is free.
    #[arg(long, env = "KVMOOR_AGENT_LISTEN", default_value_t = DEFAULT_LISTEN)]
    pub agent_listen: SocketAddr,

    /// Where the API server reaches this host: IP address or host name. Without it, the address of `--agent-listen`
    /// if it is a certain one, else the Node's internal address.
    #[arg(long, env = "KVMOOR_AGENT_ADDRESS")]
    pub agent_address: Option<String>,

    /// File with the token that this host proves itself with to the cluster controller, to be given what its guests are
    /// told. In a pod a projected serviceAccountToken with the audience kvmoor-cluster; a token that was not issued for
    /// this node is refused.
    #[arg(long, env = "KVMOOR_GUEST_DATA_TOKEN_FILE", default_value = DEFAULT_TOKEN_FILE)]
    pub guest_data_token_file: PathBuf,

    /// File with the token that this host proves itself with to other hosts, to be given images that were uploaded to
    /// them. In a pod a projected serviceAccountToken with the audience kvmoor-node.
    #[arg(long, env = "KVMOOR_PEER_TOKEN_FILE", default_value = DEFAULT_PEER_TOKEN_FILE)]
    pub peer_token_file: PathBuf,

    /// Networks that images are fetched from though they are private, link-local, loopback or reserved, separated by
    /// commas. `0.0.0.0/0,::/0` allows all.
    #[arg(long, env = "KVMOOR_IMAGE_SOURCES_ALLOWED", value_delimiter = ',')]
    pub image_sources_allowed: Vec<IpNet>,

    /// Networks that images are never fetched from, such as the cluster's own ranges where they are public.
    #[arg(long, env = "KVMOOR_IMAGE_SOURCES_DENIED", value_delimiter = ',')]
    pub image_sources_denied: Vec<IpNet>,

    /// The largest image file that is fetched.
    #[arg(long, env = "KVMOOR_LARGEST_IMAGE", default_value = "64Gi", value_parser = parse_quantity)]
    pub largest_image: u64,

    /// The largest disk that a fetched image may hold.
    #[arg(long, env = "KVMOOR_LARGEST_IMAGE_DISK", default_value = "2Ti", value_parser = parse_quantity)]
    pub largest_image_disk: u64,

    /// How long an imported image that no disk stands on is kept, such as 168h.
    #[arg(long, env = "KVMOOR_KEEP_UNUSED_IMAGES", default_value = "168h", value_parser = parse_duration)]
    pub keep_unused_images: Duration,

    /// Virtual machines worked on at once.
    #[arg(long, env = "KVMOOR_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
}

/// How guests are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VirtSetting {
    /// By KVM where it can be used, in software elsewhere.
    Auto,
    /// By KVM; where it cannot be used, not at all.
    Kvm,
    /// In software.
    Qemu,
}

/// A quantity in bytes.
fn parse_quantity(text: &str) -> Result<u64, kvmoor_crds::quantity::QuantityError> {
    kvmoor_crds::quantity::bytes(&Quantity(text.to_owned()))
}

/// A duration such as 90s, 168h or 7d.
fn parse_duration(text: &str) -> Result<Duration, jiff::Error> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        // To jiff days are a matter of calendars.
        Some(days) => Ok(Duration::from_secs(u64::from(days) * 86_400)),
        None => text.parse::<SignedDuration>().and_then(Duration::try_from),
    }
}
