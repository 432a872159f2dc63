//! Images that are imported from a URL: from the first virtual machine that asks for one to the volume that it starts
//! from, and to the end of what nobody uses.
//!
//! ```text
//!   reconcile ── want ──> importer ── fetch ──> guard          what comes is hashed, its header is checked, and it is
//!       ^                    │                                 written into a volume with a name of its own
//!       └──── wakes ─────────┴──> volume, then record          the record makes it an image, see `record`
//! ```
//!
//! A virtual machine never waits inside its reconcile: it is told how far the import is, and woken when that changes. One
//! import serves all that wait for it. Nothing of this is remembered beyond the process but the volumes: after a crash
//! whoever still waits asks again, and what was half there is deleted.

mod attend;
mod collect;
mod failure;
mod fetch;
mod guard;
mod importer;
mod keep;
mod qcow2;
#[cfg(test)]
mod qcow2_tests;
mod raw;
pub mod record;
pub mod report;
mod transfer;

pub use attend::{Import, obstacle};
pub use fetch::Fetcher;
pub use guard::Guard;
pub use importer::{Importer, Limits, Source};
pub use keep::{Keeper, keep, sources};

/// Reason of the condition while an image is being imported: no failure, only a wait.
pub const IMPORTING: &str = "ImageImporting";
