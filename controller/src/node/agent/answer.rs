//! What is answered, and why not.

pub use crate::https::answer::{Answer, Refusal, json, raw, whole};

use super::super::hypervisor::{Class, HvError};

impl From<HvError> for Refusal {
    fn from(error: HvError) -> Self {
        match error.class {
            Class::NotFound => Self::not_found(),
            Class::Stale => Self::conflict("the virtual machine is off"),
            Class::Busy => Self::too_many(&format!("libvirt: {error}")),
            _ => Self::unavailable(&format!("libvirt: {error}")),
        }
    }
}
