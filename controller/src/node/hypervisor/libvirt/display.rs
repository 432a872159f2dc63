//! The display of one domain as a connected socket to its VNC server. There is no port and no path: libvirt hands over
//! a descriptor of the very domain that was looked up by UUID and carries our mark. Blocking, for the pool of `calls`.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use virt::connect::Connect;
use virt_sys as sys;

use super::super::{Class, HvError};
use super::{domain, error};

const OP: &str = "open the display";

/// A connection to the display of a domain of ours; `None` where there is no such domain.
pub fn open(connect: &Connect, uid: &str) -> Result<Option<UnixStream>, HvError> {
    let Some((domain, _)) = domain::ours(connect, uid)? else { return Ok(None) };
    let opened = domain.open_graphics_fd(0, sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH);
    let descriptor = opened.map_err(|source| error::from(OP, &source))?;
    let failed = |error: &dyn std::fmt::Display| HvError::new(Class::Failed, OP, &error.to_string());
    let descriptor = RawFd::try_from(descriptor).map_err(|error| failed(&error))?;
    // SAFETY: libvirt has just opened it for us and keeps nothing of it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    stream.set_nonblocking(true).map_err(|error| failed(&error))?;
    Ok(Some(stream))
}
