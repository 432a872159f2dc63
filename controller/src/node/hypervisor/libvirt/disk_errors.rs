//! Which disks of a domain reported an error to QEMU, and which.

use std::ffi::{CStr, c_int, c_uint, c_void};

use nix::libc::free;
use virt::domain::Domain as VirtDomain;
use virt_sys as sys;

use super::super::DiskTrouble;

/// Asks. Not to be told is not worth failing for: that there was an error is known.
pub fn look(domain: &VirtDomain) -> DiskTrouble {
    // SAFETY: a call with an empty array only asks for how many there can be.
    let most = unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    let Ok(most) = usize::try_from(most) else { return DiskTrouble::default() };
    let empty = || sys::virDomainDiskError { disk: std::ptr::null_mut(), error: 0 };
    let mut errors: Vec<sys::virDomainDiskError> = std::iter::repeat_with(empty).take(most).collect();
    let length = c_uint::try_from(errors.len()).unwrap_or(0);
    // SAFETY: the array has `length` elements.
    let found = unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), length, 0) };
    let mut trouble = DiskTrouble::default();
    for entry in errors.iter().take(usize::try_from(found).unwrap_or(0)).filter(|entry| !entry.disk.is_null()) {
        // SAFETY: libvirt filled the element with a string that is the caller's to free, and that nobody uses after.
        unsafe {
            trouble.disks.push(CStr::from_ptr(entry.disk).to_string_lossy().into_owned());
            free(entry.disk.cast::<c_void>());
        }
        trouble.no_space |= entry.error == c_int::try_from(sys::VIR_DOMAIN_DISK_ERROR_NO_SPACE).unwrap_or(-1);
    }
    trouble
}
