//! Snapshots: blocking calls, one connection each, for the pool of `calls`.

use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::domain_snapshot::DomainSnapshot;
use virt_sys as sys;

use super::super::super::metadata::Metadata;
use super::super::super::snapshot_xml::{self, SnapshotFacts};
use super::super::{Class, HvError, Resumption};
use super::error;
use crate::fault::side_effect;

const SECURE: u32 = sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE;
const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
/// A metadata element of no meaning: writing it waits for the operation under way on the domain.
const TURN: (&str, &str, &str) = ("<turn/>", "kvmoor-turn", "https://kvmoor.dev/libvirt/turn/v1");

/// The snapshot of that name, if the domain has it.
pub fn look_up(connect: &Connect, uid: &str, name: &str) -> Result<Option<SnapshotFacts>, HvError> {
    let op = "look up the snapshot";
    let domain = find(connect, uid, op)?;
    let Some(snapshot) = error::found(op, VirtDomain::lookup_snapshot_by_name(&domain, name, 0))? else {
        return Ok(None);
    };
    let xml = error::found(op, snapshot.xml_desc(SECURE))?;
    let unreadable = || HvError::new(Class::Failed, op, "the snapshot does not hold a configuration of Kvmoor");
    xml.map(|xml| snapshot_xml::facts(&xml).ok_or_else(unreadable)).transpose()
}

/// Takes a snapshot of all disks that can keep one, and of the memory if the domain is on.
pub fn take(connect: &Connect, uid: &str, name: &str) -> Result<(), HvError> {
    let op = "take the snapshot";
    let domain = find(connect, uid, op)?;
    let xml = domain.xml_desc(0).map_err(|source| error::from(op, &source))?;
    let disks = snapshot_xml::disks(&xml)
        .ok_or_else(|| HvError::new(Class::Failed, op, "the domain's configuration cannot be read"))?;
    match domain.create_snapshot_xml(&snapshot_xml::request(name, &disks), 0) {
        Ok(_) => {}
        Err(source) if source.message().contains("already exists") => {}
        Err(source) => return Err(error::from(op, &source)),
    }
    side_effect();
    Ok(())
}

/// Deletes a snapshot; those taken after it stay.
pub fn delete(connect: &Connect, uid: &str, name: &str) -> Result<(), HvError> {
    let op = "delete the snapshot";
    let domain = find(connect, uid, op)?;
    let Some(snapshot) = error::found(op, VirtDomain::lookup_snapshot_by_name(&domain, name, 0))? else {
        return Ok(());
    };
    if error::found(op, snapshot.delete(0))?.is_some() {
        side_effect();
    }
    Ok(())
}

/// Brings the domain back to a snapshot, with this metadata. What was recorded before is overwritten by the revert, so
/// the metadata goes into the snapshot first.
pub fn revert(connect: &Connect, metadata: &Metadata, name: &str, resumption: Resumption) -> Result<(), HvError> {
    let op = "restore the snapshot";
    let domain = find(connect, &metadata.uid, op)?;
    let failed = |source: virt::error::Error| error::from(op, &source);
    let snapshot = VirtDomain::lookup_snapshot_by_name(&domain, name, 0).map_err(failed)?;
    let snapshot = remember(&domain, &snapshot, metadata)?;
    // libvirt calls it risky to bring back another configuration than the present one; it is what is wanted.
    let flags = sys::VIR_DOMAIN_SNAPSHOT_REVERT_FORCE
        | match resumption {
            Resumption::Running => sys::VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING,
            Resumption::Paused => sys::VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED,
            Resumption::Off => 0,
        };
    let before = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE).map_err(failed)?;
    if let Err(error) = snapshot.revert(flags).map_err(failed) {
        // libvirt takes up the snapshot's configuration before it starts QEMU, and keeps it when that fails.
        if let Err(source) = connect.define_domain_xml(&before) {
            tracing::warn!(vm.uid = metadata.uid, error = %source, "cannot define again what was before the restore");
        }
        side_effect();
        return Err(error);
    }
    side_effect();
    Ok(())
}

fn remember(domain: &VirtDomain, snapshot: &DomainSnapshot, metadata: &Metadata) -> Result<DomainSnapshot, HvError> {
    let op = "write into the snapshot";
    let xml = snapshot.xml_desc(SECURE).map_err(|source| error::from(op, &source))?;
    let xml = snapshot_xml::with_metadata(&xml, metadata)
        .ok_or_else(|| HvError::new(Class::Failed, op, "it does not hold a configuration of Kvmoor"))?;
    let redefined = domain.create_snapshot_xml(&xml, sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE);
    let redefined = redefined.map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(redefined)
}

/// Waits for the operation under way on the domain.
pub fn take_turn(connect: &Connect, uid: &str) -> Result<(), HvError> {
    let op = "wait for the operation on the domain";
    let (xml, prefix, namespace) = TURN;
    find(connect, uid, op)?
        .set_metadata(ELEMENT, Some(xml), Some(prefix), Some(namespace), sys::VIR_DOMAIN_AFFECT_CONFIG)
        .map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}

fn find(connect: &Connect, uid: &str, op: &'static str) -> Result<VirtDomain, HvError> {
    connect.lookup_domain_by_uuid_string(uid).map_err(|source| error::from(op, &source))
}
