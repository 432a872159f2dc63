//! Conditions: their types and reasons, and how they are made and compared.
//!
//! A reason is at once what stands in the condition, in an Event and on a metric's label.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types. The comment names the one writer.
pub mod types {
    /// Both: the virtual machine is what its spec asks for. Written by the cluster controller while the virtual machine
    /// has no host or its host is lost, by the node controller otherwise.
    pub const READY: &str = "Ready";
    /// Cluster: the spec is within the namespace's quota.
    pub const ADMITTED: &str = "Admitted";
    /// Cluster: a host is chosen.
    pub const SCHEDULED: &str = "Scheduled";
    /// Cluster: the host's node controller renews its Lease.
    pub const HOST_REACHABLE: &str = "HostReachable";
    /// Node: disks and seed exist in the host's storage pool.
    pub const PROVISIONED: &str = "Provisioned";
    /// Node: the last attempt to make libvirt match the spec succeeded.
    pub const SYNCHRONIZED: &str = "Synchronized";
    /// Node: a change of the spec takes effect only at the next restart; the message names the fields.
    pub const RESTART_REQUIRED: &str = "RestartRequired";
    /// Node: a disk cannot be read or written, so the guest's CPUs are halted; tried again with growing delays.
    pub const DISK_ERROR: &str = "DiskError";
    /// Node: the guest has no address, since the DHCP server of its host has none left.
    pub const ADDRESS_ERROR: &str = "AddressError";
    /// Node: the guest crashed or its kernel panicked, and has not been started again yet.
    pub const GUEST_CRASHED: &str = "GuestCrashed";
    /// Node: the guest agent, which is optional, is connected and answers. Told only once it has been.
    pub const GUEST_AGENT_CONNECTED: &str = "GuestAgentConnected";
    /// On snapshots and restores: it has failed and is not tried again. kstatus calls such an object failed.
    pub const STALLED: &str = "Stalled";
    /// Node: domain and volumes are gone, the finalizer may be dropped.
    pub const RELEASED: &str = "Released";
    /// Node, on a Host: libvirt answers.
    pub const LIBVIRT_CONNECTED: &str = "LibvirtConnected";
    /// Cluster, on a User: the namespace, its rights and the id are there.
    pub const TENANT_READY: &str = "TenantReady";
}

/// Reasons that more than one component names. Those of one component stand beside the code that gives them.
pub mod reasons {
    /// Within quota.
    pub const WITHIN_QUOTA: &str = "WithinQuota";
    /// Over quota; the message has the numbers.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The host has no room for the growth; the message has the numbers.
    pub const HOST_FULL: &str = "HostFull";
    /// There is no class of that name; the message has those that are there.
    pub const CLASS_NOT_FOUND: &str = "ClassNotFound";
    /// There is no virtual machine of that name to clone.
    pub const SOURCE_MISSING: &str = "SourceMissing";
    /// A host was chosen.
    pub const PLACED: &str = "Placed";
    /// No host fits; the message says why each does not.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The host's node controller has not renewed its Lease.
    pub const NODE_LOST: &str = "NodeLost";
    /// The spec cannot be followed; the message says which field.
    pub const INVALID_SPEC: &str = "InvalidSpec";
}

/// What a condition says: the three values of its `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// `True`
    True,
    /// `False`
    False,
    /// `Unknown`
    Unknown,
}

impl Truth {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// A condition before it has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One of [`types`].
    pub type_: &'static str,
    /// Whether it holds.
    pub status: Truth,
    /// CamelCase, one word.
    pub reason: &'static str,
    /// A sentence that a user can act on. Never holds a secret.
    pub message: String,
}

impl Finding {
    /// A finding of that type.
    pub fn new(
        type_: &'static str,
        status: impl Into<Truth>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, status: status.into(), reason, message: message.into() }
    }

    /// The condition: its transition time is that of `previous`' condition of the same type unless the status changed.
    /// Times are whole seconds, as the API keeps them.
    pub fn into_condition(self, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let status = self.status.as_str();
        let last_transition_time = find(previous, self.type_)
            .filter(|old| old.status == status)
            .map_or_else(|| whole_seconds(now), |old| old.last_transition_time.clone());
        Condition {
            last_transition_time,
            message: self.message,
            observed_generation: generation,
            reason: self.reason.to_owned(),
            status: status.to_owned(),
            type_: self.type_.to_owned(),
        }
    }
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether there is a condition of that type with status `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether two conditions say the same, whenever they came about.
pub fn same(left: &Condition, right: &Condition) -> bool {
    let Condition { last_transition_time: _, message, observed_generation, reason, status, type_ } = left;
    *message == right.message
        && *observed_generation == right.observed_generation
        && *reason == right.reason
        && *status == right.status
        && *type_ == right.type_
}

/// A time as the API keeps it.
pub fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let first = Finding::new(types::READY, false, "Starting", "").into_condition(&[], Some(1), at(10));
        let same_status = Finding::new(types::READY, false, "Failed", "x").into_condition(
            std::slice::from_ref(&first),
            Some(2),
            at(20),
        );
        assert_eq!(same_status.last_transition_time, first.last_transition_time);
        assert!(!same(&first, &same_status));
        let turned = Finding::new(types::READY, true, "Running", "").into_condition(&[same_status], Some(2), at(30));
        assert_eq!(turned.last_transition_time, Time(at(30)));
        assert!(is_true(&[turned], types::READY));
    }
}
