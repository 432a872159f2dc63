//! Clones: virtual machines whose disks begin as copies of another's.
//!
//! ```text
//!   reconcile ── attend ──> copies, obstacle (pure) ──> copier: record "half" ──> volumes, byte for byte ──> record "whole"
//!       ^                                                  │                                                      │
//!       └────────────────────── wakes ─────────────────────┴──────────────────────────────────────────────────────┘
//!   whole: seed and domain are made ──> snapshots in the copies are gone back to, and deleted ──> disks grow ──> it starts
//! ```
//!
//! libvirt's own way to copy a volume would make the overlay on the image a volume that holds all of it, and would lose
//! the snapshots in it. A copy of the file's bytes keeps both: the clone stands on the same image, and a snapshot in it is
//! brought back by the clone's own domain, without the guest's memory.
//!
//! A process that ends leaves no copy going on, and a half one is known by its record, which is written before the first
//! byte and again after the last: only what a record says to be half is ever deleted. While its disks are copied, nothing
//! is done to the source, see `turns`.

mod attend;
mod copier;
mod copies;
mod obstacle;
mod record;

pub use attend::attend;
pub use copier::Copier;
pub use obstacle::{COPYING, Cloned, is_wait};
pub use record::Record;

/// Reason of the condition: its disks are copied for a clone, and nothing is done with them meanwhile.
pub const BEING_CLONED: &str = "BeingCloned";
