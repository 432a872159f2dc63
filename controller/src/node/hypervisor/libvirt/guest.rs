//! The guest agent: blocking calls, one connection each, for the pool of `calls`.
//!
//! libvirt is told how long it waits for an answer: by itself it would wait for ever. What the guest puts into an error is
//! cleaned, and never decides what follows.

use std::ffi::c_int;

use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::super::super::guest_agent::{GuestReport, clean, usable};
use super::super::{Class, HvError};
use super::{domain, measure};
use crate::fault::side_effect;

/// How long libvirt waits for each answer, in seconds.
const PATIENCE: c_int = 10;

/// Asks for the operating system, the host name and the addresses of these interfaces.
pub fn ask(connect: &Connect, uid: &str, macs: &[String]) -> Result<GuestReport, HvError> {
    let op = "ask the guest agent";
    let domain = find(connect, uid, op)?;
    let mut report = GuestReport::default();
    for (key, text) in texts(&domain, sys::VIR_DOMAIN_GUEST_INFO_OS).map_err(|source| from(op, &source))? {
        report.take(&key, &text);
    }
    // An old agent does not know the question for the host name.
    for (key, text) in texts(&domain, sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME).unwrap_or_default() {
        report.take(&key, &text);
    }
    let said = domain::addresses(&domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT);
    report.addresses = usable(said.map_err(|source| from(op, &source))?, macs);
    Ok(report)
}

/// Freezes all file systems that can be frozen.
pub fn freeze(connect: &Connect, uid: &str) -> Result<(), HvError> {
    let op = "freeze the file systems";
    let domain = find(connect, uid, op)?;
    // SAFETY: the domain is alive; without mount points all file systems are meant.
    let result = unsafe { sys::virDomainFSFreeze(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    side_effect();
    if result < 0 { Err(from(op, &Error::last_error())) } else { Ok(()) }
}

/// Thaws them.
pub fn thaw(connect: &Connect, uid: &str) -> Result<(), HvError> {
    let op = "thaw the file systems";
    let domain = find(connect, uid, op)?;
    // SAFETY: as in `freeze`.
    let result = unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    side_effect();
    if result < 0 { Err(from(op, &Error::last_error())) } else { Ok(()) }
}

/// The texts that the agent gives of some kind.
fn texts(domain: &VirtDomain, kind: sys::virDomainGuestInfoTypes) -> Result<Vec<(String, String)>, Error> {
    let mut parameters: sys::virTypedParameterPtr = std::ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: the domain is alive, and libvirt fills in the list and its length.
    let result = unsafe { sys::virDomainGetGuestInfo(domain.as_ptr(), kind, &raw mut parameters, &raw mut count, 0) };
    if result < 0 || parameters.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt returned `count` parameters, which nobody changes until they are freed below.
    let all = unsafe { std::slice::from_raw_parts(parameters, usize::try_from(count).unwrap_or_default()) };
    let texts = all.iter().filter_map(measure::text).collect();
    // SAFETY: it is what virDomainGetGuestInfo returned, and nothing refers to it any more.
    unsafe { sys::virTypedParamsFree(parameters, count) };
    Ok(texts)
}

/// The domain, with libvirt told how long to wait for its agent.
fn find(connect: &Connect, uid: &str, op: &'static str) -> Result<VirtDomain, HvError> {
    let domain = connect.lookup_domain_by_uuid_string(uid).map_err(|source| from(op, &source))?;
    // SAFETY: the domain is alive.
    if unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), PATIENCE, 0) } < 0 {
        return Err(from(op, &Error::last_error()));
    }
    Ok(domain)
}

/// The class of an error by its number alone: its text may be the guest's.
fn from(op: &'static str, source: &Error) -> HvError {
    let class = match source.code() {
        Enum::Known(ErrorNumber::NoDomain) => Class::NotFound,
        Enum::Known(ErrorNumber::NoConnect | ErrorNumber::InvalidConn | ErrorNumber::Rpc) => Class::Disconnected,
        Enum::Known(ErrorNumber::OperationTimeout) => Class::Busy,
        Enum::Known(ErrorNumber::OperationInvalid) => Class::Stale,
        _ => Class::Failed,
    };
    HvError::new(class, op, &clean(source.message()))
}
