//! What guests can be made of here, from libvirt's domain capabilities.

use kvmoor_crds::{HostFeature, VirtType};
use virt::connect::Connect;

use super::super::super::xml_reader::{attribute, walk};
use super::super::GuestFeatures;

/// The architecture on which CPUs and memory can be plugged in.
const GROWING: &str = "x86_64";
/// The machine type of our domains there.
const MACHINE: &str = "q35";
/// More CPUs need an interrupt controller that our domains do not have.
const MOST_CPUS: u32 = 255;

/// Asks. A driver that has no such capabilities has no such features.
pub fn features(connect: &Connect, virt: VirtType) -> GuestFeatures {
    let arch = std::env::consts::ARCH;
    let kind = match virt {
        VirtType::Kvm => "kvm",
        VirtType::Qemu => "qemu",
    };
    let machine = if arch == GROWING { MACHINE } else { "virt" };
    connect
        .domain_capabilities(None, Some(arch), Some(machine), Some(kind), 0)
        .ok()
        .and_then(|xml| read(&xml, arch))
        .unwrap_or_default()
}

fn read(xml: &str, arch: &str) -> Option<GuestFeatures> {
    let mut most_cpus = 0;
    // The names and values of enumerations, such as ("os/firmware", "efi").
    let mut values: Vec<(String, String)> = Vec::new();
    let mut enumeration = String::new();
    let mut has_tpm = false;
    walk(xml, |path, start, text| match (path, start, text) {
        (["domainCapabilities", "vcpu"], Some(start), _) => {
            most_cpus = attribute(start, "max").and_then(|most| most.parse::<u32>().ok()).unwrap_or_default();
        }
        (["domainCapabilities", "devices", "tpm"], Some(start), _) => {
            has_tpm = attribute(start, "supported").as_deref() == Some("yes");
        }
        (["domainCapabilities", outer @ .., "enum"], Some(start), _) => {
            enumeration = format!("{}/{}", outer.join("/"), attribute(start, "name").unwrap_or_default());
        }
        (["domainCapabilities", .., "enum", "value"], _, Some(text)) => {
            values.push((enumeration.clone(), text.to_owned()));
        }
        _ => {}
    })?;
    let has = |name: &str, value: &str| values.iter().any(|(found, text)| found == name && text == value);
    let uefi = has("os/firmware", "efi");
    let tpm = has_tpm && has("devices/tpm/backendModel", "emulator") && has("devices/tpm/backendVersion", "2.0");
    let features = [
        (HostFeature::Uefi, uefi),
        (HostFeature::SecureBoot, uefi && has("os/loader/secure", "yes")),
        (HostFeature::Tpm, tpm),
    ];
    Some(GuestFeatures {
        max_cpus: if arch == GROWING { most_cpus.min(MOST_CPUS) } else { 0 },
        features: features.into_iter().filter(|(_, is)| *is).map(|(feature, _)| feature).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_plugged_in_on_other_architectures() {
        let xml = "<domainCapabilities><vcpu max='288'/></domainCapabilities>";
        assert_eq!(read(xml, "x86_64").map(|features| features.max_cpus), Some(255));
        assert_eq!(read(xml, "aarch64").map(|features| features.max_cpus), Some(0));
        assert_eq!(read("no XML <", "x86_64"), None);
    }

    #[test]
    fn says_which_firmware_there_is() {
        let xml = "<domainCapabilities><vcpu max='288'/><os supported='yes'>
            <enum name='firmware'><value>efi</value></enum><loader supported='yes'><value>/code.fd</value>
            <enum name='secure'><value>yes</value><value>no</value></enum></loader></os><devices><tpm supported='yes'>
            <enum name='backendModel'><value>passthrough</value><value>emulator</value></enum>
            <enum name='backendVersion'><value>1.2</value><value>2.0</value></enum></tpm></devices></domainCapabilities>";
        let features = |xml: &str| read(xml, "x86_64").unwrap().features;
        assert_eq!(features(xml), [HostFeature::Uefi, HostFeature::SecureBoot, HostFeature::Tpm]);
        assert_eq!(features(&xml.replace("<value>yes</value>", "")), [HostFeature::Uefi, HostFeature::Tpm]);
        assert_eq!(features(&xml.replace("<value>efi</value>", "").replace(">emulator<", "><")), []);
    }
}
