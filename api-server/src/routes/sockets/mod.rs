//! WebSockets.

pub mod vm_status;
