//! WebSockets.

pub mod vm_status;
pub mod vnc;
