//! Volumes of imported images: blocking calls, one connection each, for the pool of `calls`.

use hyper::body::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;
use tokio::sync::mpsc::{Receiver, Sender};
use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use super::super::super::images::record::{self, Record};
use super::super::super::xml::Element;
use super::super::{Class, HvError, ImageFacts};
use super::{error, volume};
use crate::fault::side_effect;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// A part of what is uploaded.
pub enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// That was all. Without it, an upload is broken off.
    End,
}

/// What the pool holds of imported images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Whole images: the record's name and the record.
    pub whole: Vec<(String, Record)>,
    /// Volumes that belong to no whole image: of imports that are under way, or were broken off.
    pub rest: Vec<String>,
    /// Volumes that other volumes stand on, by name.
    pub backing: Vec<String>,
}

/// The image whose record has that name, if it is whole: its record and its volume's path.
pub fn imported(connect: &Connect, pool_name: &str, record: &str) -> Result<Option<(Record, ImageFacts)>, HvError> {
    let op = "look up the image";
    let pool = volume::pool(connect, pool_name)?;
    let Some(record) = read_record(connect, &pool, record)? else {
        return Ok(None);
    };
    let Some(found) = error::found(op, pool.lookup_storage_vol_by_name(&record.volume))? else {
        return Ok(None);
    };
    let path = found.path().map_err(|source| error::from(op, &source))?;
    let facts = ImageFacts { path, virtual_size: record.virtual_size };
    Ok(Some((record, facts)))
}

fn read_record(connect: &Connect, pool: &StoragePool, name: &str) -> Result<Option<Record>, HvError> {
    let bytes = volume::read("read the image's record", connect, pool, name, record::LENGTH)?;
    Ok(bytes.and_then(|bytes| Record::parse(&bytes, name)))
}

/// Creates a volume and writes into it what comes, until the end.
pub fn receive(
    connect: &Connect,
    pool_name: &str,
    name: &str,
    length: Option<u64>,
    mut pieces: Receiver<Piece>,
) -> Result<(), HvError> {
    let op = "write the image";
    let pool = volume::pool(connect, pool_name)?;
    volume::has_room(&pool, length.unwrap_or_default())?;
    let xml = Element::new("volume")
        .attr("type", "file")
        .child(Element::with_text("name", name))
        .child(Element::with_text("capacity", length.unwrap_or_default().to_string()).attr("unit", "bytes"))
        // Not filled with zeros first.
        .child(Element::with_text("allocation", "0"))
        // To libvirt it is bytes: whoever uses it says of what format.
        .child(Element::new("target").child(Element::new("format").attr("type", "raw")));
    let failed = |source: virt::error::Error| without_name(error::from(op, &source), name);
    let created = StorageVol::create_xml(&pool, &xml.render(), 0).map_err(failed)?;
    side_effect();
    let stream = Stream::new(connect, 0).map_err(failed)?;
    created.upload(&stream, 0, 0, 0).map_err(failed)?;
    loop {
        let sent = match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => volume::send(&stream, &bytes),
            Some(Piece::End) => break,
            None => {
                // What became of it does not matter: the volume is deleted.
                let _ = stream.abort();
                return Err(HvError::new(Class::Failed, op, "the download broke off"));
            }
        };
        if let Err(source) = sent {
            let failure = failed(source);
            let _ = stream.abort();
            return Err(failure);
        }
    }
    stream.finish().map_err(failed)?;
    side_effect();
    Ok(())
}

/// The error without the name of the volume, which is another on each attempt.
fn without_name(error: HvError, name: &str) -> HvError {
    match error.class {
        Class::PoolFull => HvError::new(Class::PoolFull, error.op, "there is no space left in the storage pool"),
        _ => HvError { message: error.message.replace(name, "…"), ..error },
    }
}

/// Reads a volume, to its end or until nobody listens any more.
pub fn send(connect: &Connect, pool_name: &str, name: &str, pieces: &Sender<Bytes>) -> Result<(), HvError> {
    let op = "read the image";
    let pool = volume::pool(connect, pool_name)?;
    let found = pool.lookup_storage_vol_by_name(name).map_err(|source| error::from(op, &source))?;
    let stream = Stream::new(connect, 0).map_err(|source| error::from(op, &source))?;
    found.download(&stream, 0, 0, 0).map_err(|source| error::from(op, &source))?;
    let mut buffer = vec![0_u8; READ_BYTES];
    let ended = loop {
        match stream.recv(&mut buffer) {
            Ok(0) => break stream.finish(),
            Ok(count) => {
                let bytes = buffer.get(..usize::try_from(count).unwrap_or_default()).unwrap_or_default();
                if pieces.blocking_send(Bytes::copy_from_slice(bytes)).is_err() {
                    break stream.abort();
                }
            }
            Err(source) => break Err(source),
        }
    };
    ended.map_err(|source| error::from(op, &source))
}

/// What the pool holds of imported images, and, if asked, what stands on them.
pub fn inventory(connect: &Connect, pool_name: &str, with_backing: bool) -> Result<Inventory, HvError> {
    let op = "list the volumes";
    let pool = volume::pool(connect, pool_name)?;
    let volumes = pool.list_all_volumes(0).map_err(|source| error::from(op, &source))?;
    let mut inventory = Inventory::default();
    let (mut images, mut others, mut backing) = (Vec::new(), Vec::new(), Vec::new());
    for found in volumes {
        let name = found.name().map_err(|source| error::from(op, &source))?;
        if !name.starts_with(record::PREFIX) {
            others.push(found);
        } else if record::is_record(&name) {
            match read_record(connect, &pool, &name)? {
                Some(record) => inventory.whole.push((name, record)),
                None => inventory.rest.push(name),
            }
        } else {
            images.push(name);
        }
    }
    if with_backing && !images.is_empty() {
        for other in others {
            // One that has just gone stands on nothing.
            if let Some(xml) = error::found(op, other.xml_desc(0))? {
                backing.extend(backing_name(&xml));
            }
        }
    }
    // A record without its volume is as good as none.
    let (whole, lost): (Vec<_>, Vec<_>) =
        inventory.whole.into_iter().partition(|(_, record)| images.contains(&record.volume));
    inventory.whole = whole;
    inventory.rest.extend(lost.into_iter().map(|(name, _)| name));
    inventory.backing = images.iter().filter(|name| backing.contains(name)).cloned().collect();
    let is_whole = |name: &String| inventory.whole.iter().any(|(_, record)| record.volume == *name);
    let rest: Vec<_> = images.into_iter().filter(|name| !is_whole(name)).collect();
    inventory.rest.extend(rest);
    Ok(inventory)
}

/// The file name of what a volume stands on, from its XML. No two of ours are the same, so the directory does not matter.
fn backing_name(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut inside: Vec<String> = Vec::new();
    let mut name = None;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => inside.push(start.name().as_ref().to_owned()),
            Event::End(_) => drop(inside.pop()),
            // Whatever is escaped before it comes as a text of its own.
            Event::Text(text) if matches!(inside.as_slice(), [.., parent, own] if parent == "backingStore" && own == "path") =>
            {
                name = text.rsplit('/').next().map(str::to_owned);
            }
            Event::Eof => return name,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_on_each_attempt() {
        let said =
            |class| without_name(HvError::new(class, "write the image", "cannot write /p/once-7: why"), "once-7");
        assert_eq!(said(Class::Failed).message, "cannot write /p/…: why");
        assert_eq!(said(Class::PoolFull).message, "there is no space left in the storage pool");
    }

    #[test]
    fn what_a_volume_stands_on() {
        let xml = "<volume type='file'><name>v</name><target><path>/p/v</path><format type='qcow2'/></target>\
                   <backingStore><path>/p/image</path><format type='raw'/></backingStore></volume>";
        assert_eq!(backing_name(xml).as_deref(), Some("image"));
        let escaped = xml.replace("/p/image", "/p/a&amp;b/image");
        assert_eq!(backing_name(&escaped).as_deref(), Some("image"));
        assert_eq!(backing_name("<volume><target><path>/p/v</path></target></volume>"), None);
    }
}
