//! `kvmoor-dev cluster up`: starts `serve` as a process of its own and shows what it says until it is ready.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::sleep;

use super::Spot;
use crate::{command::progress::say, instance, process::ProcessId};

const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn up(spot: &Spot) -> Result<()> {
    if let Some(owner) = instance::owner(spot.place.dir())? {
        say(format_args!("a cluster runs in {} already (process {})", spot.place.dir().display(), owner.pid));
        say(format_args!("  export KUBECONFIG={}", spot.place.kubeconfig().display()));
        return Ok(());
    }
    spot.place.make()?;
    spot.place.unset_ready()?;
    let output = spot.output();
    let write = OpenOptions::new().create(true).truncate(true).write(true).open(&output);
    let write = write.with_context(|| format!("write {}", output.display()))?;
    let mut child = start(spot, write)?;
    let mut shown = File::open(&output)?;
    loop {
        let ended = child.try_wait()?;
        show(&mut shown)?;
        if let Some(status) = ended {
            bail!("the cluster did not come up ({status}); its logs are in {}", spot.place.logs().display());
        }
        if spot.place.read_ready().is_some() {
            show(&mut shown)?;
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// In a session of its own: it is not to end with this terminal.
fn start(spot: &Spot, output: File) -> Result<Child> {
    let program = env::current_exe().context("find the running program")?;
    let dev = spot.place.dir().parent().context("the cluster's directory has a parent")?;
    let mut command = Command::new(program);
    command.arg("--dir").arg(dev).args(["cluster", "serve"]);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // SAFETY: between fork and exec only a system call is made.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
    let child = command.spawn().context("start the cluster")?;
    tracing::debug!("process {:?}", ProcessId::of(child.id().cast_signed()));
    Ok(child)
}

/// Shows what was written since the last time.
fn show(file: &mut File) -> Result<()> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}
