//! `kubectl kvm`, as kubectl starts it: every word of it on a real guest.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmoor_crds::Phase;
use kvmoor_dev::checkout_root;
use kvmoor_tests::vm::{BOOT, TestVm, tiny};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::shared::Shared;

/// The folder with the plugin, built with the tests.
fn plugins() -> Result<PathBuf> {
    let folder = std::env::current_exe()?.parent().and_then(|deps| deps.parent()).context("a folder")?.to_owned();
    ensure!(folder.join("kubectl-kvm").is_file(), "build the workspace first");
    Ok(folder)
}

fn command(shared: &Shared, args: &[&str]) -> Result<Command> {
    let path = std::env::join_paths([plugins()?, "/usr/bin".into(), "/bin".into()])?;
    let account = shared.cluster.admin();
    let mut command = Command::new(shared.cluster.kubectl());
    // kubectl finds its plugins on the search path.
    command.arg("kvm").args(args).args(["-n", "plugged"]).env("PATH", path).kill_on_drop(true);
    command.env("KUBECONFIG", shared.cluster.control_plane().admin_kubeconfig());
    command.env("KVMOOR_SERVER", shared.cluster.api_url());
    command.env("KVMOOR_USERNAME", &account.username).env("KVMOOR_PASSWORD", &account.password);
    Ok(command)
}

async fn run(shared: &Shared, args: &[&str]) -> Result<String, String> {
    let output = async { anyhow::Ok(command(shared, args)?.output().await?) };
    let output = output.await.map_err(|error| format!("{error:#}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(err.into_owned()) }
}

async fn ok(shared: &Shared, args: &[&str]) -> Result<String> {
    run(shared, args).await.map_err(|error| anyhow::anyhow!("kubectl kvm {args:?}: {error}"))
}

async fn fails(shared: &Shared, args: &[&str], word: &str) -> Result<()> {
    match run(shared, args).await {
        Ok(out) => bail!("kubectl kvm {args:?} succeeds: {out}"),
        Err(error) => {
            ensure!(error.contains(word), "kubectl kvm {args:?}: {error}");
            Ok(())
        }
    }
}

fn start(shared: &Shared, args: &[&str]) -> Result<Child> {
    let mut command = command(shared, args)?;
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Reads what a process prints until `what` is there.
async fn read_until(output: &mut (impl AsyncReadExt + Unpin), what: &str, deadline: Duration) -> Result<String> {
    let mut text = String::new();
    let reading = async {
        let mut buffer = [0; 4096];
        while !text.contains(what) {
            let length = output.read(&mut buffer).await?;
            ensure!(length > 0, "the output has ended: {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        anyhow::Ok(())
    };
    let outcome = tokio::time::timeout(deadline, reading).await;
    match outcome {
        Ok(Ok(())) => Ok(text),
        Ok(Err(error)) => Err(error),
        Err(_) => bail!("{what:?} has not come, but {text:?}"),
    }
}

pub async fn every_word_of_the_plugin(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("plugged").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "web", tiny()).await?;
    vm.until_booted().await?;
    let phase = async |phase: Phase| {
        let status = vm.get().await?.status;
        ensure!(status.as_ref().and_then(|status| status.phase) == Some(phase), "{phase:?}: {status:?}");
        anyhow::Ok(())
    };
    fails(shared, &["clone", "web", "copy"], "VM is Running: stop it first").await?;
    let address = ok(shared, &["ssh-address", "web"]).await?;
    ensure!(address.trim().parse::<std::net::IpAddr>().is_ok(), "{address:?}");

    ensure!(ok(shared, &["pause", "web"]).await?.contains("web paused"));
    phase(Phase::Paused).await?;
    ensure!(ok(shared, &["start", "web"]).await?.contains("web running"));
    phase(Phase::Running).await?;
    let starts = vm.starts()?;
    ok(shared, &["restart", "web"]).await?;
    phase(Phase::Running).await?;
    ensure!(vm.starts()? == starts + 1, "it was started once more");

    ok(shared, &["snapshot", "web", "before", "--description", "a test"]).await?;
    ok(shared, &["restore", "before"]).await?;
    phase(Phase::Running).await?;

    // A viewer of the display finds a VNC server at the local port.
    let mut display = start(shared, &["vnc", "web"])?;
    let line = read_until(display.stdout.as_mut().context("its output")?, "\n", BOOT).await?;
    let local = line.trim().strip_prefix("vnc://").with_context(|| format!("{line:?}"))?.to_owned();
    let mut viewer = TcpStream::connect(&local).await?;
    let mut greeting = [0; 12];
    tokio::time::timeout(BOOT, viewer.read_exact(&mut greeting)).await??;
    ensure!(&greeting == b"RFB 003.008\n", "{greeting:?}");
    drop(viewer);
    display.kill().await?;

    // The serial console: what is typed arrives, and Ctrl-] leaves.
    let mut console = start(shared, &["console", "web"])?;
    let mut input = console.stdin.take().context("its input")?;
    let mut output = console.stdout.take().context("its output")?;
    let begin = std::time::Instant::now();
    loop {
        input.write_all(b"echo typed-$((40+2))\n").await?;
        match read_until(&mut output, "typed-42", Duration::from_secs(5)).await {
            Ok(_) => break,
            Err(error) => ensure!(begin.elapsed() < BOOT, "{error:#}"),
        }
    }
    input.write_all(b"\x1d").await?;
    let ended = tokio::time::timeout(BOOT, console.wait()).await??;
    ensure!(ended.success(), "{ended}");

    ensure!(ok(shared, &["stop", "web", "--timeout", "180"]).await?.contains("web stopped"));
    phase(Phase::Stopped).await?;
    fails(shared, &["pause", "web"], "not running").await?;
    fails(shared, &["console", "web"], "not running").await?;
    fails(shared, &["ssh-address", "web"], "no address").await?;
    fails(shared, &["start", "none-such"], "there is no virtual machine none-such").await?;
    fails(shared, &["restore", "none-such"], "there is no snapshot none-such").await?;

    fails(shared, &["clone", "web", "copy", "--snapshot", "none-such"], "there is no snapshot none-such").await?;
    fails(shared, &["clone", "none-such", "copy"], "there is no virtual machine none-such").await?;
    let cloned = ok(shared, &["clone", "web", "copy", "--snapshot", "before", "--class", "small"]).await?;
    ensure!(cloned.contains("copy running"), "{cloned}");
    let copy = TestVm::existing(&shared.cluster, &namespace, "copy").await?;
    ensure!(copy.until_booted().await? == "copy", "a guest of its own");
    ensure!(copy.get().await?.spec.class_name.as_deref() == Some("small"), "with the size of the class");
    ensure!(ok(shared, &["clone", "web", "spare", "--stopped"]).await?.contains("spare stopped"));
    copy.remove().await?;
    TestVm::existing(&shared.cluster, &namespace, "spare").await?.remove().await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// The manifest of a release, with what the bot that renders it writes for an address.
fn template() -> Result<Value> {
    let text = std::fs::read_to_string(checkout_root().join("crds/kubectl-kvm/krew.yaml"))?;
    let lines = text.lines().map(|line| match line.trim_start().starts_with("{{addURIAndSha ") {
        true => "    uri: https://example.com\n    sha256: x",
        false => line,
    });
    Ok(serde_yaml::from_str(&lines.collect::<Vec<_>>().join("\n"))?)
}

pub async fn the_manifest_of_krew_fits_the_archive(shared: &Shared) -> Result<()> {
    let folder = shared.cluster.dir().join("plugin");
    let mut archive = Command::new(checkout_root().join("crds/kubectl-kvm/archive"));
    let output = archive.arg(plugins()?.join("kubectl-kvm")).arg(&folder).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_yaml::from_str(&std::fs::read_to_string(folder.join("kvm.yaml"))?)?;
    let released = template()?;
    let platform = &made["spec"]["platforms"][0];
    let architecture = platform["selector"]["matchLabels"]["arch"].as_str().context("an architecture")?;
    let of_release = released["spec"]["platforms"].as_array().into_iter().flatten();
    let of_release: Vec<_> = of_release.filter(|other| other["selector"] == platform["selector"]).collect();
    ensure!(of_release.len() == 1, "one for {architecture}: {released}");
    for field in ["bin", "files"] {
        ensure!(platform[field] == of_release[0][field], "{field} of {made} and {released}");
    }
    for field in ["apiVersion", "kind", "metadata"] {
        ensure!(made[field] == released[field], "{field} of {made} and {released}");
    }
    let path = folder.join(format!("kubectl-kvm-linux-{architecture}.tar.gz"));
    let bytes = tokio::fs::read(&path).await?;
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(platform["sha256"] == sum.as_str(), "{made}");
    let packed = Command::new("tar").arg("-tzf").arg(&path).output().await?;
    ensure!(packed.stdout == b"kubectl-kvm\nLICENSE\n", "{packed:?}");
    Ok(())
}
