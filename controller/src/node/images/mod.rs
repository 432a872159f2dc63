//! Images that are imported from a URL or uploaded: from the first virtual machine that asks for one to the volume that
//! it starts from, and to the end of what nobody uses.
//!
//! ```text
//!   reconcile ── want ──> importer ── fetch, peers ──> guard          what comes is hashed, its header is checked, and it is
//!       ^                    │                                 written into a volume with a name of its own
//!       ├──── wakes ─────────┴──> volume, then record          the record makes it an image, see `record`
//!       └──── wakes ─── upload <── agent                       the same for what somebody sends
//! ```
//!
//! What is uploaded to another host is got from there as soon as that says so, see `lookout`.
//!
//! A virtual machine never waits inside its reconcile: it is told how far the import is, and woken when that changes. One
//! import serves all that wait for it. Nothing of this is remembered beyond the process but the volumes: after a crash
//! whoever still waits asks again, and what was half there is deleted.

mod attend;
mod collect;
mod entry;
mod failure;
mod fetch;
mod file;
mod guard;
mod importer;
mod keep;
mod lookout;
mod peers;
mod qcow2;
#[cfg(test)]
mod qcow2_tests;
mod raw;
pub mod record;
pub mod report;
mod transfer;
mod upload;

pub use attend::{Import, obstacle};
pub use failure::{Failure, Reason};
pub use fetch::Fetcher;
pub use file::{File, IDLE};
pub use guard::Guard;
pub use importer::{Importer, Limits, Place, Source, Sources};
pub use keep::{Keeper, keep, sources};
pub use lookout::look_out;
pub use peers::Peers;
pub use transfer::{Stored, TOTAL};
pub use upload::NotStored;

/// Reason of the condition while an image is being imported: no failure, only a wait.
pub const IMPORTING: &str = "ImageImporting";
