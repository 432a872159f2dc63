//! What is printed when all is up: where it is, how to get in, where to look.

use std::{env, path::Path};

use super::{first_vm::FirstVm, place::Place, place::caller, progress::say};
use crate::libvirt_host::LibvirtHost;

/// Everything there is to tell.
pub(super) struct Greeting<'a> {
    pub(super) place: &'a Place,
    pub(super) url: &'a str,
    pub(super) username: &'a str,
    /// `None` when the person at the terminal has chosen it.
    pub(super) password: Option<&'a str>,
    pub(super) kubectl: &'a Path,
    pub(super) host: &'a LibvirtHost,
    pub(super) vm: &'a FirstVm,
    /// Where each process serves its metrics.
    pub(super) metrics: Vec<(String, String)>,
}

impl Greeting<'_> {
    /// Prints it.
    pub(super) fn print(&self) {
        let Self { place, url, username, password, kubectl, host, vm, metrics } = self;
        let FirstVm { namespace, name, uid, address } = vm;
        say("\nKvmoor is ready.\n");
        line("API", format_args!("{url}/api"));
        line("Swagger UI", format_args!("{url}/swagger"));
        match password {
            Some(password) => {
                line("login", format_args!("{username} / {password}   (kept in {})", place.password().display()));
            }
            None => line("login", format_args!("{username} / the password in KVMOOR_ADMIN_PASSWORD")),
        }
        match address {
            Some(address) => line("first VM", format_args!("{name} in {namespace}: curl http://{address}/")),
            None => line("first VM", format_args!("{name} in {namespace}, which was stopped and stays so")),
        }
        line("kubectl", format_args!("export KUBECONFIG={}", place.kubeconfig().display()));
        line("", format_args!("{} get kvm -A", kubectl.display()));
        for (index, (process, url)) in metrics.iter().enumerate() {
            line(if index == 0 { "metrics" } else { "" }, format_args!("{url}/metrics   ({process})"));
        }
        // The socket of a private host is root's.
        let sudo = if caller().is_some() { "sudo " } else { "" };
        line("virsh", format_args!("{sudo}virsh -c \"$(cat {})\" list", place.libvirt_uri().display()));
        if let Some(log) = host.log_dir() {
            let serial = log.join("qemu").join(format!("kvmoor-{uid}-serial.log"));
            line("console", format_args!("{sudo}tail -f {}", serial.display()));
        }
        let whose = if sudo.is_empty() { "" } else { "   (root's)" };
        line("logs", format_args!("{}{whose}", place.logs().display()));
        say("\nCtrl-C ends it; the virtual machines' disks and all objects are kept for the next start.");
    }
}

fn line(label: &str, text: impl std::fmt::Display) {
    say(format_args!("  {label:<11} {text}"));
}

/// Whether the machine has a program of this name in the search path.
pub(super) fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
