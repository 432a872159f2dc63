//! What the end-to-end tests and the benchmarks share: a client as a user would write it, and waiting with deadlines.

pub mod rest;
pub mod vm;
pub mod wait;
