//! Runs the programs that build the image.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// Long enough for a download of 80 MB over a slow line.
const DEADLINE: Duration = Duration::from_secs(900);

/// Runs `program` in `directory` and returns what it wrote to its standard output.
///
/// # Errors
///
/// When the program is missing, fails (the error holds what it wrote to its standard error) or exceeds the deadline.
pub(crate) async fn run<S: AsRef<OsStr>>(
    program: impl AsRef<Path>,
    args: &[S],
    directory: &Path,
) -> anyhow::Result<Vec<u8>> {
    let program = program.as_ref();
    let Output { status, stdout, stderr } = output(program, args, directory).await?;
    if !status.success() {
        let program = program.display();
        bail!("{program} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(stdout)
}

/// Runs `program` in `directory` to its end, whatever its exit status.
///
/// # Errors
///
/// When the program is missing or exceeds the deadline.
pub(crate) async fn output<S: AsRef<OsStr>>(
    program: impl AsRef<Path>,
    args: &[S],
    directory: &Path,
) -> anyhow::Result<Output> {
    let program = program.as_ref();
    let mut command = Command::new(program);
    // Messages are shown to people and field names are parsed: both want the untranslated form.
    command.args(args).current_dir(directory).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(DEADLINE, command.output())
        .await
        .with_context(|| format!("{} did not end within {} s", program.display(), DEADLINE.as_secs()))?
        .with_context(|| format!("cannot run {} (packages needed: {})", program.display(), super::PACKAGES.join(", ")))
}
