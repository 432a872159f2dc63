//! The command line. Every flag has an environment variable, for pods.

use clap::{Parser, Subcommand};

use crate::{check, cluster, node};

/// Kvmoor's controllers.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Args {
    /// Namespace of Kvmoor's own objects: Leases, Secrets, the default Quota.
    #[arg(long, global = true, env = "KVMOOR_SYSTEM_NAMESPACE", default_value = "kvmoor-system")]
    pub system_namespace: String,
    /// Metrics and logs.
    #[command(flatten)]
    pub telemetry: kvmoor_telemetry::TelemetryArgs,
    /// Which controller to be.
    #[command(subcommand)]
    pub command: Command,
}

/// Which controller to be.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Ids, quota, placement, users and the liveness of hosts: one leader for the cluster, any number of replicas.
    Cluster(cluster::Args),
    /// One KVM host: makes libvirt match the virtual machines that are bound to it.
    Node(Box<node::Args>),
    /// Asks a running installation, as a user does, whether it does what it is for.
    Check(check::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Args::command().debug_assert();
    }
}
