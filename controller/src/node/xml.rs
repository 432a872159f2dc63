//! A tree of XML elements and its one way to text.
//!
//! Domain and volume descriptions are built as trees, so that no string can add an element or an attribute. Nothing
//! here knows libvirt.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// An element with its attributes and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Self>,
    text: Option<String>,
}

impl Element {
    /// An empty element.
    pub fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), children: Vec::new(), text: None }
    }

    /// An element that holds nothing but text.
    pub fn with_text(name: &'static str, text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::new(name) }
    }

    /// With one more attribute.
    pub fn attr(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// With one more child.
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// With more children.
    pub fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The element as a document without declaration.
    pub fn render(&self) -> String {
        let mut writer = Writer::new(Vec::new());
        // A Vec takes every write, and every piece written is UTF-8.
        match self.write(&mut writer) {
            Ok(()) => String::from_utf8(writer.into_inner()).unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let mut start = BytesStart::new(self.name);
        for (name, value) in &self.attributes {
            start.push_attribute((*name, allowed(value).as_str()));
        }
        if self.children.is_empty() && self.text.is_none() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if let Some(text) = &self.text {
            writer.write_event(Event::Text(BytesText::new(&allowed(text))))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name)))
    }
}

/// The text with a replacement character for each character that no XML 1.0 document may hold, however escaped.
fn allowed(text: &str) -> String {
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}');
    text.chars().map(|c| if legal(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
pub mod shape {
    //! Reading back what was written, for tests: element and attribute names without their values.

    use quick_xml::events::Event;
    use quick_xml::{Reader, XmlVersion};

    /// Element and attribute names in the order of the document, or what is wrong with it.
    pub fn of(xml: &str) -> Result<Vec<String>, String> {
        let mut reader = Reader::from_str(xml);
        let mut names = Vec::new();
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Eof => return Ok(names),
                Event::Start(start) | Event::Empty(start) => {
                    names.push(format!("{:?}", start.name()));
                    for attribute in start.attributes() {
                        let attribute = attribute.map_err(|error| error.to_string())?;
                        attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
                        names.push(format!("@{:?}", attribute.key));
                    }
                }
                Event::End(_) => names.push("/".to_owned()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_leave_their_place() {
        let element = Element::new("a").attr("b", "\"/><c>&").child(Element::with_text("d", "</d>\u{0}\u{1f}&amp;"));
        assert_eq!(
            element.render(),
            "<a b=\"&quot;/&gt;&lt;c&gt;&amp;\"><d>&lt;/d&gt;\u{fffd}\u{fffd}&amp;amp;</d></a>"
        );
        assert_eq!(Element::new("a").render(), "<a/>");
    }
}
