//! Tables for the rules, and a property: whatever crashes when, a restore is done once.

use std::time::Duration;

use kvmoor_crds::{Requests, RestartPolicy};
use proptest::prelude::*;

use super::super::desired::{Identity, Root};
use super::super::hypervisor::OffCause;
use super::super::metadata::{Freeze, Halt};
use super::super::seed::Seed;
use super::*;

const BOOT: &str = "boot-1";
const OFF: Power = Power::Off(OffCause::Other);

fn machine(power: PowerState) -> Machine {
    Machine {
        identity: Identity { uid: "u".into(), namespace: "ns".into(), name: "web".into() },
        power,
        restart_policy: RestartPolicy::OnFailure,
        grace: Duration::from_secs(30),
        requests: Requests { restart: 5, ..Requests::default() },
        cpu: 1,
        memory_mib: 256,
        firmware: Firmware::Bios,
        tpm: false,
        features: Vec::new(),
        nics: Vec::new(),
        source: None,
        root: Root { volume: "root".into(), capacity: 10, is_explicit: false, image: None, unknown_os: None },
        disks: Vec::new(),
        disk_admitted: u64::MAX,
        seed: Seed {
            volume: "seed".into(),
            instance_id: "u".into(),
            host_name: "web".into(),
            ssh_authorized_keys: Vec::new(),
            user_data_from: None,
            network_data_from: None,
            told: Default::default(),
        },
    }
}

fn metadata() -> Metadata {
    Metadata {
        uid: "u".into(),
        config: "now".into(),
        restart: 5,
        started: Some(BOOT.into()),
        started_at: Some(7),
        ..Metadata::default()
    }
}

fn domain(power: Power, metadata: Metadata) -> Domain {
    Domain { power, metadata, cpu: 1, memory_mib: 256, leases: Vec::new(), agent: false, attached: Vec::new() }
}

fn operation(kind: Kind) -> Operation {
    Operation { uid: "r".into(), libvirt_name: "kvmoor-s".into(), kind }
}

fn facts(has_memory: bool) -> SnapshotFacts {
    SnapshotFacts { created_at: 1, has_memory, cpu: 1, memory_mib: 256, config: "then".into(), freeze: None }
}

fn decided(
    power: PowerState,
    domain: &Domain,
    kind: Kind,
    snapshot: Option<&SnapshotFacts>,
    given_up: Option<Failure>,
) -> Decision {
    let now = Timestamp::from_millisecond(1000).unwrap();
    decide(&machine(power), domain, BOOT, &operation(kind), snapshot, given_up, now)
}

fn reason(decision: &Decision) -> &'static str {
    match decision {
        Decision::Over(Outcome::Failed { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn restore(power: PowerState, domain: &Domain, snapshot: &SnapshotFacts) -> (Metadata, Resumption) {
    match decided(power, domain, Kind::Restore, Some(snapshot), None) {
        Decision::Revert { metadata, resumption } => (*metadata, resumption),
        other => panic!("{other:?}"),
    }
}

fn begun(power: Power) -> Domain {
    domain(power, Metadata { restoring: Some("r".into()), ..metadata() })
}

#[test]
fn a_snapshot_is_taken_once() {
    let take = Kind::Take { include_memory: true };
    for power in [Power::Running, Power::Paused] {
        let decision = decided(PowerState::Running, &domain(power, metadata()), take, None, None);
        assert_eq!(decision, Decision::Take { frozen: false });
    }
    let off = domain(OFF, metadata());
    assert_eq!(decided(PowerState::Stopped, &off, take, None, None), Decision::Take { frozen: false });
    let facts = facts(true);
    let over = decided(PowerState::Stopped, &off, take, Some(&facts), None);
    assert_eq!(over, Decision::Over(Outcome::Taken(facts)));
}

#[test]
fn the_agent_freezes_a_guest_that_runs_and_is_not_frozen() {
    let take = Kind::Take { include_memory: true };
    let frozen = Metadata { freeze: Some(Freeze::Failed), ..metadata() };
    let cases = [
        (Power::Running, metadata(), true),
        (Power::Paused, metadata(), false),
        (Power::Running, frozen.clone(), false),
    ];
    for (power, metadata, expected) in cases {
        let domain = Domain { agent: true, ..domain(power, metadata) };
        let decision = decided(PowerState::Running, &domain, take, None, None);
        assert_eq!(decision, Decision::Take { frozen: expected }, "{domain:?}");
    }
    // It comes back as it was taken, frozen or not, whatever it is now.
    let now = Domain { metadata: Metadata { restoring: Some("r".into()), ..frozen }, ..domain(OFF, metadata()) };
    for then in [None, Some(Freeze::Done), Some(Freeze::Failed)] {
        let snapshot = SnapshotFacts { freeze: then, ..facts(true) };
        assert_eq!(restore(PowerState::Running, &now, &snapshot).0.freeze, then);
    }
}

#[test]
fn nothing_begins_while_the_domain_changes() {
    let stopping = Metadata { stopping: Some(1), ..metadata() };
    let cases = [
        (PowerState::Running, Power::Busy, metadata()),
        (PowerState::Running, Power::GoingDown, metadata()),
        (PowerState::Running, Power::Running, stopping),
        (PowerState::Stopped, Power::Running, metadata()),
        (PowerState::Running, Power::Running, Metadata { restoring: Some("other".into()), ..metadata() }),
    ];
    for (wanted, power, metadata) in cases {
        let domain = domain(power, metadata);
        for kind in [Kind::Take { include_memory: true }, Kind::Restore] {
            let snapshot = (kind == Kind::Restore).then(|| facts(true));
            assert_eq!(decided(wanted, &domain, kind, snapshot.as_ref(), None), Decision::Wait, "{domain:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let on = domain(Power::Running, metadata());
    let without = decided(PowerState::Running, &on, Kind::Take { include_memory: false }, None, None);
    assert_eq!(reason(&without), "MemoryNeeded");
    let uefi = Machine { firmware: Firmware::Uefi, ..machine(PowerState::Running) };
    let take = operation(Kind::Take { include_memory: true });
    assert_eq!(reason(&decide(&uefi, &on, BOOT, &take, None, None, Timestamp::now())), "FirmwareUnsupported");
    assert_eq!(reason(&decided(PowerState::Running, &on, Kind::Restore, None, None)), "SnapshotMissing");
    let larger = SnapshotFacts { memory_mib: 512, ..facts(true) };
    assert_eq!(reason(&decided(PowerState::Running, &on, Kind::Restore, Some(&larger), None)), "MoreThanAdmitted");
    // Without memory it starts with what it has now.
    let larger = SnapshotFacts { has_memory: false, ..larger };
    let begins = decided(PowerState::Running, &on, Kind::Restore, Some(&larger), None);
    assert!(matches!(begins, Decision::Record(_)));
}

#[test]
fn ends_in_the_power_state_of_before() {
    let cases = [
        (PowerState::Running, Power::Running, true, Resumption::Running, None),
        (PowerState::Paused, Power::Paused, true, Resumption::Paused, None),
        (PowerState::Stopped, OFF, true, Resumption::Paused, Some(0)),
        (PowerState::Running, Power::Running, false, Resumption::Off, None),
        (PowerState::Stopped, OFF, false, Resumption::Off, None),
    ];
    for (wanted, power, has_memory, resumption, stopping) in cases {
        let (metadata, resumed) = restore(wanted, &begun(power), &facts(has_memory));
        assert_eq!((resumed, metadata.stopping), (resumption, stopping), "{wanted:?} {has_memory}");
        assert_eq!(metadata.started.is_some(), has_memory);
    }
}

#[test]
fn a_guest_that_went_off_by_itself_stays_off_unless_its_memory_comes_back() {
    let mut halted = begun(Power::Off(OffCause::Shutdown));
    halted.metadata.halted = Some(Halt::Guest);
    assert_eq!(restore(PowerState::Running, &halted, &facts(false)).0.halted, Some(Halt::Guest));
    let (metadata, resumption) = restore(PowerState::Running, &halted, &facts(true));
    assert_eq!((metadata.halted, resumption), (None, Resumption::Running));
}

#[test]
fn requests_that_were_done_are_not_done_again() {
    let (after, _) = restore(PowerState::Running, &begun(Power::Running), &facts(true));
    assert_eq!((after.restart, after.config.as_str()), (5, "then"));
    assert_eq!((after.restoring, after.restored.as_deref()), (None, Some("r")));
}

#[test]
fn one_that_is_given_up_lets_go_first() {
    let failure = Failure { step: "Revert", reason: "RestoreFailed", message: "no".into() };
    let facts = facts(true);
    let decision = decided(PowerState::Running, &begun(OFF), Kind::Restore, Some(&facts), Some(failure.clone()));
    assert_eq!(decision, without_restoring(&begun(OFF).metadata));
    let free = domain(OFF, metadata());
    let decision = decided(PowerState::Running, &free, Kind::Restore, Some(&facts), Some(failure));
    assert_eq!(reason(&decision), "RestoreFailed");
}

fn power() -> impl Strategy<Value = Power> {
    prop_oneof![Just(Power::Running), Just(Power::Paused), Just(OFF), Just(Power::Stuck("disk".into()))]
}

proptest! {
    /// The model: libvirt does a revert as a whole or not at all; the process may end before or after any step, and
    /// before the outcome is told.
    #[test]
    fn a_restore_is_done_exactly_once(
        wanted in prop_oneof![Just(PowerState::Running), Just(PowerState::Paused)],
        power in power(),
        has_memory in any::<bool>(),
        told_late in 0_usize..4,
        lost in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let snapshot = facts(has_memory);
        let mut domain = domain(power, metadata());
        let (mut reverts, mut told) = (0, 0);
        for is_lost in lost.into_iter().chain(std::iter::repeat(false)).take(40) {
            match decided(wanted, &domain, Kind::Restore, Some(&snapshot), None) {
                // It ended before the step.
                _ if is_lost => {}
                Decision::Record(metadata) => domain.metadata = *metadata,
                Decision::Revert { metadata, resumption } => {
                    prop_assert_eq!(domain.metadata.restoring.as_deref(), Some("r"));
                    reverts += 1;
                    domain.metadata = *metadata;
                    domain.power = match resumption {
                        Resumption::Running => Power::Running,
                        Resumption::Paused => Power::Paused,
                        Resumption::Off => OFF,
                    };
                }
                Decision::Over(outcome) => {
                    prop_assert_eq!(outcome, Outcome::Restored);
                    // It ended before the outcome was told.
                    told += 1;
                    if told > told_late {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!((reverts, told), (1, told_late + 1));
        prop_assert_eq!(domain.metadata.restart, 5);
    }
}
