//! Growing a running domain: blocking calls, one connection each, for the pool of `calls`.

use virt::connect::Connect;
use virt_sys as sys;

use super::super::super::room::{self, Room};
use super::super::{Class, HvError};
use super::domain::with;
use super::error;

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;

/// What the running domain can be given.
pub fn room(connect: &Connect, uid: &str) -> Result<Room, HvError> {
    let op = "read the domain's limits";
    let domain = connect.lookup_domain_by_uuid_string(uid).map_err(|source| error::from(op, &source))?;
    let xml = domain.xml_desc(0).map_err(|source| error::from(op, &source))?;
    Room::of(&xml).ok_or_else(|| HvError::new(Class::Failed, op, "its configuration cannot be read"))
}

/// Plugs in CPUs, up to so many.
pub fn cpus(connect: &Connect, uid: &str, to: u32) -> Result<(), HvError> {
    with(connect, uid, "plug in CPUs", |domain| {
        if domain.vcpus_flags(LIVE)? < to { domain.set_vcpus_flags(to, LIVE) } else { Ok(()) }
    })
}

/// Plugs in memory, up to so many MiB.
pub fn memory(connect: &Connect, uid: &str, to_mib: u64) -> Result<(), HvError> {
    with(connect, uid, "plug in memory", |domain| {
        let growth = to_mib.saturating_sub(domain.info()?.max_mem.div_ceil(1024));
        if growth > 0 { domain.attach_device_flags(&room::dimm(growth).render(), LIVE) } else { Ok(()) }
    })
}
