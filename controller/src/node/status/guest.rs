//! What the guest itself says, by its agent: whether there is one, and the addresses that nobody else knows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kvmoor_crds::conditions::{self, Finding, types};
use kvmoor_crds::{Address, AddressType};

use super::super::desired::{Interface, Machine};
use super::super::guest_agent::Guest;
use super::super::hypervisor::{Domain, Lease};
use super::super::observe::Remembered;

/// The condition. `None` where what stands there goes on to stand: an agent that is away for a moment is no news.
pub fn agent(domain: &Domain, remembered: &Remembered, previous: &[Condition]) -> Option<Finding> {
    let Remembered { guest, is_frozen, .. } = remembered;
    let finding = |is, reason, message: &str| Some(Finding::new(types::GUEST_AGENT_CONNECTED, is, reason, message));
    match (domain.power.is_active(), domain.agent) {
        (false, _) => finding(false, "NotConnected", "The guest is off."),
        (true, true) if *is_frozen => finding(
            false,
            "ThawFailed",
            "The guest's file systems may be frozen since a snapshot, and its agent does not thaw them; it is tried again. \
             In the guest, fsfreeze --unfreeze does it; a restart does, too.",
        ),
        (true, true) if guest.is_silent => {
            finding(false, "NotAnswering", "The guest agent is connected, but does not answer; it is asked again.")
        }
        (true, true) => finding(true, "Connected", ""),
        (true, false) if conditions::is_true(previous, types::GUEST_AGENT_CONNECTED) && !guest.is_away => None,
        (true, false) => finding(false, "NotConnected", "No guest agent runs in the guest."),
    }
}

/// Addresses in the order of the interfaces, IPv4 before IPv6: those that the DHCP server gave, or else those that the
/// guest agent says, or else those that are `known`.
pub fn addresses(machine: &Machine, domain: &Domain, guest: &Guest, known: &[Address]) -> Vec<Address> {
    let said = guest.report.as_ref().map(|report| report.addresses.as_slice()).unwrap_or_default();
    let of = |nic: &Interface| {
        let found = [domain.leases.as_slice(), said].map(|source| told(nic, source));
        let kept = || known.iter().filter(|address| address.network.as_ref() == Some(&nic.name)).cloned().collect();
        found.into_iter().find(|addresses| !addresses.is_empty()).unwrap_or_else(kept)
    };
    let addresses: Vec<Address> = machine.nics.iter().flat_map(of).collect();
    // An older version did not say whose address it is.
    if addresses.is_empty() { known.to_vec() } else { addresses }
}

fn told(nic: &Interface, source: &[Lease]) -> Vec<Address> {
    let own = source.iter().filter(|lease| lease.mac.eq_ignore_ascii_case(&nic.mac));
    let mut own: Vec<_> = own.map(|lease| lease.address).collect();
    own.sort_by_key(|address| (address.is_ipv6(), *address));
    own.dedup();
    let told = |address: std::net::IpAddr| Address {
        type_: AddressType::InternalIp,
        address: address.to_string(),
        network: Some(nic.name.clone()),
    };
    own.into_iter().map(told).collect()
}
