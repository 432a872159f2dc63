//! Programs that do one thing and end: `virsh`, `tar`, `go`. Always an argument vector, always a deadline.

use std::{ffi::OsStr, process::Output, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{process::Command, time::timeout};

/// Runs `program` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be executed, fails (with what it wrote to standard error) or takes longer than `deadline`.
pub async fn run<S: AsRef<OsStr>>(program: &str, args: &[S], deadline: Duration) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = output(command, deadline).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a prepared command to its end; it is killed at the deadline.
pub(crate) async fn output(mut command: Command, deadline: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = shown(&command);
    let output = timeout(deadline, command.output())
        .await
        .with_context(|| format!("`{shown}` took longer than {deadline:?}"))?
        .with_context(|| format!("run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
