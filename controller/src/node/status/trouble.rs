//! What went wrong with the guest itself: a disk that fails, a crash, a panic. As conditions, and as the reason why it is
//! not Ready.

use jiff::Timestamp;
use kvmoor_crds::conditions::{Finding, types};

use super::super::address_pool::AddressPool;
use super::super::desired::Machine;
use super::super::hypervisor::{DiskTrouble, Domain, Power};
use super::super::metadata::Halt;
use super::super::plan;

/// Reason of Ready while a guest that went off by itself waits to be started again.
pub const CRASH_LOOP: &str = "CrashLoopBackOff";

/// Why it is not what is asked, if the guest itself is the reason.
pub fn reason(machine: &Machine, domain: &Domain, now: Timestamp) -> Option<&'static str> {
    match (&domain.power, domain.metadata.halted) {
        (Power::DiskError(trouble), _) => Some(disk_reason(trouble)),
        (Power::Panicked, _) => Some(halt_reason(Halt::Panic)),
        (Power::Off(_), Some(halt)) => match plan::restart_due(machine.restart_policy, &domain.metadata) {
            Some(due) => (due > now).then_some(CRASH_LOOP),
            None => Some(halt_reason(halt)),
        },
        _ => None,
    }
}

/// The conditions. Those that are false are worth telling only after they were true.
pub fn findings(domain: &Domain) -> [Finding; 2] {
    let disk = match &domain.power {
        Power::DiskError(trouble) => {
            Finding::new(types::DISK_ERROR, true, disk_reason(trouble), disk_sentence(trouble))
        }
        _ => Finding::new(types::DISK_ERROR, false, "NoError", ""),
    };
    let crash = match domain.metadata.halted {
        Some(halt @ (Halt::Crash | Halt::Panic)) => {
            Finding::new(types::GUEST_CRASHED, true, halt_reason(halt), format!("{}.", halt_sentence(halt)))
        }
        Some(Halt::Guest) | None => Finding::new(types::GUEST_CRASHED, false, "NotCrashed", ""),
    };
    [disk, crash]
}

/// The condition of a guest that is refused an address; `pool` is none unless it has waited for one for long.
pub fn address(pool: Option<&AddressPool>) -> Finding {
    match pool {
        Some(AddressPool { network, size, left: 0 }) => Finding::new(
            types::ADDRESS_ERROR,
            true,
            "AddressesExhausted",
            format!(
                "The guest has no address, since the DHCP server of the host's network {network} has given away all of \
                 its {size}. Make its range larger or its leases shorter; the guest gets one when another's lease ends."
            ),
        ),
        _ => Finding::new(types::ADDRESS_ERROR, false, "NoError", ""),
    }
}

/// The reason of an Event about a guest that went off by itself.
pub fn halt_reason(halt: Halt) -> &'static str {
    match halt {
        Halt::Guest => "GuestPoweredOff",
        Halt::Crash => "GuestCrashed",
        Halt::Panic => "GuestPanicked",
    }
}

/// How a guest went off, as the beginning of a sentence.
pub fn halt_sentence(halt: Halt) -> &'static str {
    match halt {
        Halt::Guest => "The guest powered itself off",
        Halt::Crash => "The guest crashed",
        Halt::Panic => "The guest's kernel panicked",
    }
}

fn disk_reason(trouble: &DiskTrouble) -> &'static str {
    if trouble.no_space { "NoSpace" } else { "IOError" }
}

/// What is wrong with a disk, and what helps.
pub fn disk_sentence(trouble: &DiskTrouble) -> String {
    let disks = if trouble.disks.is_empty() { "a disk".to_owned() } else { trouble.disks.join(", ") };
    if trouble.no_space {
        format!(
            "The host's storage pool has no room for what the guest writes to {disks}, so its CPUs are halted. Make room \
             there; the guest then goes on by itself."
        )
    } else {
        format!(
            "The host cannot read or write {disks}, so the guest's CPUs are halted. Mend the host's storage; the guest \
             then goes on by itself."
        )
    }
}
