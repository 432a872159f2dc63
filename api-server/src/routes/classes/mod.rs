//! Sizes of virtual machines.

pub mod list;
