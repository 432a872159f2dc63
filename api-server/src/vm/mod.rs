//! Creating and changing virtual machines on behalf of a user.

pub mod apply;
pub mod clone;
pub mod create;
pub mod delete;
pub mod disks;
pub mod guest_data;
pub mod name;
pub mod owner;
pub mod resize;
pub mod validate;
pub mod verdict;
