//! WebSockets.

mod console;
pub mod serial;
pub mod vm_status;
pub mod vnc;
