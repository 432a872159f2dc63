//! Disks of a domain that exists: blocking calls, one connection each, for the pool of `calls`.
//!
//! Sizes are read from the volumes, whose headers say them whether a guest runs or not: QEMU is not asked, so that
//! nothing waits for an operation under way on the domain.

use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt_sys as sys;

use super::super::super::domain_xml::{self, Disk};
use super::super::super::snapshot_xml::DomainDisk;
use super::super::{Class, DiskFacts, HvError};
use super::{error, live, volume};
use crate::fault::side_effect;

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;

/// Which of these volumes there are, and how many snapshots the domain has.
pub fn look(connect: &Connect, pool_name: &str, uid: &str, volumes: &[String]) -> Result<DiskFacts, HvError> {
    let op = "look at the disks";
    let pool = volume::pool(connect, pool_name)?;
    let mut facts = DiskFacts::default();
    for name in volumes {
        if let Some(found) = error::found(op, pool.lookup_storage_vol_by_name(name))?
            && let Some(info) = error::found(op, found.info())?
        {
            facts.sizes.push((name.clone(), info.capacity));
        }
    }
    let domain = find(connect, uid, op)?;
    facts.snapshots = domain.num_snapshots(0).map_err(|source| error::from(op, &source))?;
    Ok(facts)
}

/// Makes a disk larger: through QEMU where one has it open.
pub fn grow(connect: &Connect, pool_name: &str, uid: &str, name: &str, bytes: u64) -> Result<(), HvError> {
    let op = "make the disk larger";
    let domain = find(connect, uid, op)?;
    let open = attached(&domain, op)?.into_iter().find(|disk| disk.volume == name);
    let result = match open {
        Some(disk) => domain.block_resize(&disk.target, bytes, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES),
        None => {
            let pool = volume::pool(connect, pool_name)?;
            let found = pool.lookup_storage_vol_by_name(name).map_err(|source| error::from(op, &source))?;
            found.resize(bytes, 0)
        }
    };
    result.map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}

/// Gives a disk to the domain that is on, at the first free name of a device.
pub fn attach(connect: &Connect, pool_name: &str, uid: &str, disk: &Disk) -> Result<(), HvError> {
    let op = "attach the disk";
    let domain = find(connect, uid, op)?;
    let disks = attached(&domain, op)?;
    if disks.iter().any(|present| present.volume == disk.volume) {
        return Ok(());
    }
    let is_free = |target: &String| !disks.iter().any(|present| present.target == *target);
    let target = domain_xml::targets()
        .find(is_free)
        .ok_or_else(|| HvError::new(Class::Failed, op, "the guest has no room for more disks"))?;
    let cpus = domain.info().map_err(|source| error::from(op, &source))?.nr_virt_cpu;
    let xml = domain_xml::disk(pool_name, disk, &target, domain_xml::queues(cpus)).render();
    domain.attach_device_flags(&xml, LIVE).map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}

/// Takes a disk away from the domain that is on. libvirt asks the guest and waits for some seconds.
pub fn detach(connect: &Connect, pool_name: &str, uid: &str, name: &str) -> Result<(), HvError> {
    let op = "detach the disk";
    let domain = find(connect, uid, op)?;
    let Some(disk) = attached(&domain, op)?.into_iter().find(|disk| disk.volume == name) else {
        return Ok(());
    };
    let xml = domain_xml::disk_to_detach(pool_name, name, &disk.target).render();
    domain.detach_device_flags(&xml, LIVE).map_err(|source| error::from(op, &source))?;
    side_effect();
    if attached(&domain, op)?.iter().any(|disk| disk.volume == name) {
        return Err(HvError::new(Class::Failed, op, "the guest has not let go of it"));
    }
    Ok(())
}

/// The disks that the guest has; none while it is off.
fn attached(domain: &VirtDomain, op: &'static str) -> Result<Vec<DomainDisk>, HvError> {
    if !domain.is_active().map_err(|source| error::from(op, &source))? {
        return Ok(Vec::new());
    }
    let live =
        live::look(domain)?.ok_or_else(|| HvError::new(Class::NotFound, op, "there is no such domain any more"))?;
    Ok(live.disks)
}

fn find(connect: &Connect, uid: &str, op: &'static str) -> Result<VirtDomain, HvError> {
    connect.lookup_domain_by_uuid_string(uid).map_err(|source| error::from(op, &source))
}
