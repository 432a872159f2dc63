//! Tables for the rules, and properties against a model of a host.

use std::collections::BTreeSet;

use kvmoor_crds::guest_data::{Lack, LackKind};
use kvmoor_crds::{Firmware, HostFeature, Requests, VirtType};
use proptest::prelude::*;

use super::super::desired::{Extra, Identity, Image, Interface, Origin, Root};
use super::super::hypervisor::{Class, DiskTrouble, GuestFeatures, HostFacts, HvError, ImageFacts, Lease};
use super::super::observe::Remembered;
use super::super::retries::Tried;
use super::super::room::Room;
use super::*;

const UID: &str = "550e8400-e29b-41d4-a716-446655440000";
const BOOT: &str = "boot-1";
const T0: i64 = 1_800_000_000_000;

fn identity() -> Identity {
    Identity { uid: UID.into(), namespace: "ns".into(), name: "web".into() }
}

fn nat(mac: &str) -> Interface {
    Interface { name: mac.into(), mac: mac.into(), network: NetworkType::Nat, bridge: None }
}

/// A running machine with a blank root disk and one more.
pub fn machine() -> Machine {
    Machine {
        identity: identity(),
        power: PowerState::Running,
        restart_policy: RestartPolicy::OnFailure,
        grace: Duration::from_secs(30),
        requests: Requests::default(),
        cpu: 1,
        memory_mib: 256,
        firmware: Firmware::Bios,
        tpm: false,
        features: Vec::new(),
        nics: vec![nat("52:54:00:00:00:01")],
        source: None,
        root: Root { volume: "root".into(), capacity: 10, is_explicit: false, image: None, unknown_os: None },
        disks: vec![Extra { volume: "data".into(), name: "data".into(), capacity: 5 }],
        disk_admitted: u64::MAX,
        seed: Seed {
            volume: "seed".into(),
            instance_id: UID.into(),
            host_name: "web".into(),
            ssh_authorized_keys: Vec::new(),
            user_data_from: None,
            network_data_from: None,
            told: Default::default(),
        },
    }
}

fn names_of(machine: &Machine) -> Vec<String> {
    machine.disks.iter().map(|disk| disk.name.clone()).collect()
}

/// The host.
pub fn host() -> HostFacts {
    HostFacts {
        virt: Ok(VirtType::Qemu),
        architecture: "x86_64".into(),
        boot_id: BOOT.into(),
        pool: "default".into(),
        network: "default".into(),
        bridges: vec!["br0".into()],
        cpus: 2,
        memory: 1 << 34,
        guests: GuestFeatures { max_cpus: 255, features: vec![HostFeature::Uefi] },
        libvirt_version: "9.0.0".into(),
        hypervisor_version: "7.2.0".into(),
    }
}

/// A time.
pub fn at(millis: i64) -> Timestamp {
    from_millis(T0 + millis)
}

/// Metadata of a domain that is as the machine asks.
fn settled(machine: &Machine) -> Metadata {
    Metadata {
        uid: UID.into(),
        namespace: "ns".into(),
        name: "web".into(),
        config: domain_xml::fingerprint(&machine.config(&host(), &names_of(machine)).unwrap()),
        disks: names_of(machine),
        restart: machine.requests.restart,
        reset: machine.requests.reset,
        power_off: machine.requests.power_off,
        seed: Some(machine.seed.fingerprint()),
        ..Metadata::default()
    }
}

/// Of one that runs.
pub fn started(machine: &Machine) -> Metadata {
    Metadata { started: Some(BOOT.into()), started_at: Some(T0), ..settled(machine) }
}

fn domain(power: Power, metadata: Metadata) -> DomainFacts {
    let lease = Lease { mac: "52:54:00:00:00:01".into(), address: "192.168.122.2".parse().unwrap() };
    DomainFacts::Ours(Box::new(Domain {
        power,
        metadata,
        cpu: 1,
        memory_mib: 256,
        leases: vec![lease],
        agent: false,
        attached: Vec::new(),
    }))
}

fn observed(domain: DomainFacts) -> Observed {
    told(domain, Told::Data(Default::default()))
}

fn told(domain: DomainFacts, told: Told) -> Observed {
    let facts = Facts {
        host: host(),
        domain,
        image: None,
        import: None,
        room: None,
        disks: None,
        cloned: Default::default(),
        volumes: Vec::new(),
        addresses: None,
        remembered: Remembered::default(),
        told,
    };
    Observed::Complete(Box::new(facts))
}

fn present(machine: Machine) -> Desired {
    Desired::Present(Box::new(machine))
}

fn decide(machine: &Machine, power: Power, metadata: Metadata, millis: i64) -> Plan {
    plan(&present(machine.clone()), &observed(domain(power, metadata)), at(millis))
}

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::name).collect()
}

/// The metadata of the first record.
fn recorded(plan: &Plan) -> Metadata {
    plan.steps
        .iter()
        .find_map(|step| if let Step::Record(metadata) = step { Some((**metadata).clone()) } else { None })
        .unwrap()
}

const OFF: Power = Power::Off(OffCause::Other);
const SHUT_DOWN: Power = Power::Off(OffCause::Shutdown);

#[test]
fn creates_disks_before_the_domain_and_starts_it() {
    let new = plan(&present(machine()), &observed(DomainFacts::Missing), at(0));
    assert_eq!(names(&new), ["WriteSeed", "EnsureVolume", "EnsureVolume", "Define", "Start", "Record"]);
    let stopped = Machine { power: PowerState::Stopped, ..machine() };
    let off = plan(&present(stopped), &observed(DomainFacts::Missing), at(0));
    assert_eq!(names(&off), ["WriteSeed", "EnsureVolume", "EnsureVolume", "Define"]);
    let paused = Machine { power: PowerState::Paused, ..machine() };
    let paused = plan(&present(paused), &observed(DomainFacts::Missing), at(0));
    assert!(paused.steps.contains(&Step::Start { paused: true }));
}

#[test]
fn no_guest_starts_before_all_that_it_is_to_be_told_is_there() {
    let lack = Lack { kind: LackKind::Missing, message: "There is no Secret boot".into() };
    for (answer, reason) in [
        (Told::Lack(lack), "UserDataMissing"),
        (Told::Silent("no answer".into()), "GuestDataUnavailable"),
        (Told::NotAsked, "GuestDataUnavailable"),
    ] {
        let new = plan(&present(machine()), &told(DomainFacts::Missing, answer.clone()), at(0));
        assert_eq!((names(&new), new.blocked.map(|blocked| blocked.reason)), (vec![], Some(reason)));
        let mut changed = machine();
        changed.seed.ssh_authorized_keys.push("k".into());
        let off = domain(OFF, settled(&machine()));
        let changed = plan(&present(changed), &told(off, answer), at(0));
        assert_eq!((names(&changed), changed.blocked.map(|blocked| blocked.reason)), (vec![], Some(reason)));
    }
}

#[test]
fn another_seed_is_written_before_the_next_start_and_not_under_a_running_guest() {
    let before = machine();
    let mut asked = machine();
    asked.requests.reprovision = 1;
    asked.seed.instance_id = super::super::seed::instance_id(UID, 1);
    let on = decide(&asked, Power::Running, started(&before), 0);
    assert_eq!(names(&on), [""; 0]);
    let off = decide(&asked, OFF, settled(&before), 0);
    assert_eq!(names(&off), ["WriteSeed", "Record", "Start", "Record"]);
    let metadata = recorded(&off);
    assert_eq!((metadata.reprovision, metadata.started.as_ref()), (1, None), "the seed is recorded before the start");
    assert_eq!(names(&decide(&asked, OFF, metadata, 0)), ["Start", "Record"]);
    assert!(!seed_due(&asked, &domain(Power::Running, started(&before))), "nobody is asked for nothing");
    assert!(seed_due(&asked, &domain(OFF, settled(&before))));
    let stopped = Machine { power: PowerState::Stopped, ..asked };
    assert!(!seed_due(&stopped, &domain(OFF, settled(&before))));
}

#[test]
fn a_bridge_that_nobody_allowed_is_told_of_and_nothing_is_made() {
    let on = |bridge: &str| {
        let nic = Interface { network: NetworkType::Bridge, bridge: Some(bridge.into()), ..nat("52:54:00:00:00:01") };
        plan(&present(Machine { nics: vec![nic], ..machine() }), &observed(DomainFacts::Missing), at(0))
    };
    assert_eq!(names(&on("br0")), ["WriteSeed", "EnsureVolume", "EnsureVolume", "Define", "Start", "Record"]);
    let blocked = on("eth0");
    assert_eq!(names(&blocked), [""; 0]);
    let blocked = blocked.blocked.unwrap();
    assert_eq!(blocked.reason, "BridgeNotAllowed");
    assert!(blocked.message.contains("eth0") && blocked.message.contains("allowed: br0"), "{}", blocked.message);
}

#[test]
fn an_isolated_network_is_made_before_each_start() {
    let nic = Interface { network: NetworkType::Isolated, ..nat("52:54:00:00:00:01") };
    let machine = Machine { nics: vec![nic], ..machine() };
    let new = plan(&present(machine.clone()), &observed(DomainFacts::Missing), at(0));
    assert_eq!(
        names(&new),
        ["WriteSeed", "EnsureVolume", "EnsureVolume", "Define", "EnsureNetwork", "Start", "Record"]
    );
    let off = decide(&machine, OFF, settled(&machine), 0);
    assert_eq!(names(&off), ["EnsureNetwork", "Start", "Record"]);
    let mut running = domain(Power::Running, started(&machine));
    if let DomainFacts::Ours(domain) = &mut running {
        domain.leases.clear();
    }
    let on = plan(&present(machine), &observed(running), at(0));
    assert_eq!(on, Plan::default(), "it is not asked for addresses that nobody gives");
}

#[test]
fn counters_given_at_creation_mean_nothing() {
    let requests = Requests { restart: 5, reset: 6, power_off: 7, reprovision: 8 };
    let new = plan(&present(Machine { requests, ..machine() }), &observed(DomainFacts::Missing), at(0));
    let Some(Step::Define(_, metadata)) = new.steps.iter().find(|step| matches!(step, Step::Define(..))) else {
        panic!("{new:?}");
    };
    assert_eq!((metadata.restart, metadata.reset, metadata.power_off), (5, 6, 7));
}

#[test]
fn root_disk_stands_on_the_image_and_is_no_smaller() {
    let origin = Origin::BuiltIn { volume: "image".into() };
    let image = Image { name: "tiny".into(), format: DiskFormat::Raw, origin };
    let mut machine = machine();
    machine.root.image = Some(image);
    let mut observed = observed(DomainFacts::Missing);
    let missing = plan(&present(machine.clone()), &observed, at(0));
    assert_eq!(missing.steps, []);
    assert_eq!(missing.blocked.unwrap().reason, "ImageMissing");
    let Observed::Complete(facts) = &mut observed else { panic!() };
    facts.image = Some(ImageFacts { path: "/pool/image".into(), virtual_size: 99 });
    let new = plan(&present(machine.clone()), &observed, at(0));
    let backing = Some(Backing { path: "/pool/image".into(), format: DiskFormat::Raw });
    let volume = Volume { name: "root".into(), capacity: 99, format: DiskFormat::Qcow2, backing };
    assert_eq!(new.steps.get(1), Some(&Step::EnsureVolume(volume)));
    machine.root.is_explicit = true;
    let small = plan(&present(machine.clone()), &observed, at(0));
    assert_eq!((small.steps.len(), small.blocked.unwrap().reason), (0, "DiskTooSmall"));
    (machine.root.is_explicit, machine.disk_admitted) = (false, 103);
    let unpaid = plan(&present(machine), &observed, at(0));
    assert_eq!((unpaid.steps.len(), unpaid.blocked.unwrap().reason), (0, "DiskNotAdmitted"));
}

#[test]
fn does_nothing_where_all_is_as_wanted() {
    let running = machine();
    assert_eq!(decide(&running, Power::Running, started(&running), 0), Plan::default());
    let stopped = Machine { power: PowerState::Stopped, ..machine() };
    assert_eq!(decide(&stopped, SHUT_DOWN, settled(&stopped), 0), Plan::default());
    let paused = Machine { power: PowerState::Paused, ..machine() };
    assert_eq!(decide(&paused, Power::Paused, started(&paused), 0), Plan::default());
}

#[test]
fn stop_presses_the_button_every_ten_seconds_and_then_pulls_the_plug() {
    let machine = Machine { power: PowerState::Stopped, ..machine() };
    let first = decide(&machine, Power::Running, started(&machine), 0);
    assert_eq!(names(&first), ["Record", "PressPowerButton"]);
    assert_eq!(recorded(&first).stopping, Some(T0));
    assert_eq!(first.requeue_after, Some(Duration::from_secs(10)));

    let stopping = Metadata { stopping: Some(T0), ..started(&machine) };
    let later = |millis, pressed| {
        let mut observed = observed(domain(Power::Running, stopping.clone()));
        let Observed::Complete(facts) = &mut observed else { panic!() };
        facts.remembered.pressed_at = Some(at(pressed));
        plan(&present(machine.clone()), &observed, at(millis))
    };
    assert_eq!(later(4_000, 0), Plan { requeue_after: Some(Duration::from_secs(6)), ..Plan::default() });
    assert_eq!(names(&later(10_000, 0)), ["PressPowerButton"]);
    assert_eq!(later(29_000, 20_000).requeue_after, Some(Duration::from_secs(1)));
    assert_eq!(names(&later(30_000, 20_000)), ["Destroy"]);
    // A press of another stop, or of another process, is none.
    assert_eq!(names(&later(1, -10)), ["PressPowerButton"]);
}

#[test]
fn a_paused_guest_is_resumed_to_hear_the_button() {
    let machine = Machine { power: PowerState::Stopped, ..machine() };
    assert_eq!(names(&decide(&machine, Power::Paused, started(&machine), 0)), ["Record", "Resume", "PressPowerButton"]);
    let stuck = decide(&machine, Power::Stuck("x".into()), started(&machine), 0);
    assert_eq!(names(&stuck), ["Record"], "a guest that cannot run is not woken, only turned off in time");
    assert_eq!(stuck.requeue_after, Some(Duration::from_secs(30)));
}

#[test]
fn restart_is_recorded_together_with_going_down() {
    let mut machine = machine();
    let before = started(&machine);
    machine.requests.restart = 1;
    let first = decide(&machine, Power::Running, before.clone(), 5);
    assert_eq!(names(&first), ["Record", "PressPowerButton"]);
    let metadata = recorded(&first);
    assert_eq!((metadata.restart, metadata.stopping), (1, Some(T0 + 5)));
    // Off: forgets and starts, whatever made it go.
    let off = decide(&machine, SHUT_DOWN, metadata, 6);
    assert_eq!(names(&off), ["Record", "Start", "Record"]);
    assert_eq!(recorded(&off), settled(&machine));
}

#[test]
fn restart_starts_what_is_off() {
    let mut machine = Machine { restart_policy: RestartPolicy::Never, ..machine() };
    let halted = Metadata { halted: Some(Halt::Crash), crashes: 3, crashed_at: Some(T0), ..started(&machine) };
    assert_eq!(decide(&machine, OFF, halted.clone(), 10_000), Plan::default());
    machine.requests.restart = 1;
    assert_eq!(names(&decide(&machine, OFF, halted, 10_000)), ["Record", "Start", "Record"]);
}

#[test]
fn power_off_leaves_no_time() {
    let mut machine = Machine { power: PowerState::Stopped, ..machine() };
    let before = started(&machine);
    machine.requests.power_off = 1;
    let plan = decide(&machine, Power::Running, before, 0);
    assert_eq!(names(&plan), ["Record", "Destroy"]);
    assert_eq!(recorded(&plan).stopping, Some(0), "so that a crash in between is followed by the plug, too");
}

#[test]
fn reset_is_recorded_first_and_only_of_what_is_on() {
    let mut machine = machine();
    let before = started(&machine);
    machine.requests.reset = 1;
    assert_eq!(names(&decide(&machine, Power::Running, before.clone(), 0)), ["Record", "Reset"]);
    machine.power = PowerState::Stopped;
    assert_eq!(
        names(&decide(&machine, OFF, settled(&Machine { requests: Requests::default(), ..machine.clone() }), 0)),
        ["Record"]
    );
}

#[test]
fn a_guest_that_powers_itself_off_stays_off_unless_always() {
    let machine = machine();
    let first = decide(&machine, SHUT_DOWN, started(&machine), 1_000);
    assert_eq!(names(&first), ["Record"]);
    assert_eq!(recorded(&first).halted, Some(Halt::Guest));
    // Even when libvirt has forgotten why, and even after the host booted again.
    let halted = recorded(&first);
    assert_eq!(decide(&machine, OFF, halted.clone(), 2_000), Plan::default());
    let other_boot = Metadata { started: Some("boot-0".into()), ..halted };
    assert_eq!(decide(&machine, OFF, other_boot, 2_000), Plan::default());
    let always = Machine { restart_policy: RestartPolicy::Always, ..machine };
    assert_eq!(names(&decide(&always, SHUT_DOWN, started(&always), 1_000)), ["Record", "Start", "Record"]);
}

#[test]
fn a_crashed_guest_is_started_again_with_growing_delays() {
    let machine = machine();
    let first = decide(&machine, OFF, started(&machine), 1_000);
    assert_eq!(names(&first), ["Record"]);
    assert_eq!(first.requeue_after, Some(Duration::from_secs(5)));
    let crashed = recorded(&first);
    assert_eq!((crashed.halted, crashed.crashes, crashed.crashed_at), (Some(Halt::Crash), 1, Some(T0 + 1_000)));
    assert_eq!(names(&decide(&machine, OFF, crashed.clone(), 5_999)), [] as [&str; 0]);
    let again = decide(&machine, OFF, crashed.clone(), 6_000);
    assert_eq!(names(&again), ["Start", "Record"]);
    // It counts on until it has run for long.
    let running = recorded(&again);
    assert_eq!((running.halted, running.crashes), (None, 1));
    assert_eq!(decide(&machine, OFF, running.clone(), 10_000).requeue_after, Some(Duration::from_secs(10)));
    assert_eq!(recorded(&decide(&machine, OFF, running, 6_000 + 600_000)).crashes, 1);
    let often = Metadata { crashes: 40, ..crashed };
    assert_eq!(restart_due(RestartPolicy::Always, &often), Some(at(301_000)));
}

#[test]
fn a_host_that_booted_again_starts_what_ran() {
    let machine = Machine { restart_policy: RestartPolicy::Never, ..machine() };
    let metadata = Metadata { started: Some("boot-0".into()), ..started(&machine) };
    assert_eq!(names(&decide(&machine, OFF, metadata, 0)), ["Start", "Record"]);
}

#[test]
fn pauses_and_resumes_but_never_what_is_stuck() {
    let running = machine();
    let paused = Machine { power: PowerState::Paused, ..machine() };
    assert_eq!(names(&decide(&paused, Power::Running, started(&paused), 0)), ["Suspend"]);
    assert_eq!(names(&decide(&running, Power::Paused, started(&running), 0)), ["Resume"]);
    for power in [Power::Stuck("disk".into()), Power::Busy, Power::Asleep, Power::GoingDown] {
        assert_eq!(names(&decide(&running, power, started(&running), 0)), [] as [&str; 0]);
    }
}

#[test]
fn a_changed_configuration_is_defined_again_with_what_was_recorded() {
    let before = started(&machine());
    let larger = Machine { memory_mib: 512, ..machine() };
    let plan = decide(&larger, Power::Running, before.clone(), 0);
    let [Step::Define(config, metadata)] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!(config.memory_mib, 512);
    assert_eq!(**metadata, Metadata { config: domain_xml::fingerprint(config), ..before });
}

#[test]
fn a_started_domain_without_record_is_recorded_and_not_started_again() {
    let machine = machine();
    let plan = decide(&machine, Power::Running, settled(&machine), 0);
    assert_eq!(names(&plan), ["Record"]);
    assert_eq!(recorded(&plan), started(&machine));
}

#[test]
fn looks_for_an_address_until_there_is_one() {
    let machine = machine();
    let interval = |millis| {
        let DomainFacts::Ours(mut domain) = domain(Power::Running, started(&machine)) else { panic!() };
        domain.leases.clear();
        plan(&present(machine.clone()), &observed(DomainFacts::Ours(domain)), at(millis)).requeue_after
    };
    assert_eq!(interval(0), Some(Duration::from_millis(500)));
    assert_eq!(interval(16_000), Some(Duration::from_secs(2)));
    assert_eq!(interval(3_600_000), Some(Duration::from_secs(30)));
}

#[test]
fn a_guest_lacks_an_address_when_it_had_the_time_to_ask() {
    let lacks = |power, leased: bool, network, millis| {
        let machine = Machine { nics: vec![Interface { network, ..nat("52:54:00:00:00:01") }], ..machine() };
        let DomainFacts::Ours(mut domain) = domain(power, started(&machine)) else { panic!() };
        domain.leases.retain(|_| leased);
        lacks_address(&machine, &domain, at(millis))
    };
    assert!(!lacks(Power::Running, false, NetworkType::Nat, 19_000));
    assert!(lacks(Power::Running, false, NetworkType::Nat, 20_000));
    assert!(!lacks(Power::Running, true, NetworkType::Nat, 20_000));
    assert!(!lacks(Power::Paused, false, NetworkType::Nat, 20_000));
    assert!(!lacks(Power::Running, false, NetworkType::Isolated, 20_000));
}

#[test]
fn removal_takes_the_domain_last() {
    let mut observed = observed(domain(Power::Running, started(&machine())));
    let Observed::Complete(facts) = &mut observed else { panic!() };
    facts.volumes = vec!["root".into(), "seed".into()];
    let absent = |confirmed| Desired::Absent { identity: identity(), confirmed };
    assert_eq!(names(&plan(&absent(true), &observed, at(0))), ["Destroy", "DeleteVolume", "DeleteVolume", "Undefine"]);
    assert_eq!(plan(&absent(false), &observed, at(0)), Plan::default());
}

#[test]
fn what_the_host_lacks_is_named_and_nothing_is_made() {
    let needy = |features: &[HostFeature]| {
        let machine = Machine { features: features.to_vec(), ..machine() };
        plan(&present(machine), &observed(DomainFacts::Missing), at(0))
    };
    let blocked = needy(&[HostFeature::Uefi, HostFeature::Tpm]);
    assert_eq!(blocked.steps, []);
    let blocked = blocked.blocked.unwrap();
    assert_eq!(blocked.reason, "FeatureMissing");
    assert!(blocked.message.contains("a TPM 2.0"), "{}", blocked.message);
    assert!(!needy(&[HostFeature::Uefi]).steps.is_empty());
}

#[test]
fn unusable_virtualization_blocks_the_start_only() {
    let machine = machine();
    let with = |domain| {
        let mut observed = observed(domain);
        let Observed::Complete(facts) = &mut observed else { panic!() };
        facts.host.virt = Err("no".into());
        plan(&present(machine.clone()), &observed, at(0))
    };
    assert!(with(DomainFacts::Missing).blocked.is_some());
    assert!(with(domain(OFF, settled(&machine))).blocked.is_some());
    assert_eq!(with(domain(Power::Running, started(&machine))), Plan::default());
}

#[test]
fn a_guest_halted_by_a_disk_error_is_let_run_again_ever_more_rarely() {
    let machine = machine();
    let full = || Power::DiskError(DiskTrouble { disks: vec!["vda".into()], no_space: true });
    assert_eq!(names(&decide(&machine, full(), started(&machine), 0)), ["RetryDisks"]);
    let mut observed = observed(domain(full(), started(&machine)));
    let Observed::Complete(facts) = &mut observed else { panic!() };
    facts.remembered.retried = Some(Tried { times: 3, at: at(0) });
    let later = |millis| plan(&present(machine.clone()), &observed, at(millis));
    assert_eq!(later(3_000), Plan { requeue_after: Some(Duration::from_secs(5)), ..Plan::default() });
    assert_eq!(names(&later(8_000)), ["RetryDisks"]);
    let paused = Machine { power: PowerState::Paused, ..machine.clone() };
    assert_eq!(names(&decide(&paused, full(), started(&paused), 0)), [] as [&str; 0]);
}

#[test]
fn a_guest_that_panicked_is_a_crash_once_and_what_is_left_of_it_goes() {
    let machine = machine();
    let first = decide(&machine, Power::Panicked, started(&machine), 1_000);
    assert_eq!(names(&first), ["Record", "Destroy"]);
    let metadata = recorded(&first);
    assert_eq!((metadata.halted, metadata.crashes), (Some(Halt::Panic), 1));
    // The process died between the two.
    assert_eq!(names(&decide(&machine, Power::Panicked, metadata.clone(), 1_500)), ["Destroy"]);
    assert_eq!(decide(&machine, OFF, metadata.clone(), 2_000).requeue_after, Some(Duration::from_secs(4)));
    assert_eq!(names(&decide(&machine, OFF, metadata.clone(), 6_000)), ["Start", "Record"]);
    let never = Machine { restart_policy: RestartPolicy::Never, ..machine.clone() };
    assert_eq!(decide(&never, OFF, metadata, 6_000), Plan::default());
    let stopped = Machine { power: PowerState::Stopped, ..machine };
    assert_eq!(names(&decide(&stopped, Power::Panicked, started(&stopped), 0)), ["Record", "Destroy"]);
}

#[test]
fn a_running_guest_grows_where_there_is_room_and_never_shrinks() {
    let before = machine();
    let grow = |machine: &Machine, power: Power, room| {
        let metadata = Metadata { config: settled(machine).config, ..started(&before) };
        let mut observed = observed(domain(power, metadata));
        let Observed::Complete(facts) = &mut observed else { panic!() };
        facts.room = room;
        plan(&present(machine.clone()), &observed, at(0)).steps
    };
    let larger = Machine { cpu: 3, memory_mib: 512, ..machine() };
    assert_eq!(grow(&larger, Power::Running, Some(ROOM)), [Step::GrowCpus(3), Step::GrowMemory(512)]);
    assert_eq!(grow(&larger, Power::Running, None), [], "what is not known is not there");
    let crowded = Room { cpus: 2, slots: 0, ..ROOM };
    assert_eq!(grow(&larger, Power::Running, Some(crowded)), []);
    let odd = Machine { memory_mib: 300, ..machine() };
    assert_eq!(grow(&odd, Power::Running, Some(ROOM)), [], "Linux takes whole blocks");
    let smaller = Machine { memory_mib: 128, ..machine() };
    assert_eq!(grow(&smaller, Power::Running, Some(ROOM)), []);
    let paused = Machine { power: PowerState::Paused, ..larger };
    assert_eq!(grow(&paused, Power::Paused, Some(ROOM)), [], "it grows when it runs again");
}

// The model: a host that does what libvirt does.

const ROOM: Room = Room { cpus: 4, memory_mib: 1024, slots: 2 };
/// CPUs and memory of [`machine`].
const SIZE: (u32, u64) = (1, 256);

#[derive(Debug, Clone)]
struct World {
    domain: Option<(Power, Metadata)>,
    /// CPUs and memory that the guest has.
    has: (u32, u64),
    /// Those that its next start gives it.
    defined: (u32, u64),
    volumes: BTreeSet<String>,
    pressed_at: Option<Timestamp>,
    /// Whether the guest goes when the button is pressed.
    obedient: bool,
    now: i64,
    starts: usize,
    ends: usize,
}

impl World {
    fn observe(&self) -> Observed {
        let facts = match &self.domain {
            None => DomainFacts::Missing,
            Some((power, metadata)) => {
                let DomainFacts::Ours(mut domain) = domain(power.clone(), metadata.clone()) else { panic!() };
                (domain.cpu, domain.memory_mib) = if power.is_active() { self.has } else { self.defined };
                DomainFacts::Ours(domain)
            }
        };
        let volumes = self.volumes.iter().cloned().collect();
        let told = Told::Data(Default::default());
        let facts = Facts {
            host: host(),
            domain: facts,
            image: None,
            import: None,
            room: Some(ROOM),
            disks: None,
            cloned: Default::default(),
            volumes,
            addresses: None,
            remembered: Remembered { pressed_at: self.pressed_at, ..Remembered::default() },
            told,
        };
        Observed::Complete(Box::new(facts))
    }

    fn turn_off(&mut self, cause: OffCause) {
        if let Some((power, _)) = &mut self.domain
            && power.is_active()
        {
            *power = Power::Off(cause);
            self.ends += 1;
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::WriteSeed(seed) => {
                self.volumes.insert(seed.volume.clone());
            }
            Step::EnsureNetwork(_) => {}
            Step::EnsureVolume(volume) => {
                self.volumes.insert(volume.name.clone());
            }
            Step::Define(config, metadata) => {
                self.defined = (config.cpu, config.memory_mib);
                let power = self.domain.take().map_or(OFF, |(power, _)| power);
                self.domain = Some((power, (**metadata).clone()));
            }
            Step::Record(metadata) => self.domain.as_mut().unwrap().1 = (**metadata).clone(),
            Step::Start { paused } => {
                let power = &mut self.domain.as_mut().unwrap().0;
                assert!(!power.is_active(), "started twice");
                *power = if *paused { Power::Paused } else { Power::Running };
                self.has = self.defined;
                self.starts += 1;
            }
            Step::Suspend => self.domain.as_mut().unwrap().0 = Power::Paused,
            Step::Resume | Step::RetryDisks => self.domain.as_mut().unwrap().0 = Power::Running,
            Step::PressPowerButton => {
                self.pressed_at = Some(at(self.now));
                if self.obedient && self.domain.as_ref().unwrap().0 == Power::Running {
                    self.turn_off(OffCause::Shutdown);
                }
            }
            Step::Reset => assert!(self.domain.as_ref().unwrap().0.is_active()),
            Step::Destroy => self.turn_off(OffCause::Other),
            Step::GrowCpus(to) => {
                assert!(*to > self.has.0 && ROOM.has_cpus(*to));
                self.has.0 = *to;
            }
            Step::GrowMemory(to) => {
                assert!(*to > self.has.1 && ROOM.has_memory(self.has.1, *to));
                self.has.1 = *to;
            }
            // No disk is looked at in this model; see `disks`.
            Step::GrowDisk { .. }
            | Step::AttachDisk(_)
            | Step::DetachDisk(_)
            | Step::GoBack(_)
            | Step::ForgetSnapshots(_) => panic!("{step:?}"),
            Step::DeleteVolume(name) => {
                self.volumes.remove(name);
            }
            Step::Undefine => {
                assert!(!self.domain.as_ref().unwrap().0.is_active(), "a running domain becomes transient");
                self.domain = None;
            }
        }
    }

    /// Plans and acts until nothing is to be done now or later. After each plan only as many steps are done as `crashes`
    /// says, if it says anything: the process died there.
    fn settle(&mut self, desired: &Desired, mut crashes: impl Iterator<Item = usize>) -> Plan {
        for _ in 0..100 {
            let plan = plan(desired, &self.observe(), at(self.now));
            check_rule_5(desired, &plan);
            if plan.steps.is_empty() {
                let Some(delay) = plan.requeue_after else { return plan };
                self.now += i64::try_from(delay.as_millis()).unwrap().max(1);
                continue;
            }
            let done = crashes.next().unwrap_or(usize::MAX);
            for step in plan.steps.iter().take(done) {
                self.apply(step);
            }
            if done < plan.steps.len() {
                self.pressed_at = None;
            }
            self.now += 1;
        }
        panic!("does not settle: {self:?} for {desired:?}");
    }

    fn assert_wanted(&self, desired: &Desired) {
        match desired {
            Desired::Absent { .. } => {
                assert_eq!(self.domain, None);
                assert_eq!(self.volumes, BTreeSet::new());
            }
            Desired::Present(machine) => {
                let (power, metadata) = self.domain.as_ref().unwrap();
                assert_eq!(metadata.stopping, None);
                if power.is_active() && self.starts > 0 {
                    assert_eq!(metadata.seed.as_deref(), Some(machine.seed.fingerprint().as_str()));
                }
                assert_eq!(metadata.restart, machine.requests.restart.max(metadata.restart));
                let halted = metadata.halted.is_some() && !power.is_active();
                let held = matches!(
                    power,
                    Power::Stuck(_) | Power::DiskError(_) | Power::Busy | Power::Asleep | Power::GoingDown
                );
                match machine.power {
                    PowerState::Stopped => assert!(!power.is_active()),
                    PowerState::Running => assert!(*power == Power::Running || held || halted),
                    PowerState::Paused => assert!(*power == Power::Paused || held || halted),
                }
                if *power == Power::Running && machine.power == PowerState::Running {
                    let (cpu, memory) = (machine.cpu, machine.memory_mib);
                    assert!(self.has.0 >= cpu || !ROOM.has_cpus(cpu), "{self:?}");
                    assert!(self.has.1 >= memory || !ROOM.has_memory(self.has.1, memory), "{self:?}");
                }
                if halted {
                    assert_eq!(restart_due(machine.restart_policy, metadata), None);
                }
            }
        }
    }
}

/// What destroys needs a reason: rule 5 of the design.
fn check_rule_5(desired: &Desired, plan: &Plan) {
    for step in &plan.steps {
        match (step, desired) {
            (Step::Undefine | Step::DeleteVolume(_), Desired::Absent { confirmed: true, .. }) => {}
            (Step::Undefine | Step::DeleteVolume(_), _) => panic!("{step:?} of {desired:?}"),
            (Step::Destroy, Desired::Absent { confirmed, .. }) => assert!(confirmed),
            _ => {}
        }
    }
}

fn power() -> impl Strategy<Value = Power> {
    prop_oneof![
        Just(Power::Running),
        Just(Power::Paused),
        Just(Power::Busy),
        Just(Power::Stuck("disk".into())),
        Just(Power::DiskError(DiskTrouble::default())),
        Just(Power::Panicked),
        Just(Power::Asleep),
        Just(Power::GoingDown),
        Just(OFF),
        Just(SHUT_DOWN),
    ]
}

prop_compose! {
    fn any_machine()(
        power in prop_oneof![Just(PowerState::Running), Just(PowerState::Stopped), Just(PowerState::Paused)],
        restart_policy in prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
        grace in 0_u64..100,
        counters in (0_i64..3, 0_i64..3, 0_i64..3),
        cpu in 1_u32..6,
        memory_mib in prop_oneof![256_u64..258, Just(384), Just(2048)],
    ) -> Machine {
        Machine {
            power, restart_policy, cpu, memory_mib,
            grace: Duration::from_secs(grace),
            requests: Requests { restart: counters.0, reset: counters.1, power_off: counters.2, reprovision: 0 },
            ..machine()
        }
    }
}

prop_compose! {
    fn any_metadata()(
        counters in (0_i64..3, 0_i64..3, 0_i64..3),
        stopping in proptest::option::of(prop_oneof![Just(0), T0 - 50_000..T0]),
        started in proptest::option::of(prop_oneof![Just(BOOT.to_owned()), Just("boot-0".to_owned())]),
        started_at in proptest::option::of(T0 - 1_000_000..T0),
        halted in proptest::option::of(prop_oneof![Just(Halt::Guest), Just(Halt::Crash)]),
        crashes in 0_u32..8,
        crashed_at in proptest::option::of(T0 - 1_000_000..T0),
        same_config in any::<bool>(),
        seed in prop_oneof![Just(None), Just(Some("other".to_owned())), Just(Some(machine().seed.fingerprint()))],
    ) -> Metadata {
        let config = if same_config { settled(&machine()).config } else { "other".to_owned() };
        Metadata {
            config, seed, stopping, started, started_at, halted, crashes, crashed_at,
            restart: counters.0, reset: counters.1, power_off: counters.2,
            ..settled(&machine())
        }
    }
}

prop_compose! {
    fn any_world()(
        domain in proptest::option::of((power(), any_metadata())),
        volumes in proptest::collection::btree_set(prop_oneof![Just("root".to_owned()), Just("data".to_owned()), Just("seed".to_owned())], 0..3),
        obedient in any::<bool>(),
    ) -> World {
        World { domain, has: SIZE, defined: SIZE, volumes, pressed_at: None, obedient, now: 0, starts: 0, ends: 0 }
    }
}

fn any_desired() -> impl Strategy<Value = Desired> {
    prop_oneof![
        4 => any_machine().prop_map(present),
        1 => Just(Desired::Absent { identity: identity(), confirmed: true }),
    ]
}

proptest! {
    #[test]
    fn any_state_converges(desired in any_desired(), mut world in any_world()) {
        world.settle(&desired, std::iter::empty());
        world.assert_wanted(&desired);
        prop_assert_eq!(plan(&desired, &world.observe(), at(world.now)).steps, []);
    }

    #[test]
    fn any_state_converges_whatever_crashes_when(
        desired in any_desired(),
        mut world in any_world(),
        crashes in proptest::collection::vec(0_usize..7, 0..12),
    ) {
        world.settle(&desired, crashes.into_iter());
        world.assert_wanted(&desired);
    }

    #[test]
    fn a_restart_is_done_exactly_once(
        machine in any_machine(),
        obedient in any::<bool>(),
        crashes in proptest::collection::vec(0_usize..4, 0..12),
    ) {
        let mut machine = Machine { power: PowerState::Running, ..machine };
        let metadata = started(&machine);
        machine.requests.restart += 1;
        let mut world = World {
            domain: Some((Power::Running, metadata)),
            has: SIZE,
            defined: SIZE,
            volumes: BTreeSet::new(), pressed_at: None, obedient, now: 0, starts: 0, ends: 0,
        };
        let desired = present(machine);
        world.settle(&desired, crashes.into_iter());
        world.assert_wanted(&desired);
        prop_assert_eq!((world.ends, world.starts), (1, 1));
    }

    #[test]
    fn nothing_is_done_without_knowing(desired in any_desired(), class in prop_oneof![Just(Class::Disconnected), Just(Class::Timeout)]) {
        let unreachable = Observed::Unreachable(HvError::new(class, "ask", "no"));
        prop_assert_eq!(plan(&desired, &unreachable, at(0)), Plan::default());
    }

    #[test]
    fn what_is_not_ours_is_never_touched(desired in any_desired()) {
        let plan = plan(&desired, &observed(DomainFacts::Foreign("A domain".into())), at(0));
        prop_assert_eq!(plan.steps, []);
        prop_assert_eq!(plan.blocked.map(|blocked| blocked.reason), Some("ForeignDomain"));
    }

    #[test]
    fn an_unconfirmed_deletion_does_nothing(world in any_world()) {
        let desired = Desired::Absent { identity: identity(), confirmed: false };
        prop_assert_eq!(plan(&desired, &world.observe(), at(0)), Plan::default());
    }
}
