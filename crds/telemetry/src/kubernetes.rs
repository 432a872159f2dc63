//! Calls of the Kubernetes API.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use kvmoor_crds::client::Observer;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::registry::{Family, Seconds, seconds};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
}

/// How calls of the Kubernetes API end.
#[derive(Debug, Clone)]
pub struct Calls {
    connected: Gauge,
    requests: Family<Answered, Counter>,
    durations: Seconds<Asked>,
}

impl Calls {
    /// Counts from now on, in `registry`.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let calls = Self { connected: Gauge::default(), requests: Family::default(), durations: seconds() };
        registry.register(
            "kubernetes_connected",
            "Whether the Kubernetes API has answered the last call, with whatever but a failure of its own",
            calls.connected.clone(),
        );
        registry.register(
            "kubernetes_requests",
            "Calls of the Kubernetes API; code is `none` where no answer came",
            calls.requests.clone(),
        );
        registry.register_with_unit(
            "kubernetes_request_duration",
            "Time until the head of the answer of the Kubernetes API",
            Unit::Seconds,
            calls.durations.clone(),
        );
        Arc::new(calls)
    }

    /// Whether the last call was answered. Watches and Leases are renewed all the time, so the last one was lately.
    pub fn is_connected(&self) -> bool {
        self.connected.get() == 1
    }
}

impl Observer for Calls {
    fn called(&self, method: &Method, answer: Option<StatusCode>, took: Duration) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let code = answer.map_or_else(|| "none".to_owned(), |code| code.as_str().to_owned());
        self.connected.set(i64::from(answer.is_some_and(|code| !code.is_server_error())));
        self.requests.get_or_create(&Answered { method, code }).inc();
        self.durations.get_or_create(&Asked { method }).observe(took.as_secs_f64());
    }
}
