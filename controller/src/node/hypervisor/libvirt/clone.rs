//! Copying the disks of a domain, and what is done with the snapshots in the copies: blocking calls, one connection each,
//! for the pool of `calls`.

use tokio_util::sync::CancellationToken;
use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt_sys as sys;

use super::super::super::domain_xml::DiskFormat;
use super::super::super::snapshot_xml;
use super::super::super::volume_xml::{self, Volume};
use super::super::{Class, HvError};
use super::{error, volume};
use crate::fault::side_effect;

const SECURE: u32 = sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE;
/// What is read before it is written: so much is kept in memory.
const PIECE: usize = 8 << 20;

/// A volume to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeCopy {
    /// Its name.
    pub from: String,
    /// Name of the copy.
    pub to: String,
    /// The size that it has as a guest sees it, in bytes.
    pub size: u64,
}

/// What is in the disks of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The volumes that hold the snapshot asked for, or all that can hold one.
    pub volumes: Vec<String>,
    /// All snapshots.
    pub snapshots: Vec<String>,
}

/// What is in the disks of a domain, with those disks that a snapshot has, where one is named.
pub fn contents(connect: &Connect, uid: &str, snapshot: Option<&str>) -> Result<Contents, HvError> {
    let op = "look at the source's disks";
    let failed = |source: virt::error::Error| error::from(op, &source);
    let domain = find(connect, uid, op)?;
    let xml = match snapshot {
        None => domain.xml_desc(0).map_err(failed)?,
        Some(name) => {
            let snapshot = VirtDomain::lookup_snapshot_by_name(&domain, name, 0).map_err(failed)?;
            snapshot.xml_desc(SECURE).map_err(failed)?
        }
    };
    let disks = snapshot_xml::disks(&xml).ok_or_else(|| HvError::new(Class::Failed, op, "its XML cannot be read"))?;
    let volumes = disks.into_iter().filter(|disk| disk.keeps_snapshots).map(|disk| disk.volume).collect();
    let snapshots = domain.list_all_snapshots(0).map_err(failed)?;
    let snapshots = snapshots.iter().map(|snapshot| snapshot.name().map_err(failed)).collect::<Result<_, _>>()?;
    Ok(Contents { volumes, snapshots })
}

/// The length of a volume's file, in bytes.
pub fn length(connect: &Connect, pool_name: &str, name: &str) -> Result<u64, HvError> {
    let op = "look at the source's disk";
    let found = volume::pool(connect, pool_name)?.lookup_storage_vol_by_name(name);
    let info = found.and_then(|found| found.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL));
    info.map(|info| info.allocation).map_err(|source| error::from(op, &source))
}

/// Copies a volume that nobody writes to, byte for byte, into a new one. The copy stands on what it stands on from the
/// beginning, so that this is not taken for unused.
pub fn copy(connect: &Connect, pool_name: &str, copy: &VolumeCopy, cancel: &CancellationToken) -> Result<(), HvError> {
    let op = "copy the disk";
    let failed = |source: virt::error::Error| error::from(op, &source);
    let pool = volume::pool(connect, pool_name)?;
    let from = pool.lookup_storage_vol_by_name(&copy.from).map_err(failed)?;
    if from.info().map_err(failed)?.capacity != copy.size {
        return Err(HvError::new(Class::Stale, op, "its size has changed"));
    }
    let length = from.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL).map_err(failed)?.allocation;
    volume::has_room(&pool, length)?;
    let backing = volume_xml::backing(&from.xml_desc(0).map_err(failed)?)
        .map_err(|unreadable| HvError::new(Class::Failed, op, &unreadable.to_string()))?;
    let new = Volume { name: copy.to.clone(), capacity: copy.size, format: DiskFormat::Qcow2, backing };
    let to = StorageVol::create_xml(&pool, &volume_xml::render(&new), 0).map_err(failed)?;
    side_effect();
    let upload = Stream::new(connect, 0).map_err(failed)?;
    to.upload(&upload, 0, 0, 0).map_err(failed)?;
    match pour(connect, &from, length, &upload, cancel) {
        Ok(()) => upload.finish().map_err(failed)?,
        Err(error) => {
            // What the first error was is what matters.
            let _ = upload.abort();
            return Err(error);
        }
    }
    side_effect();
    Ok(())
}

/// Sends the file of a volume, piece by piece: a stream that is read slower than it comes would be kept in memory.
fn pour(
    connect: &Connect,
    from: &StorageVol,
    length: u64,
    to: &Stream,
    cancel: &CancellationToken,
) -> Result<(), HvError> {
    let op = "copy the disk";
    let failed = |source: virt::error::Error| error::from(op, &source);
    let mut bytes = Vec::with_capacity(PIECE);
    let mut offset = 0;
    while offset < length {
        if cancel.is_cancelled() {
            return Err(HvError::new(Class::Stale, op, "nobody waits for it any more"));
        }
        let piece = (PIECE as u64).min(length.saturating_sub(offset));
        let download = Stream::new(connect, 0).map_err(failed)?;
        from.download(&download, offset, piece, 0).map_err(failed)?;
        bytes.clear();
        volume::receive(&download, &mut bytes, PIECE).map_err(failed)?;
        download.finish().map_err(failed)?;
        if bytes.len() as u64 != piece {
            return Err(HvError::new(Class::Failed, op, "its file became shorter"));
        }
        volume::send(to, &bytes).map_err(failed)?;
        offset = offset.saturating_add(piece);
    }
    Ok(())
}

/// Brings the disks of a domain that is off back to a snapshot in them that it does not know of.
pub fn go_back(connect: &Connect, uid: &str, name: &str) -> Result<(), HvError> {
    let op = "go back to the snapshot in the copies";
    let domain = find(connect, uid, op)?;
    let snapshot = make_known(&domain, name, op)?;
    snapshot.revert(sys::VIR_DOMAIN_SNAPSHOT_REVERT_FORCE).map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}

/// Deletes snapshots in the disks of a domain that is off, which it need not know of, and need not be there.
pub fn forget_snapshots(connect: &Connect, uid: &str, names: &[String]) -> Result<(), HvError> {
    let op = "delete the snapshots in the copies";
    let domain = find(connect, uid, op)?;
    for name in names {
        make_known(&domain, name, op)?.delete(0).map_err(|source| error::from(op, &source))?;
        side_effect();
    }
    Ok(())
}

fn make_known(
    domain: &VirtDomain,
    name: &str,
    op: &'static str,
) -> Result<virt::domain_snapshot::DomainSnapshot, HvError> {
    let failed = |source: virt::error::Error| error::from(op, &source);
    let xml = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE).map_err(failed)?;
    let xml = snapshot_xml::known(name, &xml, jiff::Timestamp::now().as_second())
        .ok_or_else(|| HvError::new(Class::Failed, op, "the domain's configuration cannot be read"))?;
    let known = domain.create_snapshot_xml(&xml, sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE).map_err(failed)?;
    side_effect();
    Ok(known)
}

fn find(connect: &Connect, uid: &str, op: &'static str) -> Result<VirtDomain, HvError> {
    connect.lookup_domain_by_uuid_string(uid).map_err(|source| error::from(op, &source))
}
