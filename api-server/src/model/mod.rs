//! What goes over the wire. These types are apart from those of the Kubernetes API on purpose: a field there may move,
//! a field here may not.

mod class;
mod event;
mod host;
mod image;
mod quota;
mod snapshot;
mod stats;
mod ticket;
mod user;
mod vm;

pub use self::class::Class;
pub use self::event::Event;
pub use self::host::{Host, is_alive};
pub use self::image::Image;
pub use self::quota::{Limits, QuotaUsage, Usage};
pub use self::snapshot::{Restored, Snapshot, SnapshotDeleted, message as snapshot_message, phase as snapshot_phase};
pub use self::stats::Stats;
pub use self::ticket::Ticket;
pub use self::user::{Role, SessionUser, User, login_name};
pub use self::vm::{Deleted, Vm};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kvmoor_crds::quantity;

/// The time, in whole seconds as all times of the API are.
pub fn now() -> Timestamp {
    kvmoor_crds::conditions::whole_seconds(Timestamp::now()).0
}

/// A quantity of bytes in MiB, rounded up. What is no quantity, which the schema does not let in, counts as nothing.
pub fn mib(quantity: &Quantity) -> u64 {
    quantity::bytes(quantity).unwrap_or_default().div_ceil(quantity::MIB)
}
