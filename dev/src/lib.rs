//! A real control plane and real libvirt hosts on one machine, for `make run` and the tests. See [`Cluster`].

pub mod audit;
pub mod binaries;
mod cluster;
pub mod command;
mod components;
pub mod container_images;
pub mod control_plane;
pub mod deadline;
pub mod debian_image;
mod files;
pub mod guest_image;
mod image;
mod instance;
pub mod libvirt_host;
mod network_namespace;
pub mod node;
mod pod_cluster;
mod ports;
pub mod process;
mod random;
mod tls;
pub mod virsh;

pub use cluster::{Admin, AlreadyRunning, Builder, Cluster};
pub use components::{SYSTEM_NAMESPACE, TINY, checkout_root};
pub use instance::{owner, sweep};
pub use pod_cluster::PodCluster;
