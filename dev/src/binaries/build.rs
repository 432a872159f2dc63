//! Building a program from the source that the Go module proxy serves, in a throw-away module.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tokio::process::Command;

use super::source::Release;
use crate::{files, process};

/// kube-apiserver takes 7 minutes on 2 cores; slower machines exist.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
const REPORT: Duration = Duration::from_secs(15);

/// Builds `program` of `release` to `path`.
pub(super) async fn build(release: &Release, program: &str, path: &Path, cache: &Path) -> Result<()> {
    let package = release.package_of(program);
    let module = ThrowAway::new(cache, program)?;
    tracing::info!("fetching the source of {} {}", release.module, release.version);
    let replace = replacements(release, &module.dir).await.context("read the module's own go.mod")?;
    fs::write(module.dir.join("go.mod"), go_mod(release, &replace))?;
    let part = path.with_extension("part");
    let mut command = go(&module.dir);
    command.args(["build", "-trimpath", "-ldflags", release.ldflags, "-o"]).arg(&part).arg(&package);
    tracing::info!(
        "building {program} {} (kube-apiserver: about 7 minutes on 2 cores, the others less)",
        release.version
    );
    with_reports(program, process::output(command, DEADLINE)).await?;
    fs::rename(&part, path).with_context(|| format!("rename to {}", path.display()))
}

async fn with_reports<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let mut report = tokio::time::interval(REPORT);
    report.tick().await;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                if done.is_ok() {
                    tracing::info!("  {what} is built, {} s", start.elapsed().as_secs());
                }
                return done;
            }
            _ = report.tick() => tracing::info!("  still building {what}, {} s", start.elapsed().as_secs()),
        }
    }
}

/// A directory for a module of our own, removed afterwards.
struct ThrowAway {
    dir: PathBuf,
}

impl ThrowAway {
    fn new(cache: &Path, program: &str) -> Result<Self> {
        let dir = cache.join("build").join(format!("{program}-{}", std::process::id()));
        files::make_dir(&dir, 0o755)?;
        Ok(Self { dir })
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn go(dir: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(dir).env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0").env("GOWORK", "off");
    command
}

#[derive(Deserialize)]
struct Downloaded {
    #[serde(rename = "GoMod")]
    go_mod: PathBuf,
}

/// The `replace` lines that the release's own module has for modules of its source tree. They hold only for the main
/// module, so ours must repeat them, with the published version of each in the place of the directory.
async fn replacements(release: &Release, dir: &Path) -> Result<Vec<String>> {
    let mut command = go(dir);
    command.args(["mod", "download", "-json"]).arg(format!("{}@{}", release.module, release.version));
    let output = with_reports("fetch", process::output(command, DEADLINE))
        .await
        .context("Go (1.21 or later, from https://go.dev/dl) and a module proxy are needed")?;
    let downloaded: Downloaded = serde_json::from_slice(&output.stdout)?;
    Ok(staging_replacements(&fs::read_to_string(downloaded.go_mod)?, release.version))
}

/// `k8s.io/api => ./staging/src/k8s.io/api` becomes `k8s.io/api => k8s.io/api v0.37.2`.
fn staging_replacements(go_mod: &str, version: &str) -> Vec<String> {
    let Some(published) = version.strip_prefix("v1.").map(|rest| format!("v0.{rest}")) else { return Vec::new() };
    let line = |line: &str| {
        let (module, target) = line.trim().split_once(" => ")?;
        let module = module.trim_start_matches("replace ").trim();
        let published_as = target.strip_prefix("./staging/src/")?;
        Some(format!("{module} => {published_as} {published}"))
    };
    go_mod.lines().filter_map(line).collect()
}

fn go_mod(release: &Release, replace: &[String]) -> String {
    let lines: String = replace.iter().map(|line| format!("\t{line}\n")).collect();
    format!("module throwaway\n\ngo 1.21\n\nrequire {} {}\n\nreplace (\n{lines})\n", release.module, release.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_modules_are_taken_in_their_published_version() {
        let go_mod = "module k8s.io/kubernetes\nreplace k8s.io/one => ./staging/src/k8s.io/one\nreplace (\n\
                      \tk8s.io/api => ./staging/src/k8s.io/api\n\texample.com/x => ../x\n)\n";
        let lines = staging_replacements(go_mod, "v1.37.2");
        assert_eq!(lines, ["k8s.io/one => k8s.io/one v0.37.2", "k8s.io/api => k8s.io/api v0.37.2"]);
        assert!(staging_replacements("", "v3.7.3").is_empty());
    }
}
