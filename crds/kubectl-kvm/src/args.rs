//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Virtual machines of Kvmoor.
#[derive(Debug, Parser)]
#[command(name = "kubectl-kvm", bin_name = "kubectl kvm", version)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, and which namespace of it; as with kubectl.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Namespace of the virtual machine; that of the context where it is missing.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig, instead of KUBECONFIG and ~/.kube/config.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Power on, or let a paused one go on.
    Start(Target),
    /// Ask the guest to shut down; turn it off when its grace period is over.
    Stop(Target),
    /// Shut down, then power on with the present spec.
    Restart(Target),
    /// Halt the CPUs.
    Pause(Target),
    /// Take a snapshot, of a running one with its memory.
    Snapshot(SnapshotArgs),
    /// Bring a virtual machine back to a snapshot.
    Restore(RestoreArgs),
    /// Make a virtual machine whose disks begin as copies of those of one that is off.
    Clone(CloneArgs),
    /// Open a local port for a VNC viewer.
    Vnc {
        /// Name of the virtual machine.
        vm: String,
        /// Where to listen; port 0 is any that is free.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// How to reach Kvmoor.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Open its serial console; Ctrl-] leaves it.
    Console {
        /// Name of the virtual machine.
        vm: String,
        /// How to reach Kvmoor.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Print the address to connect to, as in: ssh root@$(kubectl kvm ssh-address web)
    SshAddress {
        /// Name of the virtual machine.
        vm: String,
    },
}

/// A virtual machine, and how long to wait for it.
#[derive(Debug, Args)]
pub struct Target {
    /// Name of the virtual machine.
    pub vm: String,
    /// How long to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// How long to wait until it is done.
#[derive(Debug, Args)]
pub struct Wait {
    /// Do not wait until it is done.
    #[arg(long)]
    pub no_wait: bool,
    /// Seconds to wait.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// A snapshot to take.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Name of the virtual machine.
    pub vm: String,
    /// Name of the snapshot; one is made up where it is missing.
    pub name: Option<String>,
    /// What it is for.
    #[arg(long)]
    pub description: Option<String>,
    /// Leave the memory out: a restore starts the guest anew.
    #[arg(long)]
    pub without_memory: bool,
    /// How long to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// A snapshot to come back to.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Name of the snapshot.
    pub snapshot: String,
    /// How long to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// A clone to make.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// Name of the virtual machine to copy.
    pub vm: String,
    /// Name of the clone.
    pub name: String,
    /// One of its snapshots: the disks are as they were then.
    #[arg(long)]
    pub snapshot: Option<String>,
    /// The clone's size, instead of its source's: a VirtualMachineClass.
    #[arg(long)]
    pub class: Option<String>,
    /// Do not start it.
    #[arg(long)]
    pub stopped: bool,
    /// How long to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// Kvmoor's API server, and who one is there.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Where Kvmoor's API is, such as https://kvmoor.example.com
    #[arg(long, env = "KVMOOR_SERVER")]
    pub server: String,
    /// Token of a session, as a login gives it.
    #[arg(long, env = "KVMOOR_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Name to log in with where there is no token.
    #[arg(long, env = "KVMOOR_USERNAME")]
    pub username: Option<String>,
    /// The password. There is no option for it: others can read command lines.
    #[arg(skip = std::env::var("KVMOOR_PASSWORD").ok())]
    pub password: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["kubectl-kvm", "stop", "web", "-n", "mine", "--no-wait"]).unwrap();
        assert_eq!(cli.cluster.namespace.as_deref(), Some("mine"));
        assert!(matches!(cli.command, Command::Stop(Target { vm, wait }) if vm == "web" && wait.no_wait));
    }
}
