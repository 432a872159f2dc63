use kvmoor_crds::{Firmware, GuestOsInfo, RestartPolicy, VirtType};

use super::super::address_pool::AddressPool;
use super::super::desired::{Identity, Interface, Root};
use super::super::guest_agent::{Guest, GuestReport};
use super::super::guest_data::Told;
use super::super::hypervisor::{GuestFeatures, HostFacts, Lease, OffCause};
use super::super::metadata::Metadata;
use super::super::observe::Remembered;
use super::super::seed::Seed;
use super::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn nat(mac: &str) -> Interface {
    Interface { name: mac.into(), mac: mac.into(), network: kvmoor_crds::NetworkType::Nat, bridge: None }
}

fn machine(power: PowerState) -> Machine {
    Machine {
        identity: Identity { uid: "u".into(), namespace: "ns".into(), name: "web".into() },
        power,
        restart_policy: RestartPolicy::OnFailure,
        grace: std::time::Duration::from_secs(30),
        requests: Requests::default(),
        cpu: 2,
        memory_mib: 512,
        firmware: Firmware::Bios,
        tpm: false,
        features: Vec::new(),
        nics: ["52:54:00:00:00:01", "52:54:00:00:00:02"].map(nat).to_vec(),
        source: None,
        root: Root {
            volume: "root".into(),
            capacity: 1,
            is_explicit: false,
            image: None,
            unknown_os: Some("beos".into()),
        },
        disks: Vec::new(),
        disk_admitted: u64::MAX,
        seed: Seed {
            volume: "s".into(),
            instance_id: "u".into(),
            host_name: "web".into(),
            ssh_authorized_keys: Vec::new(),
            user_data_from: None,
            network_data_from: None,
            told: Default::default(),
        },
    }
}

fn domain(power: Power, metadata: Metadata) -> DomainFacts {
    DomainFacts::Ours(Box::new(Domain {
        power,
        metadata,
        cpu: 1,
        memory_mib: 512,
        leases: Vec::new(),
        agent: false,
        attached: Vec::new(),
    }))
}

fn complete(domain: DomainFacts) -> Observed {
    let host = HostFacts {
        virt: Ok(VirtType::Qemu),
        architecture: "x86_64".into(),
        boot_id: "b".into(),
        pool: "p".into(),
        network: "n".into(),
        bridges: Vec::new(),
        cpus: 1,
        memory: 1,
        guests: GuestFeatures::default(),
        libvirt_version: String::new(),
        hypervisor_version: String::new(),
    };
    let facts = Facts {
        host,
        domain,
        image: None,
        import: None,
        room: None,
        disks: None,
        cloned: Default::default(),
        volumes: Vec::new(),
        addresses: None,
        remembered: Remembered::default(),
        told: Told::NotAsked,
    };
    Observed::Complete(Box::new(facts))
}

fn status(power: PowerState, domain: DomainFacts, failure: Option<&Failure>) -> VirtualMachineStatus {
    let desired = Desired::Present(Box::new(machine(power)));
    of(&desired, &complete(domain), failure, &VirtualMachineStatus::default(), Some(3), now())
}

fn condition<'a>(status: &'a VirtualMachineStatus, type_: &str) -> (&'a str, &'a str) {
    let found = conditions::find(&status.conditions, type_).unwrap();
    (found.status.as_str(), found.reason.as_str())
}

#[test]
fn phases() {
    let plain = Metadata::default;
    let stopping = || Metadata { stopping: Some(1), ..plain() };
    let halted =
        |halt| Metadata { halted: Some(halt), crashes: 1, crashed_at: Some(now().as_millisecond()), ..plain() };
    let off = || Power::Off(OffCause::Other);
    use PowerState::{Paused, Running, Stopped};
    let cases = [
        (Running, Power::Running, plain(), Phase::Running, "True"),
        (Running, Power::Running, stopping(), Phase::Stopping, "False"),
        (Stopped, Power::Running, plain(), Phase::Stopping, "False"),
        (Stopped, off(), plain(), Phase::Stopped, "True"),
        (Paused, Power::Paused, plain(), Phase::Paused, "True"),
        (Running, Power::Paused, plain(), Phase::Paused, "False"),
        (Running, Power::Busy, plain(), Phase::Starting, "False"),
        (Running, Power::Stuck("x".into()), plain(), Phase::Error, "False"),
        (Running, off(), plain(), Phase::Starting, "False"),
        (Running, off(), halted(Halt::Guest), Phase::Stopped, "False"),
        (Running, off(), halted(Halt::Crash), Phase::Error, "False"),
    ];
    for (wanted, power, metadata, phase, ready) in cases {
        let case = format!("{wanted:?} {power:?} {metadata:?}");
        let status = status(wanted, domain(power, metadata), None);
        assert_eq!(status.phase, Some(phase), "{case}");
        assert_eq!(condition(&status, types::READY).0, ready, "{case}");
        assert_eq!(status.observed_generation, Some(3));
    }
}

#[test]
fn failures_are_told_in_every_condition_they_concern() {
    let failure = Failure { step: "EnsureVolume", reason: "PoolFull", message: "make room".into() };
    let status = status(PowerState::Running, DomainFacts::Missing, Some(&failure));
    assert_eq!(status.phase, Some(Phase::Error));
    assert_eq!(status.message.as_deref(), Some("make room"));
    for type_ in [types::READY, types::SYNCHRONIZED, types::PROVISIONED] {
        assert_eq!(condition(&status, type_), ("False", "PoolFull"));
    }
}

#[test]
fn tells_of_blank_disks_and_of_what_a_restart_brings() {
    let status = status(PowerState::Running, domain(Power::Running, Metadata::default()), None);
    assert_eq!(condition(&status, types::PROVISIONED), ("True", "BlankDisk"));
    assert_eq!(condition(&status, types::RESTART_REQUIRED), ("True", "SpecChanged"));
    let message = &conditions::find(&status.conditions, types::RESTART_REQUIRED).unwrap().message;
    assert_eq!(message, "Takes effect at the next restart: cpu.");
}

#[test]
fn not_to_know_keeps_what_was_known() {
    let known = status(PowerState::Running, domain(Power::Running, Metadata::default()), None);
    let error = HvError::new(Class::Disconnected, "ask", "gone");
    let desired = Desired::Present(Box::new(machine(PowerState::Running)));
    let unknown = of(&desired, &Observed::Unreachable(error), None, &known, Some(9), now());
    assert_eq!(unknown.phase, Some(Phase::Unknown));
    assert_eq!(condition(&unknown, types::READY), ("Unknown", "LibvirtUnavailable"));
    assert_eq!(condition(&unknown, types::PROVISIONED), ("True", "BlankDisk"));
    assert_eq!((unknown.observed_generation, &unknown.resources), (Some(3), &known.resources));
}

#[test]
fn says_released_only_when_all_is_gone() {
    let identity = machine(PowerState::Running).identity;
    let desired = Desired::Absent { identity, confirmed: true };
    let previous = VirtualMachineStatus::default();
    let released = |observed: &Observed, failure| {
        let status = of(&desired, observed, failure, &previous, None, now());
        assert_eq!(status.phase, Some(Phase::Deleting));
        conditions::is_true(&status.conditions, types::RELEASED)
    };
    let mut observed = complete(DomainFacts::Missing);
    assert!(released(&observed, None));
    let Observed::Complete(facts) = &mut observed else { panic!() };
    facts.volumes.push("root".into());
    assert!(!released(&observed, None));
    assert!(!released(&complete(domain(Power::Running, Metadata::default())), None));
    assert!(!released(&complete(DomainFacts::Foreign("x".into())), None));
    let failure = Failure { step: "x", reason: "x", message: "x".into() };
    assert!(!released(&complete(DomainFacts::Missing), Some(&failure)));
}

#[test]
fn addresses_are_in_the_order_of_the_interfaces() {
    let lease = |mac: &str, address: &str| Lease { mac: mac.into(), address: address.parse().unwrap() };
    let leases = vec![
        lease("52:54:00:00:00:02", "10.0.0.2"),
        lease("52:54:00:00:00:01", "fe80::1"),
        lease("52:54:00:00:00:01", "10.0.0.1"),
        lease("52:54:00:00:00:09", "10.0.0.9"),
    ];
    let metadata = Metadata::default();
    let running =
        Domain { power: Power::Running, metadata, cpu: 1, memory_mib: 1, leases, agent: false, attached: Vec::new() };
    let status = status(PowerState::Running, DomainFacts::Ours(Box::new(running)), None);
    let found: Vec<_> = status.addresses.iter().map(|address| address.address.as_str()).collect();
    assert_eq!(found, ["10.0.0.1", "fe80::1", "10.0.0.2"]);
}

/// A guest that runs, with these leases, and whether its agent is connected.
fn on(leases: Vec<Lease>, agent: bool) -> DomainFacts {
    let metadata = Metadata { started_at: Some(1_000), ..Metadata::default() };
    let attached = Vec::new();
    DomainFacts::Ours(Box::new(Domain {
        power: Power::Running,
        metadata,
        cpu: 1,
        memory_mib: 1,
        leases,
        agent,
        attached,
    }))
}

/// The status that follows `previous` when this is known of the guest.
fn next(domain: DomainFacts, guest: Guest, previous: &VirtualMachineStatus) -> VirtualMachineStatus {
    let Observed::Complete(mut facts) = complete(domain) else { panic!() };
    facts.remembered.guest = guest;
    let desired = Desired::Present(Box::new(machine(PowerState::Running)));
    of(&desired, &Observed::Complete(facts), None, previous, Some(3), now())
}

fn said(addresses: &[(&str, &str)]) -> Guest {
    let os = GuestOsInfo { name: Some("Debian".into()), ..GuestOsInfo::default() };
    let lease = |(mac, address): &(&str, &str)| Lease { mac: (*mac).into(), address: address.parse().unwrap() };
    let report = GuestReport { os, addresses: addresses.iter().map(lease).collect() };
    Guest { report: Some(report), ..Guest::default() }
}

fn addresses_of(status: &VirtualMachineStatus) -> Vec<&str> {
    status.addresses.iter().map(|address| address.address.as_str()).collect()
}

const FIRST: &str = "52:54:00:00:00:01";
const SECOND: &str = "52:54:00:00:00:02";

#[test]
fn the_guest_agent_says_the_addresses_that_the_dhcp_server_does_not() {
    let lease = Lease { mac: FIRST.into(), address: "10.0.0.1".parse().unwrap() };
    let guest = said(&[(FIRST, "10.9.9.9"), (SECOND, "10.77.0.5")]);
    let first = next(on(vec![lease.clone()], true), guest.clone(), &VirtualMachineStatus::default());
    assert_eq!(addresses_of(&first), ["10.0.0.1", "10.77.0.5"]);
    assert_eq!(first.addresses[1].network.as_deref(), Some(SECOND));
    assert_eq!(first.guest_os_info.as_ref().and_then(|os| os.name.as_deref()), Some("Debian"));

    // Neither the end of the lease nor that of the agent takes an address away.
    for (leases, guest) in [(vec![lease.clone()], Guest::default()), (Vec::new(), Guest::default())] {
        let later = next(on(leases, false), guest, &first);
        assert_eq!(addresses_of(&later), ["10.0.0.1", "10.77.0.5"]);
        assert_eq!(later.guest_os_info, first.guest_os_info);
    }
    let newer = next(on(Vec::new(), true), said(&[(SECOND, "10.77.0.6")]), &first);
    assert_eq!(addresses_of(&newer), ["10.0.0.1", "10.77.0.6"], "what is newer takes the place of its own alone");

    // Another run, and a guest that is off, have nothing of it.
    let started = Metadata { started_at: Some(99_000), ..Metadata::default() };
    for facts in [domain(Power::Running, started), domain(Power::Off(OffCause::Other), Metadata::default())] {
        let other = next(facts, Guest::default(), &first);
        assert!(other.addresses.is_empty() && other.guest_os_info.is_none(), "{other:?}");
    }
}

#[test]
fn addresses_of_an_older_version_are_kept() {
    let mut old = next(on(Vec::new(), true), said(&[(SECOND, "10.77.0.5")]), &VirtualMachineStatus::default());
    old.addresses[0].network = None;
    assert_eq!(addresses_of(&next(on(Vec::new(), false), Guest::default(), &old)), ["10.77.0.5"]);
}

#[test]
fn the_guest_agent_is_told_of_once_it_was_there() {
    let none = next(on(Vec::new(), false), Guest::default(), &VirtualMachineStatus::default());
    assert_eq!(conditions::find(&none.conditions, types::GUEST_AGENT_CONNECTED), None);
    let there = next(on(Vec::new(), true), Guest::default(), &none);
    assert_eq!(condition(&there, types::GUEST_AGENT_CONNECTED), ("True", "Connected"));
    let moment = next(on(Vec::new(), false), Guest::default(), &there);
    assert_eq!(condition(&moment, types::GUEST_AGENT_CONNECTED), ("True", "Connected"));
    let away = Guest { is_away: true, ..Guest::default() };
    let gone = next(on(Vec::new(), false), away, &there);
    assert_eq!(condition(&gone, types::GUEST_AGENT_CONNECTED), ("False", "NotConnected"));
    let silent = next(on(Vec::new(), true), Guest { is_silent: true, ..Guest::default() }, &gone);
    assert_eq!(condition(&silent, types::GUEST_AGENT_CONNECTED), ("False", "NotAnswering"));
    let off = next(domain(Power::Off(OffCause::Other), Metadata::default()), Guest::default(), &there);
    assert_eq!(condition(&off, types::GUEST_AGENT_CONNECTED), ("False", "NotConnected"));
    let Observed::Complete(mut facts) = complete(on(Vec::new(), true)) else { panic!() };
    facts.remembered.is_frozen = true;
    let desired = Desired::Present(Box::new(machine(PowerState::Running)));
    let frozen = of(&desired, &Observed::Complete(facts), None, &there, Some(3), now());
    assert_eq!(condition(&frozen, types::GUEST_AGENT_CONNECTED), ("False", "ThawFailed"));
    for status in [none, there, gone, silent, frozen] {
        assert_eq!(condition(&status, types::READY).0, "True", "a guest without one is as ready");
    }
}

#[test]
fn that_no_address_is_left_is_told_until_it_is_over() {
    let desired = Desired::Present(Box::new(machine(PowerState::Running)));
    let next = |left: Option<u64>, previous: &VirtualMachineStatus| {
        let Observed::Complete(mut facts) = complete(on(Vec::new(), false)) else { panic!() };
        facts.addresses = left.map(|left| AddressPool { network: "n".into(), size: 253, left });
        of(&desired, &Observed::Complete(facts), None, previous, Some(3), now())
    };
    let none = next(Some(1), &VirtualMachineStatus::default());
    assert_eq!(conditions::find(&none.conditions, types::ADDRESS_ERROR), None);
    let full = next(Some(0), &none);
    assert_eq!(condition(&full, types::ADDRESS_ERROR), ("True", "AddressesExhausted"));
    let message = &conditions::find(&full.conditions, types::ADDRESS_ERROR).unwrap().message;
    assert!(message.contains("network n has given away all of its 253"), "{message}");
    assert_eq!(condition(&full, types::READY).0, "True", "it runs as it was asked");
    assert_eq!(condition(&next(None, &full), types::ADDRESS_ERROR), ("False", "NoError"));
}

#[test]
fn the_same_said_at_another_time_is_the_same() {
    let facts = || domain(Power::Running, Metadata::default());
    let first = status(PowerState::Running, facts(), None);
    let desired = Desired::Present(Box::new(machine(PowerState::Running)));
    let later = now() + jiff::SignedDuration::from_secs(60);
    let second = of(&desired, &complete(facts()), None, &first, Some(3), later);
    assert!(same(&first, &second));
    assert_eq!(first.phase_transition_times, second.phase_transition_times);
    assert!(!same(&first, &of(&desired, &complete(facts()), None, &first, Some(4), later)));
}

#[test]
fn leaves_out_what_the_cluster_controller_owns() {
    let admitted = Finding::new(types::ADMITTED, true, "WithinQuota", "").into_condition(&[], None, now());
    let status = VirtualMachineStatus { id: Some(7), conditions: vec![admitted], ..VirtualMachineStatus::default() };
    assert_eq!(owned(&status), VirtualMachineStatus::default());
}
