//! Images.

pub mod list;
