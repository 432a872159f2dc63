//! Snapshots in libvirt's XML: how one is asked for, what one says of itself, and how the metadata in one is replaced.
//!
//! Pure. Source: <https://libvirt.org/formatsnapshot.html>. A snapshot holds the domain's configuration of its time, our
//! metadata included, and a revert brings both back. So what must be remembered across a revert is written into the
//! snapshot before it: then the revert itself, which libvirt does as a whole, records it.

use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::metadata::{Freeze, Metadata};
use super::xml::Element;
use super::xml_reader::{attribute, walk};

/// A disk as it stands in a domain's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainDisk {
    /// Name of the device: `vda`.
    pub target: String,
    /// Name of the volume; empty where it is none.
    pub volume: String,
    /// Whether a snapshot can be in it: it is qcow2 and may be written.
    pub keeps_snapshots: bool,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotFacts {
    /// When it was taken, in seconds since 1970.
    pub created_at: i64,
    /// Whether it holds the guest's memory.
    pub has_memory: bool,
    /// Virtual CPUs of the guest then.
    pub cpu: u32,
    /// Memory of the guest then, in MiB.
    pub memory_mib: u64,
    /// Fingerprint of the configuration that a revert brings back.
    pub config: String,
    /// How far the guest's file systems were frozen, where an agent was asked for it.
    pub freeze: Option<Freeze>,
}

/// The XML that asks for a snapshot. Disks that cannot keep one, such as the seed, are left out of it.
pub fn request(name: &str, disks: &[DomainDisk]) -> String {
    let disks = disks.iter().map(|disk| {
        let kind = if disk.keeps_snapshots { "internal" } else { "no" };
        Element::new("disk").attr("name", &disk.target).attr("snapshot", kind)
    });
    Element::new("domainsnapshot")
        .child(Element::with_text("name", name))
        .child(Element::new("disks").children(disks))
        .render()
}

/// The XML that makes a snapshot known that is in the disks of a domain which is off, without the memory that it may
/// hold: to go back to it, or to delete it. `domain_xml` is what the domain is after the one and the other.
pub fn known(name: &str, domain_xml: &str, created_at: i64) -> Option<String> {
    let disks = disks(domain_xml)?;
    let asked = request(name, &disks);
    let (head, disks) = asked.split_once("<disks>")?;
    Some(format!(
        "{head}<state>shutoff</state><creationTime>{created_at}</creationTime><memory snapshot=\"no\"/><disks>{}{domain_xml}</domainsnapshot>",
        disks.strip_suffix("</domainsnapshot>")?
    ))
}

/// The disks of a domain's configuration, or of the one in a snapshot. `None` where it is no XML.
pub fn disks(domain_xml: &str) -> Option<Vec<DomainDisk>> {
    let mut found = Vec::new();
    let mut disk: Option<(DomainDisk, bool, bool)> = None;
    walk(domain_xml, |path, start, _| match path.strip_prefix(&["domainsnapshot"]).unwrap_or(path) {
        ["domain", "devices", "disk"] if start.is_some() => {
            found.extend(disk.take());
            disk = Some(Default::default());
        }
        ["domain", "devices", "disk", inner] => {
            if let (Some((entry, is_qcow2, is_read_only)), Some(start)) = (&mut disk, start) {
                match *inner {
                    "target" => entry.target = attribute(start, "dev").unwrap_or_default(),
                    "source" => entry.volume = attribute(start, "volume").unwrap_or_default(),
                    "driver" => *is_qcow2 = attribute(start, "type").as_deref() == Some("qcow2"),
                    "readonly" => *is_read_only = true,
                    _ => {}
                }
            }
        }
        _ => {}
    })?;
    found.extend(disk);
    let complete = |(disk, is_qcow2, is_read_only): (DomainDisk, bool, bool)| DomainDisk {
        keeps_snapshots: is_qcow2 && !is_read_only,
        ..disk
    };
    Some(found.into_iter().map(complete).collect())
}

/// What a snapshot says of itself. `None` where it is not one, or not of a domain of ours.
pub fn facts(snapshot_xml: &str) -> Option<SnapshotFacts> {
    let mut facts = SnapshotFacts::default();
    let mut metadata = None;
    let mut plugged_in = None;
    walk(snapshot_xml, |path, start, text| match (path, start, text) {
        (["domainsnapshot", "memory"], Some(start), _) => {
            facts.has_memory = attribute(start, "snapshot").as_deref() == Some("internal");
        }
        (["domainsnapshot", "creationTime"], _, Some(text)) => facts.created_at = text.parse().unwrap_or_default(),
        // The text is how many it may have; how many it had is said only where that differs.
        (["domainsnapshot", "domain", "vcpu"], Some(start), _) => {
            plugged_in = attribute(start, "current").and_then(|count| count.parse().ok());
        }
        (["domainsnapshot", "domain", "vcpu"], _, Some(text)) => {
            facts.cpu = plugged_in.or_else(|| text.parse().ok()).unwrap_or_default();
        }
        // libvirt writes it in KiB, whatever it was given in.
        (["domainsnapshot", "domain", "memory"], _, Some(text)) => {
            facts.memory_mib = text.parse::<u64>().unwrap_or_default().div_ceil(1024);
        }
        // The persistent configuration comes last, and is the one that the metadata is read from.
        (["domainsnapshot", "domain" | "inactiveDomain", "metadata", "kvmoor:vm"], Some(start), _) => {
            metadata = Metadata::from_attributes(start).or_else(|| metadata.take());
        }
        _ => {}
    })?;
    let Metadata { config, freeze, .. } = metadata?;
    Some(SnapshotFacts { config, freeze, ..facts })
}

/// The same snapshot with this metadata in each configuration that it holds. `None` where it holds none of ours.
///
/// CPUs that were plugged in are made CPUs that are there from the start: libvirt plugs in the others only when QEMU has
/// read the memory already, which then has CPUs that QEMU has not.
pub fn with_metadata(snapshot_xml: &str, metadata: &Metadata) -> Option<String> {
    let element = metadata.to_element().render();
    let mut reader = Reader::from_str(snapshot_xml);
    let mut writer = Writer::new(Vec::new());
    let (mut replaced, mut inside) = (0, 0_usize);
    loop {
        let event = reader.read_event().ok()?;
        let is_ours = |start: &BytesStart<'_>| start.name().as_ref() == "kvmoor:vm";
        match &event {
            Event::Eof => break,
            Event::Start(_) if inside > 0 => inside += 1,
            Event::End(_) if inside > 0 => inside -= 1,
            _ if inside > 0 => {}
            Event::Start(start) | Event::Empty(start) if is_ours(start) => {
                writer.write_event(Event::Text(BytesText::from_escaped(element.as_str()))).ok()?;
                replaced += 1;
                inside = usize::from(matches!(event, Event::Start(_)));
            }
            Event::Empty(start) if start.name().as_ref() == "vcpu" => {
                writer.write_event(Event::Empty(from_the_start(start)?)).ok()?;
            }
            _ => writer.write_event(event).ok()?,
        }
    }
    (replaced > 0).then(|| String::from_utf8(writer.into_inner()).ok())?
}

/// The element of a CPU that is there from the start, if it is there at all.
fn from_the_start(vcpu: &BytesStart<'_>) -> Option<BytesStart<'static>> {
    let is_there = attribute(vcpu, "enabled").as_deref() == Some("yes");
    let mut element = BytesStart::new("vcpu");
    for entry in vcpu.attributes() {
        let key = entry.ok()?.key.as_ref().to_owned();
        let value = attribute(vcpu, &key)?;
        let value = if is_there && key == "hotpluggable" { "no" } else { value.as_str() };
        element.push_attribute((key.as_str(), value));
    }
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::super::domain_xml;
    use super::super::xml::shape;
    use super::*;

    const SNAPSHOT: &str = "<domainsnapshot>
  <name>kvmoor-s</name>
  <state>running</state>
  <creationTime>1764017730</creationTime>
  <memory snapshot='internal'/>
  <disks><disk name='vda' snapshot='internal'/></disks>
  <domain type='qemu' id='1'>
    <name>kvmoor-x</name>
    <metadata>
      <kvmoor:vm xmlns:kvmoor=\"https://kvmoor.dev/libvirt/v1\" uid=\"x\" config=\"old\" restart=\"1\"/>
    </metadata>
    <memory unit='KiB'>65536</memory>
    <currentMemory unit='KiB'>65536</currentMemory>
    <vcpu placement='static' current='2'>4</vcpu>
    <vcpus>
      <vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>
      <vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>
      <vcpu id='2' enabled='no' hotpluggable='yes'/>
    </vcpus>
  </domain>
  <inactiveDomain type='qemu'>
    <metadata>
      <kvmoor:vm xmlns:kvmoor=\"https://kvmoor.dev/libvirt/v1\" uid=\"x\" config=\"new\" restart=\"1\"><more/></kvmoor:vm>
    </metadata>
    <memory unit='KiB'>131072</memory>
  </inactiveDomain>
</domainsnapshot>
";

    #[test]
    fn says_what_a_revert_brings_back() {
        let expected = SnapshotFacts {
            created_at: 1_764_017_730,
            has_memory: true,
            cpu: 2,
            memory_mib: 64,
            config: "new".to_owned(),
            freeze: None,
        };
        assert_eq!(facts(SNAPSHOT), Some(expected));
        let frozen = SNAPSHOT.replace("config=\"new\"", "config=\"new\" freeze=\"done\"");
        assert_eq!(facts(&frozen).unwrap().freeze, Some(Freeze::Done));
        assert_eq!(facts(&SNAPSHOT.replace(" current='2'", "")).unwrap().cpu, 4);
        assert!(!facts(&SNAPSHOT.replace("'internal'/>\n  <disks>", "'no'/>\n  <disks>")).unwrap().has_memory);
        for not_ours in ["", "<domainsnapshot/>", "<domainsnapshot>", "text"] {
            assert_eq!(facts(not_ours), None, "{not_ours}");
        }
    }

    #[test]
    fn metadata_is_replaced_everywhere_and_nothing_else_is() {
        let name = "a<&\"'>".to_owned();
        let metadata = Metadata { uid: "x".into(), name, restored: Some("r".into()), ..Metadata::default() };
        let replaced = with_metadata(SNAPSHOT, &metadata).unwrap();
        let ours = metadata.to_element().render();
        assert_eq!(replaced.matches(&ours).count(), 2);
        let removed = replaced.replace(&ours, "");
        let (before, rest) = SNAPSHOT.split_once("<kvmoor:vm").unwrap();
        assert!(removed.starts_with(before));
        assert!(rest.ends_with(removed.split_once("</inactiveDomain>").unwrap().1));
        assert!(shape::of(&replaced).is_ok());
        assert_eq!(with_metadata("<domainsnapshot/>", &metadata), None);
        // Done again it is the same.
        assert_eq!(with_metadata(&replaced, &metadata).as_deref(), Some(replaced.as_str()));
    }

    #[test]
    fn cpus_that_were_plugged_in_are_there_from_the_start() {
        let replaced = with_metadata(SNAPSHOT, &Metadata { uid: "x".into(), ..Metadata::default() }).unwrap();
        assert!(replaced.contains("<vcpu id=\"1\" enabled=\"yes\" hotpluggable=\"no\" order=\"2\"/>"), "{replaced}");
        assert!(replaced.contains("<vcpu id=\"2\" enabled=\"no\" hotpluggable=\"yes\"/>"), "{replaced}");
        assert!(replaced.contains("<vcpu placement='static' current='2'>4</vcpu>"), "{replaced}");
    }

    #[test]
    fn a_snapshot_in_a_copy_is_made_known_without_memory() {
        let xml = domain_xml::render(&domain_xml::tests::config("x"), &Metadata::default());
        let known = known("s", &xml, 7).unwrap();
        assert!(shape::of(&known).is_ok(), "{known}");
        let head = "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>7</creationTime><memory snapshot=\"no\"/>\
                    <disks><disk name=\"vda\" snapshot=\"internal\"/>";
        assert!(known.starts_with(head) && known.contains(&xml), "{known}");
        assert!(!facts(&known).unwrap().has_memory);
        assert_eq!(disks(&known), disks(&xml), "the disks of a snapshot");
    }

    #[test]
    fn the_seed_is_left_out() {
        let xml = domain_xml::render(&domain_xml::tests::config("x"), &Metadata::default());
        // As libvirt writes it: with space between the elements.
        let xml = xml.replace('<', "\n <");
        let disks = disks(&xml).unwrap();
        assert_eq!(
            request("s", &disks),
            "<domainsnapshot><name>s</name><disks><disk name=\"vda\" snapshot=\"internal\"/>\
             <disk name=\"vdb\" snapshot=\"no\"/></disks></domainsnapshot>"
        );
    }
}
