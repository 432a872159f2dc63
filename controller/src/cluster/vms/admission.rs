//! Whether a request fits into a quota. Pure.

use kvmoor_crds::quantity::{self, MIB, QuantityError};
use kvmoor_crds::{Quota, QuotaSpec};

use crate::cluster::resources::{Resources, Usage};

/// What a namespace may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of virtual machines.
    pub vms: u64,
    /// Virtual CPUs.
    pub cpu: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Sizes of all disks, in bytes; no limit where it is missing.
    pub disk: Option<u64>,
}

/// The default quota of an installation, until an admin changes it.
pub const DEFAULT_LIMITS: Limits = Limits { vms: 10, cpu: 20, memory: 40 << 30, disk: None };

impl Limits {
    /// The limits of a Quota.
    ///
    /// # Errors
    /// When a quantity cannot be read.
    pub fn of(spec: &QuotaSpec) -> Result<Self, QuantityError> {
        let QuotaSpec { max_vms, max_cpu, max_memory, max_snapshots: _, max_disk } = spec;
        Ok(Self {
            vms: u64::try_from(*max_vms).unwrap_or(0),
            cpu: u64::try_from(*max_cpu).unwrap_or(0),
            memory: quantity::bytes(max_memory)?,
            disk: max_disk.as_ref().map(quantity::bytes).transpose()?,
        })
    }

    /// The limits of a Quota; nothing is allowed where it cannot be read.
    pub fn or_nothing(quota: &Quota) -> Self {
        Self::of(&quota.spec).unwrap_or(Self { vms: 0, cpu: 0, memory: 0, disk: Some(0) })
    }
}

/// Judges a request against the quota of its namespace: nothing where it fits, the numbers where it does not.
///
/// `others` is what all other virtual machines of the namespace use, `present` what this one was admitted with before. Only
/// what grows is judged: a quota that was lowered below what is used stops nothing, and shrinking is always allowed.
pub fn judge(limits: &Limits, others: Usage, present: Option<Resources>, requested: Resources) -> Result<(), String> {
    let Limits { vms, cpu, memory, disk } = *limits;
    let mut excess = Vec::new();
    if present.is_none() && others.vms.saturating_add(1) > vms {
        excess.push(format!("virtual machines {} used + 1 requested > {vms} allowed", others.vms));
    }
    let held = present.unwrap_or_default();
    let used = others.resources.plus(held);
    let more = if present.is_some() { "more " } else { "" };
    let mut amount = |what: &str, used: u64, held: u64, requested: u64, allowed: u64, show: fn(u64) -> String| {
        let growth = requested.saturating_sub(held);
        if growth > 0 && used.saturating_add(growth) > allowed {
            let (used, growth, allowed) = (show(used), show(growth), show(allowed));
            excess.push(format!("{what} {used} used + {growth} {more}requested > {allowed} allowed"));
        }
    };
    amount("cpu", used.cpu, held.cpu, requested.cpu, cpu, |count| count.to_string());
    amount("memory", used.memory, held.memory, requested.memory, memory, size);
    if let Some(disk) = disk {
        amount("disk", used.disk, held.disk, requested.disk, disk, size);
    }
    if excess.is_empty() { Ok(()) } else { Err(format!("quota exceeded: {}", excess.join(", "))) }
}

/// A number of bytes for people: exact, and in MiB or more where that is exact.
fn size(bytes: u64) -> String {
    if bytes < MIB { format!("{bytes} bytes") } else { quantity::from_bytes(bytes).0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn amount(cpu: u64, memory: u64) -> Resources {
        Resources { cpu, memory, disk: 0 }
    }

    fn used(vms: u64, cpu: u64, memory: u64) -> Usage {
        Usage { vms, resources: amount(cpu, memory) }
    }

    #[test]
    fn says_the_numbers() {
        let judged = judge(&DEFAULT_LIMITS, used(3, 18, 38 * GIB), None, amount(4, 4 * GIB));
        let expected =
            "quota exceeded: cpu 18 used + 4 requested > 20 allowed, memory 38Gi used + 4Gi requested > 40Gi allowed";
        assert_eq!(judged, Err(expected.to_owned()));
        let judged = judge(&DEFAULT_LIMITS, used(10, 1, GIB), None, amount(1, GIB));
        assert_eq!(judged, Err("quota exceeded: virtual machines 10 used + 1 requested > 10 allowed".to_owned()));
        let judged = judge(&DEFAULT_LIMITS, used(1, 16, 0), Some(amount(2, GIB)), amount(6, GIB));
        assert_eq!(judged, Err("quota exceeded: cpu 18 used + 4 more requested > 20 allowed".to_owned()));
    }

    #[test]
    fn a_lowered_quota_allows_to_shrink_and_to_grow_elsewhere() {
        let limits = Limits { vms: 0, cpu: 1, memory: 40 * GIB, disk: None };
        let present = Some(amount(8, GIB));
        assert_eq!(judge(&limits, used(5, 5, 5 * GIB), present, amount(4, GIB)), Ok(()));
        assert_eq!(judge(&limits, used(5, 5, 5 * GIB), present, amount(8, 2 * GIB)), Ok(()));
        assert!(judge(&limits, used(5, 5, 5 * GIB), present, amount(9, GIB)).is_err());
    }

    #[test]
    fn disks_count_where_they_are_limited() {
        let limits = Limits { disk: Some(20 * GIB), ..DEFAULT_LIMITS };
        let requested = Resources { cpu: 1, memory: GIB, disk: 11 * GIB };
        let others = Usage { vms: 1, resources: Resources { cpu: 1, memory: GIB, disk: 10 * GIB } };
        assert_eq!(
            judge(&limits, others, None, requested),
            Err("quota exceeded: disk 10Gi used + 11Gi requested > 20Gi allowed".to_owned())
        );
        assert_eq!(judge(&DEFAULT_LIMITS, others, None, requested), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_admitted_fits(
            limit in 0..30_u64, others in 0..30_u64, present in prop::option::of(0..10_u64), requested in 1..10_u64,
        ) {
            let limits = Limits { vms: 100, cpu: limit, memory: u64::MAX, disk: None };
            let judged = judge(&limits, used(1, others, 0), present.map(|cpu| amount(cpu, 0)), amount(requested, 0));
            let shrinks = present.is_some_and(|present| requested <= present);
            prop_assert_eq!(judged.is_ok(), shrinks || others + requested <= limit);
        }
    }
}
