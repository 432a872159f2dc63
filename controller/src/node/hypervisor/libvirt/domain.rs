//! Domains: blocking calls, one connection each, for the pool of `calls`.

use std::net::IpAddr;
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::{
    Domain as VirtDomain, DomainPausedReason as Paused, DomainShutoffReason as Shutoff, DomainState, DomainStateReason,
};
use virt::enumutil::Enum;
use virt_sys as sys;

use super::super::super::domain_xml::{self, DomainConfig};
use super::super::super::metadata::{self, Metadata};
use super::super::{Class, Domain, DomainFacts, HvError, Lease, Listed, OffCause, Power};
use super::live::{self, Live};
use super::{disk_errors, error};
use crate::fault::side_effect;

const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;
const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;

/// What there is under a UUID.
pub fn observe(connect: &Connect, uid: &str) -> Result<DomainFacts, HvError> {
    let (domain, metadata) = match find(connect, uid)? {
        Found::Missing => return Ok(DomainFacts::Missing),
        Found::Foreign(why) => return Ok(DomainFacts::Foreign(why)),
        Found::Ours(domain, metadata) => (domain, *metadata),
    };
    let power = power(&domain)?;
    let info = domain.info().map_err(|source| error::from("read the domain's resources", &source))?;
    let (mut leases, mut has) = (Vec::new(), Live::default());
    if power.is_active() {
        let Some(live) = live::look(&domain)? else { return Ok(DomainFacts::Missing) };
        (leases, has) = (self::leases(&domain), live);
    }
    Ok(DomainFacts::Ours(Box::new(Domain {
        power,
        metadata,
        cpu: info.nr_virt_cpu,
        memory_mib: info.max_mem.div_ceil(1024),
        leases,
        agent: has.agent,
        attached: has.disks.into_iter().map(|disk| disk.volume).collect(),
    })))
}

/// The domain with that UUID, if it carries our mark with the same UID.
pub fn ours(connect: &Connect, uid: &str) -> Result<Option<(VirtDomain, Metadata)>, HvError> {
    Ok(match find(connect, uid)? {
        Found::Ours(domain, metadata) => Some((domain, *metadata)),
        Found::Missing | Found::Foreign(_) => None,
    })
}

/// Whether the domain with that UUID is ours and on.
pub fn is_on(connect: &Connect, uid: &str) -> Result<bool, HvError> {
    let Some((domain, _)) = ours(connect, uid)? else { return Ok(false) };
    domain.is_active().map_err(|source| error::from("see whether the domain is on", &source))
}

enum Found {
    Missing,
    Foreign(String),
    Ours(VirtDomain, Box<Metadata>),
}

fn find(connect: &Connect, uid: &str) -> Result<Found, HvError> {
    let Some(domain) = error::found("look up the domain", connect.lookup_domain_by_uuid_string(uid))? else {
        return Ok(Found::Missing);
    };
    let text = error::found("read the domain's metadata", domain.metadata(ELEMENT, Some(metadata::NAMESPACE), CONFIG))?;
    let Some(metadata) = text.as_deref().and_then(Metadata::parse) else {
        return Ok(Found::Foreign(format!("A domain with UUID {uid} does not carry Kvmoor's mark")));
    };
    if !metadata.uid.eq_ignore_ascii_case(uid) {
        return Ok(Found::Foreign(format!(
            "The domain with UUID {uid} is marked as another virtual machine's ({})",
            metadata.uid
        )));
    }
    Ok(Found::Ours(domain, Box::new(metadata)))
}

fn power(domain: &VirtDomain) -> Result<Power, HvError> {
    let op = "read the domain's state";
    let (state, reason) = domain.state().map_err(|source| error::from(op, &source))?;
    // The crate reads a failed call as a state that does not exist.
    let unreadable = || HvError::new(Class::Timeout, op, "libvirt did not say");
    let Enum::Known(state) = state else {
        return Err(unreadable());
    };
    Ok(match (state, reason) {
        (DomainState::Running | DomainState::Blocked, _) => Power::Running,
        (DomainState::Paused, Enum::Known(DomainStateReason::Paused(Enum::Known(Paused::IOError)))) => {
            Power::DiskError(disk_errors::look(domain))
        }
        (DomainState::Paused, Enum::Known(DomainStateReason::Paused(Enum::Known(reason)))) => paused(reason),
        (DomainState::Paused, _) => Power::Paused,
        (DomainState::Shutdown, _) => Power::GoingDown,
        (DomainState::PMSuspended, _) => Power::Asleep,
        (DomainState::Shutoff, Enum::Known(DomainStateReason::Shutoff(Enum::Known(Shutoff::Shutdown)))) => {
            Power::Off(OffCause::Shutdown)
        }
        (DomainState::Shutoff | DomainState::NoState, _) => Power::Off(OffCause::Other),
        (DomainState::Crashed, _) => Power::Panicked,
    })
}

fn paused(reason: Paused) -> Power {
    let stuck = |why: &str| Power::Stuck(why.to_owned());
    match reason {
        Paused::Unknown | Paused::User | Paused::FromSnapshot => Power::Paused,
        Paused::Migration | Paused::Save | Paused::Dump | Paused::Snapshot | Paused::StartingUp | Paused::PostCopy => {
            Power::Busy
        }
        Paused::ShuttingDown => Power::GoingDown,
        Paused::IOError => stuck("a disk reports errors"),
        Paused::Watchdog => stuck("the guest's watchdog fired"),
        Paused::Crashed => stuck("the guest crashed"),
        Paused::PostCopyFailed => stuck("a migration broke off"),
        Paused::APIError => stuck("libvirt failed to let them run"),
    }
}

/// Addresses from the network's DHCP server. Not to get them is not worth failing for: they are told when they come.
fn leases(domain: &VirtDomain) -> Vec<Lease> {
    addresses(domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE).unwrap_or_default()
}

/// All addresses that a source tells.
pub fn addresses(
    domain: &VirtDomain,
    source: sys::virDomainInterfaceAddressesSource,
) -> Result<Vec<Lease>, virt::error::Error> {
    let interfaces = domain.interface_addresses(source, 0)?;
    Ok(interfaces
        .into_iter()
        .filter_map(|interface| Some((interface.hwaddr?, interface.addrs)))
        .flat_map(|(mac, addresses)| {
            addresses.into_iter().filter_map(move |address| {
                Some(Lease { mac: mac.clone(), address: address.addr.parse::<IpAddr>().ok()? })
            })
        })
        .collect())
}

/// All domains whose name starts so.
pub fn list(connect: &Connect, prefix: &str) -> Result<Vec<Listed>, HvError> {
    let op = "list the domains";
    let domains = connect.list_all_domains(0).map_err(|source| error::from(op, &source))?;
    let names = domains.iter().map(VirtDomain::name).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|source| error::from(op, &source))?;
    Ok(names.into_iter().filter(|name| name.starts_with(prefix)).map(|name| Listed { name, virtual_size: 0 }).collect())
}

/// Makes this the persistent configuration.
pub fn define(connect: &Connect, config: &DomainConfig, metadata: &Metadata) -> Result<(), HvError> {
    let xml = domain_xml::render(config, metadata);
    connect.define_domain_xml(&xml).map_err(|source| error::from("define the domain", &source))?;
    side_effect();
    Ok(())
}

/// Writes the metadata element into the persistent configuration.
pub fn record(connect: &Connect, metadata: &Metadata) -> Result<(), HvError> {
    let xml = metadata.to_bare_element().render();
    let (prefix, namespace) = (Some(metadata::PREFIX), Some(metadata::NAMESPACE));
    with(connect, &metadata.uid, "write the domain's metadata", |domain| {
        domain.set_metadata(ELEMENT, Some(&xml), prefix, namespace, CONFIG)
    })
}

/// Starts it.
pub fn start(connect: &Connect, uid: &str, paused: bool) -> Result<(), HvError> {
    let flags = if paused { sys::VIR_DOMAIN_START_PAUSED } else { 0 };
    with(connect, uid, "start the domain", |domain| domain.create_with_flags(flags))
}

/// Halts its CPUs.
pub fn suspend(connect: &Connect, uid: &str) -> Result<(), HvError> {
    with(connect, uid, "pause the domain", VirtDomain::suspend)
}

/// Lets its CPUs run.
pub fn resume(connect: &Connect, uid: &str) -> Result<(), HvError> {
    with(connect, uid, "resume the domain", VirtDomain::resume)
}

/// How long QEMU may take to do again what failed.
const RETRY: Duration = Duration::from_millis(300);

/// Lets the CPUs run that a disk error halted. What failed is done again at once; whether that went well is to be seen
/// by whoever looks next.
pub fn retry_disks(connect: &Connect, uid: &str) -> Result<(), HvError> {
    resume(connect, uid)?;
    std::thread::sleep(RETRY);
    Ok(())
}

/// Presses the ACPI power button; never the guest agent, which the guest controls.
pub fn press_power_button(connect: &Connect, uid: &str) -> Result<(), HvError> {
    with(connect, uid, "press the domain's power button", |domain| {
        domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    })
}

/// Presses the reset button.
pub fn reset(connect: &Connect, uid: &str) -> Result<(), HvError> {
    with(connect, uid, "reset the domain", VirtDomain::reset)
}

/// Turns it off.
pub fn destroy(connect: &Connect, uid: &str) -> Result<(), HvError> {
    with(connect, uid, "turn the domain off", VirtDomain::destroy)
}

/// Removes the configuration.
pub fn undefine(connect: &Connect, uid: &str) -> Result<(), HvError> {
    let op = "remove the domain";
    let state = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    let undefine = |flags| with(connect, uid, op, |domain| domain.undefine_flags(flags));
    let result = match undefine(state | sys::VIR_DOMAIN_UNDEFINE_NVRAM) {
        // A driver without firmware does not know the flag, and has no firmware variables either.
        Err(error) if error.message.contains("unsupported flags") => undefine(state),
        other => other,
    };
    match result {
        Err(error) if error.class == Class::NotFound => Ok(()),
        other => other,
    }
}

/// Changes a domain. It must still be the one that was observed: a step that was decided upon is for it alone.
pub fn with(
    connect: &Connect,
    uid: &str,
    op: &'static str,
    change: impl FnOnce(&VirtDomain) -> Result<(), virt::error::Error>,
) -> Result<(), HvError> {
    let domain = connect.lookup_domain_by_uuid_string(uid).map_err(|source| error::from(op, &source))?;
    change(&domain).map_err(|source| error::from(op, &source))?;
    side_effect();
    Ok(())
}
