//! The XML of storage volumes. Pure. Source: <https://libvirt.org/formatstorage.html>.

use super::domain_xml::DiskFormat;
use super::xml::Element;

/// A volume to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The size that the guest sees, in bytes.
    pub capacity: u64,
    /// Its format.
    pub format: DiskFormat,
    /// What it is an overlay on.
    pub backing: Option<Backing>,
}

/// What an overlay stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Path of the volume on the host, as libvirt gave it.
    pub path: String,
    /// Its format; stated, or a guest could write a qcow2 header into a raw disk and read any file of the host.
    pub format: DiskFormat,
}

/// The volume XML.
pub fn render(volume: &Volume) -> String {
    let Volume { name, capacity, format, backing } = volume;
    Element::new("volume")
        .attr("type", "file")
        .child(Element::with_text("name", name))
        .child(Element::with_text("capacity", capacity.to_string()).attr("unit", "bytes"))
        .child(
            Element::new("target")
                .child(Element::new("format").attr("type", format.as_str()))
                // Version 3: one of version 2, which libvirt makes else, cannot grow while it has snapshots.
                .children((*format == DiskFormat::Qcow2).then(|| Element::with_text("compat", "1.1"))),
        )
        .children(backing.as_ref().map(|Backing { path, format }| {
            Element::new("backingStore")
                .child(Element::with_text("path", path))
                .child(Element::new("format").attr("type", format.as_str()))
        }))
        .render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_states_both_formats() {
        let backing = Backing { path: "/p/<&>".into(), format: DiskFormat::Raw };
        let volume = Volume { name: "v".into(), capacity: 10, format: DiskFormat::Qcow2, backing: Some(backing) };
        assert_eq!(
            render(&volume),
            "<volume type=\"file\"><name>v</name><capacity unit=\"bytes\">10</capacity>\
             <target><format type=\"qcow2\"/><compat>1.1</compat></target><backingStore><path>/p/&lt;&amp;&gt;</path>\
             <format type=\"raw\"/></backingStore></volume>"
        );
    }
}
