//! Reading what libvirt writes: elements with where they stand, and their attributes.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// Visits elements and texts with the names of the elements that they stand in. `None` where it is no XML.
pub fn walk(xml: &str, mut visit: impl FnMut(&[&str], Option<&BytesStart<'_>>, Option<&str>)) -> Option<()> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    loop {
        let event = reader.read_event().ok()?;
        if let Event::Start(start) | Event::Empty(start) = &event {
            path.push(start.name().as_ref().to_owned());
        }
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match &event {
            Event::Eof => return path.is_empty().then_some(()),
            Event::Start(start) | Event::Empty(start) => visit(&names, Some(start), None),
            Event::Text(text) => visit(&names, None, Some(text.trim())),
            _ => {}
        }
        if matches!(event, Event::Empty(_) | Event::End(_)) {
            path.pop();
        }
    }
}

/// The value of an attribute.
pub fn attribute(start: &BytesStart<'_>, key: &str) -> Option<String> {
    let attribute = start.try_get_attribute(key).ok()??;
    Some(attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
}
