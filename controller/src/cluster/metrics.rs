//! What the cluster controller counts. Only the leader knows of virtual machines and hosts; in other replicas they are 0.

use kvmoor_crds::Phase;
use kvmoor_telemetry::Family;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::vms::Liveness;
use crate::metrics::Reconciles;

const PHASES: [Phase; 11] = [
    Phase::Pending,
    Phase::Provisioning,
    Phase::Starting,
    Phase::Running,
    Phase::Paused,
    Phase::Stopping,
    Phase::Stopped,
    Phase::Restoring,
    Phase::Deleting,
    Phase::Error,
    Phase::Unknown,
];
const LIVENESSES: [Liveness; 3] = [Liveness::Live, Liveness::Doubtful, Liveness::Lost];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

/// What the cluster controller counts. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Whether this replica leads.
    pub leader: Gauge,
    /// Reconciles, of the loop that a [`super::writer::Writer`] belongs to.
    pub reconciles: Reconciles,
    vms: Family<InPhase, Gauge>,
    hosts: Family<InState, Gauge>,
}

impl Metrics {
    /// Counts from now on, in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            leader: Gauge::default(),
            reconciles: Reconciles::register(registry, "ids"),
            vms: Family::default(),
            hosts: Family::default(),
        };
        metrics.count_vms([]);
        metrics.count_hosts([]);
        registry.register("leader", "Whether this replica leads", metrics.leader.clone());
        registry.register("virtual_machines", "Virtual machines by phase, told by the leader", metrics.vms.clone());
        registry.register(
            "hosts",
            "Hosts by whether their node controller renews its Lease, told by the leader",
            metrics.hosts.clone(),
        );
        metrics
    }

    /// All virtual machines. One that has no phase yet is pending.
    pub fn count_vms(&self, phases: impl IntoIterator<Item = Option<Phase>>) {
        let mut counts = PHASES.map(|_| 0_i64);
        for phase in phases {
            let phase = phase.unwrap_or(Phase::Pending);
            if let Some((count, _)) = counts.iter_mut().zip(PHASES).find(|(_, known)| *known == phase) {
                *count = count.saturating_add(1);
            }
        }
        for (count, phase) in counts.into_iter().zip(PHASES) {
            self.vms.get_or_create(&InPhase { phase: phase.as_str() }).set(count);
        }
    }

    /// All hosts.
    pub fn count_hosts(&self, livenesses: impl IntoIterator<Item = Liveness>) {
        let mut counts = LIVENESSES.map(|_| 0_i64);
        for liveness in livenesses {
            if let Some((count, _)) = counts.iter_mut().zip(LIVENESSES).find(|(_, known)| *known == liveness) {
                *count = count.saturating_add(1);
            }
        }
        for (count, liveness) in counts.into_iter().zip(LIVENESSES) {
            let state = match liveness {
                Liveness::Live => "live",
                Liveness::Doubtful => "doubtful",
                Liveness::Lost => "lost",
            };
            self.hosts.get_or_create(&InState { state }).set(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text::encode;

    use super::*;

    #[test]
    fn each_count_is_of_now() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.count_vms([Some(Phase::Running), Some(Phase::Running), None]);
        metrics.count_vms([Some(Phase::Running), Some(Phase::Unknown)]);
        metrics.count_hosts([Liveness::Lost, Liveness::Live]);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"virtual_machines{phase="Running"} 1"#,
            r#"virtual_machines{phase="Unknown"} 1"#,
            r#"virtual_machines{phase="Pending"} 0"#,
            r#"hosts{state="lost"} 1"#,
            r#"hosts{state="doubtful"} 0"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
