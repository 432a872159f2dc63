//! What a node controller counts.

use std::time::Duration;

use kvmoor_telemetry::{Family, Seconds, seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::hypervisor::libvirt::Connection;
use super::hypervisor::{Class, HvError};
use super::operation::{Kind, Outcome};
use crate::metrics::Reconciles;

/// Reasons of errors that every host may have.
const REASONS: [&str; 8] = [
    "api_unavailable",
    "DefineFailed",
    "LibvirtUnavailable",
    "NetworkUnavailable",
    "PoolFull",
    "StartFailed",
    "StoragePoolUnavailable",
    "VolumeFailed",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: &'static str,
    result: &'static str,
}

/// Calls of libvirt. Clones count together.
#[derive(Debug, Clone)]
pub struct LibvirtCalls {
    durations: Seconds<Call>,
    errors: Family<Failed, Counter>,
}

impl Default for LibvirtCalls {
    fn default() -> Self {
        Self { durations: seconds(), errors: Family::default() }
    }
}

impl LibvirtCalls {
    /// A call has ended, or nobody waits for it any more.
    pub fn ended(&self, operation: &'static str, took: Duration, error: Option<&HvError>) {
        self.durations.get_or_create(&Call { operation }).observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.get_or_create(&Failed { reason: reason(error.class) }).inc();
        }
    }
}

/// What a node controller counts. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Reconciles of virtual machines.
    pub reconciles: Reconciles,
    connected: Gauge,
    operations: Family<Ended, Counter>,
}

impl Metrics {
    /// Counts from now on, in `registry`.
    pub fn register(registry: &mut Registry, calls: LibvirtCalls) -> Self {
        let metrics = Self {
            reconciles: Reconciles::register(registry, "host"),
            connected: Gauge::default(),
            operations: Family::default(),
        };
        metrics.reconciles.expect(&REASONS);
        calls.errors.get_or_create(&Failed { reason: reason(Class::Failed) }).inc_by(0);
        for operation in ["take", "restore", "delete"] {
            for result in ["succeeded", "failed"] {
                metrics.operations.get_or_create(&Ended { operation, result }).inc_by(0);
            }
        }
        registry.register("libvirt_connected", "Whether there is a connection to libvirt", metrics.connected.clone());
        registry.register_with_unit("libvirt_call_duration", "Calls of libvirt", Unit::Seconds, calls.durations);
        registry.register("libvirt_call_errors", "Calls of libvirt that failed", calls.errors);
        registry.register("snapshot_operations", "Snapshot operations that ended", metrics.operations.clone());
        metrics
    }

    /// Tells of the connection until it is dropped.
    pub async fn watch(self, mut connection: Connection) {
        loop {
            self.connected.set(i64::from(connection.is_up()));
            connection.changed().await;
        }
    }

    /// A snapshot was taken, restored or deleted, or that is given up.
    pub fn operation(&self, kind: Kind, outcome: &Outcome) {
        let operation = match kind {
            Kind::Take { .. } => "take",
            Kind::Restore => "restore",
            Kind::Delete => "delete",
        };
        let result = if matches!(outcome, Outcome::Failed { .. }) { "failed" } else { "succeeded" };
        self.operations.get_or_create(&Ended { operation, result }).inc();
    }
}

fn reason(class: Class) -> &'static str {
    match class {
        Class::Disconnected => "disconnected",
        Class::Timeout => "timeout",
        Class::Stale => "stale",
        Class::Busy => "busy",
        Class::NotFound => "not_found",
        Class::PoolFull => "pool_full",
        Class::PoolMissing => "pool_missing",
        Class::NetworkMissing => "network_missing",
        Class::Foreign => "foreign",
        Class::Failed => "failed",
    }
}
