//! The Kubernetes API of Kvmoor: the group `kvmoor.dev/v1alpha1`.
//!
//! One file a kind. Beside the types stand what every writer and reader of them must agree on: the names that
//! derive from an object ([`names`]), the conditions ([`conditions`]), the reading of quantities ([`quantity`]), what
//! an action on the power asks of a spec ([`power`]), what a clone is like ([`clone`]), what the API server and the node
//! controllers say to each other ([`agent`]), and what the cluster controller hands to them ([`guest_data`]).
//! The binary `crdgen` writes the CustomResourceDefinitions from these types; a test compares what is checked in.

// The repetitions are those of `printcolumn(type_ = …)`, which clippy takes for one attribute.
#![allow(clippy::duplicated_attributes)]

pub mod agent;
mod class;
pub mod client;
pub mod clone;
pub mod conditions;
pub mod guest_data;
mod host;
mod image;
pub mod names;
pub mod pinned;
pub mod power;
pub mod quantity;
mod quota;
mod restore;
mod snapshot;
mod user;
mod virtual_machine;
pub mod yaml;

pub use class::{VirtualMachineClass, VirtualMachineClassSpec};
pub use host::{
    Host, HostAddress, HostFeature, HostImage, HostImageImport, HostResources, HostSpec, HostStatus, HostVersions,
    VirtType,
};
pub use image::{Image, ImageFormat, ImageSpec, ImageStatus};
pub use quota::{Quota, QuotaSpec, QuotaStatus, QuotaUsed};
pub use restore::{RestorePhase, VirtualMachineRestore, VirtualMachineRestoreSpec, VirtualMachineRestoreStatus};
pub use snapshot::{SnapshotPhase, VirtualMachineSnapshot, VirtualMachineSnapshotSpec, VirtualMachineSnapshotStatus};
pub use user::{SecretReference, User, UserRole, UserSpec, UserStatus};
pub use virtual_machine::{
    Address, AddressType, AdmittedResources, CloneSource, CloudInit, ExtraDisk, Firmware, GUEST_TEXT, GuestOsInfo,
    Network, NetworkType, Phase, PhaseTransition, PowerState, Requests, ResourcesInForce, RestartPolicy, RootDisk,
    SecretKeyReference, VirtualMachine, VirtualMachineSpec, VirtualMachineStatus,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every kind here.
pub const GROUP: &str = "kvmoor.dev";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";

/// All CustomResourceDefinitions, in the order in which they are best applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        VirtualMachine::crd(),
        VirtualMachineSnapshot::crd(),
        VirtualMachineRestore::crd(),
        VirtualMachineClass::crd(),
        Quota::crd(),
        User::crd(),
        Image::crd(),
        Host::crd(),
    ]
}
