//! What both controllers count of their reconciles. `docs/metrics.md` says what each metric means.

use std::time::Instant;

use kvmoor_telemetry::{Family, Seconds, seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    controller: &'static str,
    reason: &'static str,
}

/// The reconciles of one controller. Clones count together.
#[derive(Debug, Clone)]
pub struct Reconciles {
    controller: &'static str,
    durations: Seconds<Controller>,
    errors: Family<Failed, Counter>,
}

impl Reconciles {
    /// Counts from now on, in `registry`, for `controller` until [`Self::of`] says otherwise.
    pub fn register(registry: &mut Registry, controller: &'static str) -> Self {
        let reconciles = Self { controller, durations: seconds(), errors: Family::default() };
        registry.register_with_unit(
            "reconcile_duration",
            "Time that one look at what is wanted and what is took, with what followed from it",
            Unit::Seconds,
            reconciles.durations.clone(),
        );
        registry.register("reconcile_errors", "What went wrong in reconciles", reconciles.errors.clone());
        reconciles
    }

    /// The reconciles of another controller of the same process.
    pub fn of(&self, controller: &'static str) -> Self {
        Self { controller, ..self.clone() }
    }

    /// These may go wrong, and are told as 0 until they do, so that the first time shows as an increase.
    pub fn expect(&self, reasons: &[&'static str]) {
        for reason in reasons {
            self.errors.get_or_create(&Failed { controller: self.controller, reason }).inc_by(0);
        }
    }

    /// Does one reconcile.
    pub async fn time<T>(&self, reconcile: impl Future<Output = T>) -> T {
        let begin = Instant::now();
        let outcome = reconcile.await;
        let labels = Controller { controller: self.controller };
        self.durations.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
        outcome
    }

    /// Something went wrong.
    pub fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&Failed { controller: self.controller, reason }).inc();
    }
}
