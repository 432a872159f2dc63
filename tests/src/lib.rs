//! What the end-to-end tests and the benchmarks share: a client as a user would write it, and waiting with deadlines.

pub mod events;
pub mod feed;
pub mod files;
pub mod helm;
pub mod metrics;
pub mod mounts;
pub mod picture;
pub mod pool;
pub mod rest;
pub mod rfb;
pub mod secrets;
pub mod shape;
pub mod token;
pub mod upload;
pub mod values;
pub mod vm;
pub mod wait;
