//! Hosts.

pub mod list;
