//! The XML of storage volumes. Pure. Source: <https://libvirt.org/formatstorage.html>.

use super::domain_xml::DiskFormat;
use super::xml::Element;
use super::xml_reader::{attribute, walk};

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

/// What a volume is an overlay on, from its XML as libvirt gives it. `None` where it is none.
///
/// # Errors
/// If it cannot be told: then it must not be taken for one that stands on nothing.
pub fn backing(volume_xml: &str) -> Result<Option<Backing>, Unreadable> {
    let (mut is_overlay, mut format) = (false, None);
    walk(volume_xml, |names, start, _| match (names, start) {
        (["volume", "backingStore"], Some(_)) => is_overlay = true,
        (["volume", "backingStore", "format"], Some(start)) => format = attribute(start, "type"),
        _ => {}
    })
    .ok_or(Unreadable)?;
    let path = volume_xml.split_once("<backingStore>").and_then(|(_, store)| {
        let (path, _) = store.split_once("<path>")?.1.split_once("</path>")?;
        quick_xml::escape::unescape(path).ok().map(std::borrow::Cow::into_owned)
    });
    let format =
        [DiskFormat::Qcow2, DiskFormat::Raw].into_iter().find(|known| Some(known.as_str()) == format.as_deref());
    match (is_overlay, path, format) {
        (false, ..) => Ok(None),
        (true, Some(path), Some(format)) => Ok(Some(Backing { path, format })),
        _ => Err(Unreadable),
    }
}

/// XML that does not say what it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the volume stands on cannot be told")]
pub struct Unreadable;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_volume_stands_on_is_known_or_an_error() {
        let xml = "<volume type='file'><name>v</name><target><path>/p/v</path><format type='qcow2'/></target>\
                   <backingStore><path>/p/image</path><format type='raw'/></backingStore></volume>";
        let expected = Backing { path: "/p/image".into(), format: DiskFormat::Raw };
        assert_eq!(backing(xml), Ok(Some(expected)));
        assert_eq!(backing("<volume><target><format type='qcow2'/></target></volume>"), Ok(None));
        for unclear in
            [xml.replace("<format type='raw'/>", ""), xml.replace("raw", "vmdk"), xml.replace("</volume>", "")]
        {
            assert_eq!(backing(&unclear), Err(Unreadable), "{unclear}");
        }
        let text = "a path with <, & and '";
        let escaped = xml.replace("/p/image", "a path with &lt;, &amp; and '");
        assert_eq!(backing(&escaped).unwrap().unwrap().path, text);
    }

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
