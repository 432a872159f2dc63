//! What a Host says of its imported images. Pure.

use std::collections::BTreeMap;

use kvmoor_crds::{HostImage, HostImageImport};

use super::super::hypervisor::libvirt::Inventory;
use super::IMPORTING;
use super::attend::{Import, progress};
use super::importer::Source;

/// The images that are there, by the names of the Images that they are the content of.
pub fn present(sources: &[(String, Source, bool)], inventory: &Inventory) -> Vec<HostImage> {
    let size = |source: &Source| {
        let record = source.content.record();
        let found = inventory.whole.iter().find(|(name, found)| *name == record && !found.retired);
        found.map(|(_, record)| i64::try_from(record.virtual_size).unwrap_or(i64::MAX))
    };
    let found = sources
        .iter()
        .filter_map(|(name, source, _)| Some(HostImage { name: name.clone(), virtual_size: size(source)? }));
    found.collect()
}

/// The imports that are under way or failed, in the order of the names.
pub fn imports(sources: &[(String, Source, bool)], all: &[(Source, Import)]) -> Vec<HostImageImport> {
    let mut found = BTreeMap::new();
    for (name, source, _) in sources {
        let Some((_, import)) = all.iter().find(|(other, _)| other == source) else { continue };
        let (reason, message) = match import {
            Import::UnderWay { bytes, length } => (IMPORTING, progress(*bytes, *length)),
            Import::Failed(failure) => (failure.reason.as_str(), format!("{}; {}", failure.message, failure.advice())),
        };
        found.insert(name, HostImageImport { name: name.clone(), reason: reason.to_owned(), message });
    }
    found.into_values().collect()
}
