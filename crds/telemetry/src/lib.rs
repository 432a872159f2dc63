//! What Kvmoor's processes tell of themselves: logs on standard error, and metrics and health on an address of their own.
//!
//! The metrics are kept with `prometheus-client`, the library of the Prometheus project itself: label sets are types, so
//! that a label cannot be misspelt nor take a value that nobody thought of, and a registry is a value, so that tests have
//! their own. The `metrics` facade would have global state and strings instead. Names follow the conventions of
//! Prometheus; `docs/metrics.md` has them all, and a test compares it with what is served.

mod kubernetes;
mod log;
mod process;
mod registry;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use kube::Client;
use kvmoor_crds::client::{self, ConnectError};
use prometheus_client::registry::Registry;

pub use crate::log::{LogError, LogFormat};
pub use crate::registry::{Family, Seconds, seconds};
pub use crate::server::BindError;

use crate::kubernetes::Calls;
use crate::server::Listener;

/// Where metrics and health are served unless told otherwise.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 18446);

/// What every process takes on its command line.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct TelemetryArgs {
    /// Address for Prometheus and for probes, over plain HTTP: /metrics, /livez and /readyz. Nothing secret is told
    /// there, but it is not meant for users.
    #[arg(long, global = true, env = "KVMOOR_METRICS_ADDRESS", default_value_t = DEFAULT_ADDRESS)]
    pub metrics_address: SocketAddr,
    /// Format of the log on standard error. RUST_LOG says what is logged.
    #[arg(long, global = true, env = "KVMOOR_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The metrics and the health of this process.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    kubernetes: Arc<Calls>,
    listener: Listener,
}

impl Telemetry {
    /// Begins to listen; nothing is answered before [`Self::serve`].
    ///
    /// # Errors
    /// When the address is taken or not one of this machine.
    pub async fn listen(component: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let mut registry = registry::of_process(component);
        let kubernetes = Calls::register(registry::own(&mut registry));
        Ok(Self { registry, kubernetes, listener: Listener::bind(address).await? })
    }

    /// A client of the Kubernetes API whose calls are counted.
    ///
    /// # Errors
    /// When nothing says how to reach it.
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        client::connect_observed(client::DEADLINE, self.kubernetes.clone()).await
    }

    /// Where metrics are registered; `kvmoor_` is put before their names.
    pub fn registry(&mut self) -> &mut Registry {
        registry::own(&mut self.registry)
    }

    /// Answers until it is dropped. The process is ready when the Kubernetes API answers and `ready` says so.
    pub fn serve(self, ready: impl Fn() -> bool + Send + Sync + 'static) -> impl Future<Output = ()> + Send {
        let Self { registry, kubernetes, listener } = self;
        listener.serve(registry, move || kubernetes.is_connected() && ready())
    }
}
