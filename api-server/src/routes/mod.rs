//! One folder a noun, one file a verb. A handler is its documentation, its types and few lines.

pub mod auth;
pub mod classes;
pub mod health;
pub mod hosts;
pub mod images;
pub mod quota;
pub mod snapshots;
pub mod sockets;
pub mod users;
pub mod vms;
