//! Commands that see what a libvirt host sees: mounts in its own namespace.

use anyhow::{Result, ensure};
use tokio::process::Command;

/// Runs a command in the mount namespace of the process with that id.
pub async fn enter(pid: i32, command: &[&str]) -> Result<()> {
    output(pid, command).await.map(drop)
}

/// The same: what it has written to its standard output.
pub async fn output(pid: i32, command: &[&str]) -> Result<String> {
    let output =
        Command::new("nsenter").args(["--target", &pid.to_string(), "--mount", "--"]).args(command).output().await?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
