//! Whether the server and what it needs are there.

pub mod get;
pub mod ready;
