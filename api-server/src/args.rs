//! Command line and environment.

use std::net::SocketAddr;

use clap::Parser;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::auth::proxies::Network;

/// Kvmoor's REST and WebSocket API.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Address to listen on.
    #[arg(long, env = "KVMOOR_LISTEN", default_value = "0.0.0.0:18443")]
    pub listen: SocketAddr,
    /// The certificate, if any.
    #[command(flatten)]
    pub tls: crate::tls::Files,
    /// Namespace of this installation: its Secrets and the default quota.
    #[arg(long, env = "KVMOOR_SYSTEM_NAMESPACE", default_value = "kvmoor-system")]
    pub system_namespace: String,
    /// Most connections at a time.
    #[arg(long, env = "KVMOOR_MAX_CONNECTIONS", default_value_t = 8192)]
    pub max_connections: usize,
    /// Origin of web pages that may open WebSockets, such as https://console.example.com, besides the server's own. Can
    /// be given more than once, or as a list with commas.
    #[arg(long = "allowed-origin", env = "KVMOOR_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Address or network (such as 10.0.0.0/8) of proxies whose X-Forwarded-For is believed. Can be given more than
    /// once, or as a list with commas.
    #[arg(long = "trusted-proxy", env = "KVMOOR_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Most WebSockets of a user at a time.
    #[arg(long, env = "KVMOOR_MAX_SOCKETS_PER_USER", default_value_t = 1024)]
    pub max_sockets_per_user: usize,
    /// The largest image file that may be uploaded.
    #[arg(long, env = "KVMOOR_LARGEST_IMAGE", default_value = "64Gi", value_parser = parse_quantity)]
    pub largest_image: u64,
    /// Seconds for which requests are still taken, each the last of its connection, after the server was told to stop.
    /// Until then everybody has heard that it is not ready any more, and nobody's request is lost.
    #[arg(long, env = "KVMOOR_DRAIN_SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=300))]
    pub drain_seconds: u16,
    /// Metrics and logs.
    #[command(flatten)]
    pub telemetry: kvmoor_telemetry::TelemetryArgs,
}

/// A quantity in bytes.
fn parse_quantity(text: &str) -> Result<u64, kvmoor_crds::quantity::QuantityError> {
    kvmoor_crds::quantity::bytes(&Quantity(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Args::command().debug_assert();
    }
}
