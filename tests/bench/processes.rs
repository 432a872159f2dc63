//! Resident memory of each process.

use anyhow::{Context, Result};
use kvmoor_dev::Cluster;

use crate::figures::Figures;

pub fn measure(cluster: &Cluster, when: &str, figures: &mut Figures) -> Result<()> {
    for process in cluster.processes() {
        let pid = process.pid().with_context(|| format!("{} runs", process.name()))?;
        let name = process.name().replace('-', "_");
        figures.add(&format!("rss_{when}_{name}"), resident(pid)? as f64 / 1024.0, "MiB");
    }
    let libvirtd = cluster.host(0)?.libvirtd()?.pid().context("libvirtd runs")?;
    figures.add(&format!("rss_{when}_libvirtd"), resident(libvirtd)? as f64 / 1024.0, "MiB");
    Ok(())
}

/// VmRSS of a process, in KiB. Source: proc_pid_status(5).
fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.split_ascii_whitespace().next().context("a number")?.parse()?)
}
