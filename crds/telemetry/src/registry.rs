//! The kinds of metrics that the parts have in common.

use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::process::Process;

/// A metric for each label set.
pub type Family<S, M> = prometheus_client::metrics::family::Family<S, M>;

/// Durations in seconds for each label set.
pub type Seconds<S> = prometheus_client::metrics::family::Family<S, Histogram, fn() -> Histogram>;

/// Bounds of their buckets: from an answer out of memory to what has passed every deadline of a request.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// No durations yet.
pub fn seconds<S: Clone + Hash + Eq>() -> Seconds<S> {
    Seconds::new_with_constructor(|| Histogram::new(BOUNDS))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    component: &'static str,
    version: &'static str,
}

/// A registry with what every process tells.
pub fn of_process(component: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process::new()));
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { component, version: env!("CARGO_PKG_VERSION") }).set(1);
    own(&mut registry).register("build_info", "The part and its version; always 1", build);
    registry
}

/// What is registered here begins with `kvmoor_`.
pub fn own(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix("kvmoor")
}
