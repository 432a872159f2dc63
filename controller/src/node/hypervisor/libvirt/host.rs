//! What the host is: asked once for each connection, since none of it changes under one.

pub mod network;

use std::fs;

use kvmoor_crds::VirtType;
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};
use virt::connect::Connect;

use super::super::super::args::VirtSetting;
use super::super::{Class, GuestFeatures, HostFacts, HvError};
use super::{Settings, error, guests};

/// The oldest libvirt that works, as libvirt counts versions: that of Ubuntu 22.04.
const OLDEST: u32 = 8_000_000;

/// Asks. It may take a minute: the first time, libvirt tries out every QEMU that it finds.
pub fn facts(connect: &Connect, settings: &Settings) -> Result<HostFacts, HvError> {
    let op = "read the host's capabilities";
    let fail = |source: virt::error::Error| error::from(op, &source);
    let node = connect.node_info().map_err(fail)?;
    let capabilities = connect.capabilities().map_err(fail)?;
    let libvirt_version = connect.lib_version().map_err(fail)?;
    check_version(libvirt_version)?;
    let hypervisor_version = connect.hyp_version().map_err(fail)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|source| HvError::new(Class::Failed, op, &source.to_string()))?;
    let virt = virt_type(settings.virt, || kvm_usable(&capabilities));
    let guests = virt.as_ref().map_or_else(|_| GuestFeatures::default(), |virt| guests::features(connect, *virt));
    Ok(HostFacts {
        virt,
        guests,
        architecture: std::env::consts::ARCH.to_owned(),
        boot_id: boot_id.trim().to_owned(),
        pool: settings.pool.clone(),
        network: settings.network.clone(),
        bridges: settings.bridges.clone(),
        cpus: node.cpus,
        memory: node.memory.saturating_mul(1024),
        libvirt_version: version(libvirt_version),
        hypervisor_version: version(hypervisor_version),
    })
}

fn check_version(number: u32) -> Result<(), HvError> {
    if number >= OLDEST {
        return Ok(());
    }
    let why = format!("libvirt {} is too old, {} or later is needed", version(number), version(OLDEST));
    Err(HvError::new(Class::Failed, "use libvirt", &why))
}

fn virt_type(setting: VirtSetting, kvm: impl FnOnce() -> Result<(), String>) -> Result<VirtType, String> {
    match setting {
        VirtSetting::Qemu => Ok(VirtType::Qemu),
        VirtSetting::Auto => Ok(if kvm().is_ok() { VirtType::Kvm } else { VirtType::Qemu }),
        VirtSetting::Kvm => kvm().map(|()| VirtType::Kvm).map_err(|why| {
            format!("The host is set to run guests by KVM, but {why}; set virt-type to auto or qemu, or mend the host")
        }),
    }
}

/// Whether guests really run by KVM. What this process sees of /dev/kvm says nothing, since it may be in a container;
/// QEMU is tried out by libvirt. But there are kernels with a /dev/kvm on CPUs without virtualization, on which guests
/// hang.
fn kvm_usable(capabilities: &str) -> Result<(), String> {
    let has_flag = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualization(&text));
    if !has_flag {
        return Err("the CPU has no virtualization (flag vmx or svm)".to_owned());
    }
    if !offers_kvm(capabilities) {
        return Err("libvirt does not offer it: /dev/kvm is missing, or QEMU may not open it".to_owned());
    }
    Ok(())
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Whether the capabilities have a guest `<domain type='kvm'>`.
fn offers_kvm(capabilities: &str) -> bool {
    let mut reader = Reader::from_str(capabilities);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start) | Event::Empty(start)) if start.name().as_ref() == "domain" => {
                let kind = start.try_get_attribute("type").ok().flatten();
                if kind.is_some_and(|kind| {
                    kind.normalized_value(XmlVersion::Implicit1_0).is_ok_and(|value| value == "kvm")
                }) {
                    return true;
                }
            }
            Ok(Event::Eof) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

/// libvirt's 9002003 as 9.2.3.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_only_if_it_can_be_used() {
        let unusable = || Err("x".to_owned());
        assert_eq!(virt_type(VirtSetting::Auto, || Ok(())), Ok(VirtType::Kvm));
        assert_eq!(virt_type(VirtSetting::Auto, unusable), Ok(VirtType::Qemu));
        assert_eq!(virt_type(VirtSetting::Qemu, || Ok(())), Ok(VirtType::Qemu));
        assert!(virt_type(VirtSetting::Kvm, unusable).is_err_and(|why| why.contains("but x;")));
    }

    #[test]
    fn an_old_libvirt_is_refused_in_words() {
        assert!(check_version(8_000_000).is_ok() && check_version(9_000_000).is_ok());
        let said = check_version(7_010_000).unwrap_err().message;
        assert!(said.contains("libvirt 7.10.0 is too old, 8.0.0 or later is needed"), "{said}");
    }

    #[test]
    fn reads_what_the_host_says() {
        assert!(has_virtualization("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualization("flags\t\t: fpu sse\nvmx flags\t: vnmi\nmodel name : svm\n"));
        assert!(offers_kvm(
            "<capabilities><guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"
        ));
        assert!(!offers_kvm(
            "<capabilities><guest><arch name='x86_64'><domain type='qemu'/></arch></guest></capabilities>"
        ));
        assert_eq!(version(9_002_003), "9.2.3");
    }
}
