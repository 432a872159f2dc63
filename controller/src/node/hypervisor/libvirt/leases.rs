//! What a network's DHCP server has given away.

use std::ffi::CStr;
use std::net::IpAddr;

use nix::libc::free;
use virt::error::Error;
use virt::network::Network;
use virt_sys as sys;

use super::super::HvError;
use super::error;

/// All addresses that are leased now, whoever has them.
pub fn all(network: &Network) -> Result<Vec<IpAddr>, HvError> {
    let mut leases: *mut sys::virNetworkDHCPLeasePtr = std::ptr::null_mut();
    // SAFETY: the network is alive, and libvirt fills in the list.
    let count = unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), std::ptr::null(), &raw mut leases, 0) };
    let Ok(count) = usize::try_from(count) else {
        return Err(error::from("look up the leases", &Error::last_error()));
    };
    let mut found = Vec::new();
    for index in 0..count {
        // SAFETY: libvirt returned `count` leases, which are the caller's to free, and nobody uses one after that; the
        // text ends with NUL.
        unsafe {
            let lease = *leases.add(index);
            if let Some(address) = (*lease).ipaddr.as_ref() {
                found.extend(CStr::from_ptr(address).to_str().ok().and_then(|text| text.parse::<IpAddr>().ok()));
            }
            sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the list itself is the caller's too, and all in it is freed.
    unsafe { free(leases.cast()) };
    Ok(found)
}
