//! Storage volumes: blocking calls, one connection each, for the pool of `calls`.

use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt_sys as sys;

use super::super::super::domain_xml::DiskFormat;
use super::super::super::images::record;
use super::super::super::volume_xml::{self, Volume};
use super::super::{Class, HvError, ImageFacts, Listed};
use super::error;
use crate::fault::side_effect;

/// A pool with less free space than this is full: the header of a volume may fit, a guest cannot run on it.
const LEAST_FREE: u64 = 64 << 20;

pub fn pool(connect: &Connect, name: &str) -> Result<StoragePool, HvError> {
    connect.lookup_storage_pool_by_name(name).map_err(|source| error::from("find the storage pool", &source))
}

/// The image volume of that name. Where the pool does not know it, `look_again` has it read its directory anew: somebody
/// may have put a file there.
pub fn image(
    connect: &Connect,
    pool_name: &str,
    volume: &str,
    look_again: impl FnOnce() -> bool,
) -> Result<Option<ImageFacts>, HvError> {
    let op = "look up the image";
    let pool = pool(connect, pool_name)?;
    let mut found = error::found(op, pool.lookup_storage_vol_by_name(volume))?;
    if found.is_none() && look_again() {
        pool.refresh(0).map_err(|source| error::from("refresh the storage pool", &source))?;
        found = error::found(op, pool.lookup_storage_vol_by_name(volume))?;
    }
    let Some(found) = found else {
        return Ok(None);
    };
    let path = found.path().map_err(|source| error::from(op, &source))?;
    let info = found.info().map_err(|source| error::from(op, &source))?;
    Ok(Some(ImageFacts { path, virtual_size: info.capacity }))
}

/// All volumes whose name starts so.
pub fn list(connect: &Connect, pool_name: &str, prefix: &str) -> Result<Vec<Listed>, HvError> {
    let op = "list the volumes";
    let volumes = pool(connect, pool_name)?.list_all_volumes(0).map_err(|source| error::from(op, &source))?;
    let mut listed = Vec::new();
    for volume in volumes {
        let name = volume.name().map_err(|source| error::from(op, &source))?;
        if name.starts_with(prefix) {
            listed.push(Listed { name, virtual_size: capacity(&volume)? });
        }
    }
    Ok(listed)
}

fn capacity(volume: &StorageVol) -> Result<u64, HvError> {
    volume.info().map(|info| info.capacity).map_err(|source| error::from("read the volume's size", &source))
}

/// Creates a volume where there is none of its name.
pub fn create(connect: &Connect, pool_name: &str, volume: &Volume) -> Result<(), HvError> {
    let pool = pool(connect, pool_name)?;
    ensure(&pool, volume).map(|_| ())
}

fn ensure(pool: &StoragePool, volume: &Volume) -> Result<StorageVol, HvError> {
    let op = "create the volume";
    if let Some(found) = error::found(op, pool.lookup_storage_vol_by_name(&volume.name))? {
        return Ok(found);
    }
    // A record makes an image of what is in the pool already; without it all of that would be fetched again.
    if !record::is_record(&volume.name) {
        has_room(pool, 0)?;
    }
    let xml = volume_xml::render(volume);
    let created = StorageVol::create_xml(pool, &xml, 0).map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(created)
}

/// Whether there is room for so many bytes at once. libvirt knows the free space of when it last looked; it looks again
/// before anything is refused.
pub fn has_room(pool: &StoragePool, bytes: u64) -> Result<(), HvError> {
    let op = "create the volume";
    let needed = bytes.saturating_add(LEAST_FREE);
    let available = || pool.info().map(|info| info.available).map_err(|source| error::from(op, &source));
    if available()? >= needed {
        return Ok(());
    }
    pool.refresh(0).map_err(|source| error::from("refresh the storage pool", &source))?;
    let available = available()?;
    if available >= needed {
        return Ok(());
    }
    let message = format!("the storage pool has {} MiB left", available >> 20);
    Err(HvError::new(Class::PoolFull, op, &message))
}

/// Creates a raw volume with these bytes, or writes them over what it holds.
pub fn write(connect: &Connect, pool_name: &str, name: &str, bytes: &[u8]) -> Result<(), HvError> {
    let op = "write the volume";
    let size = bytes.len() as u64;
    let pool = pool(connect, pool_name)?;
    let volume = Volume { name: name.to_owned(), capacity: size, format: DiskFormat::Raw, backing: None };
    let volume = ensure(&pool, &volume)?;
    if capacity(&volume)? < size {
        volume.resize(size, 0).map_err(|source| error::from(op, &source))?;
        side_effect();
    }
    let flags: sys::virStreamFlags = 0;
    let stream = Stream::new(connect, flags).map_err(|source| error::from(op, &source))?;
    volume.upload(&stream, 0, size, 0).map_err(|source| error::from(op, &source))?;
    if let Err(source) = send(&stream, bytes) {
        let failure = error::from(op, &source);
        // What the first error was is what matters.
        let _ = stream.abort();
        return Err(failure);
    }
    stream.finish().map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}

/// The bytes of a volume, and little more than `most` where there are more; `None` where there is no such volume.
pub fn read(
    op: &'static str,
    connect: &Connect,
    pool: &StoragePool,
    name: &str,
    most: usize,
) -> Result<Option<Vec<u8>>, HvError> {
    let Some(found) = error::found(op, pool.lookup_storage_vol_by_name(name))? else {
        return Ok(None);
    };
    let failed = |source: virt::error::Error| error::from(op, &source);
    let stream = Stream::new(connect, 0).map_err(failed)?;
    // The length of the file is asked for as it is: of one that is not whole there is less to read.
    found.download(&stream, 0, 0, 0).map_err(failed)?;
    let mut bytes = Vec::new();
    if receive(&stream, &mut bytes, most).map_err(failed)? { stream.finish() } else { stream.abort() }
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Appends what comes to `bytes`, until the end or until it is more than `most`. Says whether that was all.
pub fn receive(stream: &Stream, bytes: &mut Vec<u8>, most: usize) -> Result<bool, virt::error::Error> {
    let mut buffer = [0_u8; 64 << 10];
    while bytes.len() <= most {
        match usize::try_from(stream.recv(&mut buffer)?).unwrap_or_default() {
            0 => return Ok(true),
            count => bytes.extend(buffer.iter().take(count)),
        }
    }
    Ok(false)
}

/// Sends all of them.
pub fn send(stream: &Stream, mut bytes: &[u8]) -> Result<(), virt::error::Error> {
    while !bytes.is_empty() {
        let sent = usize::try_from(stream.send(bytes)?).unwrap_or_default();
        if sent == 0 {
            return Err(virt::error::Error::last_error());
        }
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Deletes a volume.
pub fn delete(connect: &Connect, pool_name: &str, name: &str) -> Result<(), HvError> {
    let op = "delete the volume";
    let pool = pool(connect, pool_name)?;
    let Some(volume) = error::found(op, pool.lookup_storage_vol_by_name(name))? else {
        return Ok(());
    };
    match volume.delete(0).map_err(|source| error::from(op, &source)) {
        Ok(()) => side_effect(),
        Err(error) if error.class == Class::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
