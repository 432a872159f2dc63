//! What a domain that is on has, by its live XML: read once for all that is looked at in it. libvirt knows it from QEMU's
//! events; nobody is asked.

use virt::domain::Domain as VirtDomain;

use super::super::super::domain_xml::AGENT_CHANNEL;
use super::super::super::snapshot_xml::{self, DomainDisk};
use super::super::super::xml_reader::{attribute, walk};
use super::super::{Class, HvError};
use super::error;

/// What it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live {
    /// Its disks.
    pub disks: Vec<DomainDisk>,
    /// Whether a guest agent has opened its channel.
    pub agent: bool,
}

/// Reads it; `None` where there is no such domain any more.
pub fn look(domain: &VirtDomain) -> Result<Option<Live>, HvError> {
    let op = "read the domain's configuration";
    let Some(xml) = error::found(op, domain.xml_desc(0))? else { return Ok(None) };
    parse(&xml).map(Some).ok_or_else(|| HvError::new(Class::Failed, op, "it cannot be read"))
}

/// `None` where it is no XML.
fn parse(xml: &str) -> Option<Live> {
    Some(Live { disks: snapshot_xml::disks(xml)?, agent: is_open(xml)? })
}

fn is_open(xml: &str) -> Option<bool> {
    let mut is_open = false;
    walk(xml, |path, start, _| {
        if let (["domain", "devices", "channel", "target"], Some(start)) = (path, start)
            && attribute(start, "name").as_deref() == Some(AGENT_CHANNEL)
        {
            is_open = attribute(start, "state").as_deref() == Some("connected");
        }
    })?;
    Some(is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_says_whether_it_is_open() {
        let xml = |target: &str| format!("<domain><devices><channel type='unix'>{target}</channel></devices></domain>");
        let open = "<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>";
        let agent = |xml: &str| parse(xml).map(|live| live.agent);
        assert_eq!(agent(&xml(open)), Some(true));
        assert_eq!(agent(&xml(&open.replace("connected", "disconnected"))), Some(false));
        assert_eq!(agent(&xml(&open.replace(" state='connected'", ""))), Some(false));
        assert_eq!(agent(&xml(&open.replace("guest_agent", "other"))), Some(false));
        assert_eq!(agent("<domain/>"), Some(false));
        assert_eq!(agent("no XML <"), None);
    }

    #[test]
    fn one_text_says_disks_and_agent() {
        let xml = "<domain><devices><disk type='volume' device='disk'><source pool='default' volume='root'/>\
             <target dev='vda' bus='virtio'/></disk><channel type='unix'>\
             <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>";
        let live = parse(xml).unwrap();
        let volumes: Vec<_> = live.disks.iter().map(|disk| (disk.target.as_str(), disk.volume.as_str())).collect();
        assert_eq!((volumes, live.agent), (vec![("vda", "root")], true));
    }
}
