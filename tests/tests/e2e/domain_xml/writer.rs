//! The controller's own writer of domain XML, from its sources: it is pure, and the controller is no library.

#![allow(dead_code, unused_imports, unused_macros)]

#[path = "../../../../controller/src/node/domain_xml.rs"]
pub mod domain_xml;
#[path = "../../../../controller/src/node/metadata.rs"]
pub mod metadata;
#[path = "../../../../controller/src/node/network_xml.rs"]
pub mod network_xml;
#[path = "../../../../controller/src/node/room.rs"]
pub mod room;
#[path = "../../../../controller/src/node/serial_log.rs"]
pub mod serial_log;
#[path = "../../../../controller/src/node/snapshot_xml.rs"]
pub mod snapshot_xml;
#[path = "../../../../controller/src/node/xml.rs"]
pub mod xml;
#[path = "../../../../controller/src/node/xml_reader.rs"]
pub mod xml_reader;
