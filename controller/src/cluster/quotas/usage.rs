//! What a Quota's status should be, and when it is worth a write. Pure.

use std::time::Duration;

use kvmoor_crds::{QuotaStatus, QuotaUsed, quantity};
use tokio::time::Instant;

use crate::cluster::resources::Usage;

/// Time between two writes of what is used, for each Quota: many virtual machines may come at once.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// What a namespace uses, as the API shows it.
pub fn used(usage: Usage, snapshots: u64) -> QuotaUsed {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    QuotaUsed {
        vms: count(usage.vms),
        cpu: count(usage.resources.cpu),
        memory: quantity::from_bytes(usage.resources.memory),
        snapshots: count(snapshots),
        disk: quantity::from_bytes(usage.resources.disk),
    }
}

/// When to write the status: now where the id is missing, a while after the last write where only the numbers differ,
/// never where nothing does.
pub fn due(present: Option<&QuotaStatus>, used: &QuotaUsed, written: Option<Instant>, now: Instant) -> Option<Instant> {
    let has_id = present.is_some_and(|status| status.id.is_some());
    if has_id && present.and_then(|status| status.used.as_ref()) == Some(used) {
        return None;
    }
    if !has_id {
        return Some(now);
    }
    Some(written.map_or(now, |written| written + INTERVAL).max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wait_and_a_missing_id_does_not() {
        let now = Instant::now();
        let none = used(Usage::default(), 0);
        let one = used(Usage { vms: 1, ..Usage::default() }, 0);
        let status = QuotaStatus { id: Some(1), used: Some(none.clone()) };
        assert_eq!(due(None, &none, Some(now), now), Some(now));
        assert_eq!(due(Some(&status), &none, None, now), None);
        assert_eq!(due(Some(&status), &one, None, now), Some(now));
        assert_eq!(due(Some(&status), &one, Some(now), now), Some(now + INTERVAL));
        assert_eq!(due(Some(&status), &one, Some(now), now + 3 * INTERVAL), Some(now + 3 * INTERVAL));
    }
}
