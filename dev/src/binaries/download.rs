//! Official releases, with their checksums. A server that cannot be reached is asked once and within seconds: the build
//! from source is the next way.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::source::{Download, Release, architecture};
use crate::{process::run, tls};

const CONNECT: Duration = Duration::from_secs(5);
/// A server that sends nothing for this long is given up.
const STALL: Duration = Duration::from_secs(20);
const REPORT: Duration = Duration::from_secs(15);
const UNPACK: Duration = Duration::from_secs(120);

#[derive(Default)]
pub(super) struct Downloads {
    unreachable: Mutex<BTreeSet<&'static str>>,
}

impl Downloads {
    /// Downloads `name` of `release` to `path`; nothing stands at `path` unless its checksum was right.
    pub(super) async fn fetch(&self, release: &Release, name: &str, path: &Path) -> Result<()> {
        let server = match release.download {
            Download::KubernetesFiles => "https://dl.k8s.io",
            Download::EtcdArchive | Download::CoreDnsArchive => "https://github.com",
            Download::HelmArchive => "https://get.helm.sh",
        };
        if self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).contains(server) {
            bail!("{server} did not answer before");
        }
        tls::install_provider();
        let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(STALL).build()?;
        let fetched = match release.download {
            Download::KubernetesFiles => kubernetes_file(&client, server, release, name, path).await,
            Download::EtcdArchive => archive(&client, &etcd_archive(server, release, name), path).await,
            Download::HelmArchive => archive(&client, &helm_archive(server, release, name), path).await,
            Download::CoreDnsArchive => archive(&client, &coredns_archive(server, release, name), path).await,
        };
        if fetched.is_err() {
            self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).insert(server);
        }
        fetched
    }
}

async fn kubernetes_file(
    client: &reqwest::Client,
    server: &str,
    release: &Release,
    name: &str,
    path: &Path,
) -> Result<()> {
    let url = format!("{server}/{}/bin/linux/{}/{name}", release.version, architecture());
    let sum = text(client, &format!("{url}.sha256")).await?;
    let part = path.with_extension("part");
    download(client, &url, sum.trim(), &part).await?;
    install(&part, path)
}

/// An archive with one program in it that is wanted.
struct Archive {
    url: String,
    sums: String,
    /// The archive's name in the list of checksums.
    file: String,
    /// The program's path in the archive.
    member: String,
}

fn etcd_archive(server: &str, release: &Release, name: &str) -> Archive {
    let base = format!("{server}/etcd-io/etcd/releases/download/{}", release.version);
    let stem = format!("etcd-{}-linux-{}", release.version, architecture());
    let file = format!("{stem}.tar.gz");
    Archive {
        url: format!("{base}/{file}"),
        sums: format!("{base}/SHA256SUMS"),
        file,
        member: format!("{stem}/{name}"),
    }
}

fn helm_archive(server: &str, release: &Release, name: &str) -> Archive {
    let file = format!("helm-{}-linux-{}.tar.gz", release.version, architecture());
    let url = format!("{server}/{file}");
    Archive { sums: format!("{url}.sha256sum"), url, file, member: format!("linux-{}/{name}", architecture()) }
}

fn coredns_archive(server: &str, release: &Release, name: &str) -> Archive {
    let Release { version, .. } = release;
    let file = format!("coredns_{}_linux_{}.tgz", version.trim_start_matches('v'), architecture());
    let url = format!("{server}/coredns/coredns/releases/download/{version}/{file}");
    Archive { sums: format!("{url}.sha256"), url, file, member: name.to_owned() }
}

async fn archive(client: &reqwest::Client, archive: &Archive, path: &Path) -> Result<()> {
    let sums = text(client, &archive.sums).await?;
    let sum = sum_of(&sums, &archive.file).context("the list of checksums does not name the archive")?;
    let packed = path.with_extension("tar.gz.part");
    download(client, &archive.url, sum, &packed).await?;
    let part = path.with_extension("part");
    let dir = path.parent().context("the cache has no parent")?;
    let words = ["-xzf", &packed.to_string_lossy(), "-C", &dir.to_string_lossy(), &archive.member].map(str::to_owned);
    run("tar", &words, UNPACK).await?;
    let unpacked = dir.join(&archive.member);
    fs::rename(&unpacked, &part)?;
    // It is in a folder of its own, or in none.
    if let Some(folder) = unpacked.parent().filter(|folder| *folder != dir) {
        fs::remove_dir(folder)?;
    }
    fs::remove_file(&packed)?;
    install(&part, path)
}

/// The checksum of `file` in the output format of `sha256sum`.
fn sum_of<'s>(sums: &'s str, file: &str) -> Option<&'s str> {
    let entry = |line: &'s str| line.split_once(char::is_whitespace);
    sums.lines().filter_map(entry).find(|(_, name)| name.trim_start_matches([' ', '*']) == file).map(|(sum, _)| sum)
}

fn install(part: &Path, path: &Path) -> Result<()> {
    fs::set_permissions(part, fs::Permissions::from_mode(0o755))?;
    fs::rename(part, path).with_context(|| format!("rename to {}", path.display()))
}

async fn text(client: &reqwest::Client, url: &str) -> Result<String> {
    let answer = client.get(url).timeout(STALL).send().await?.error_for_status()?;
    Ok(answer.text().await?)
}

async fn download(client: &reqwest::Client, url: &str, sum: &str, part: &Path) -> Result<()> {
    let start = Instant::now();
    let mut reported = start;
    let mut answer = client.get(url).send().await?.error_for_status()?;
    let total = answer.content_length().unwrap_or_default() >> 20;
    tracing::info!("downloading {url} ({total} MiB)");
    let mut file = File::create(part).with_context(|| format!("create {}", part.display()))?;
    let mut hash = Sha256::new();
    let mut received = 0;
    while let Some(chunk) = answer.chunk().await? {
        file.write_all(&chunk)?;
        hash.update(&chunk);
        received += chunk.len();
        if reported.elapsed() > REPORT {
            reported = Instant::now();
            tracing::info!("  {} of {total} MiB after {} s", received >> 20, start.elapsed().as_secs());
        }
    }
    let actual: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if actual != sum {
        fs::remove_file(part)?;
        bail!("{url} has the checksum {actual}, not {sum}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_found_by_the_whole_name() {
        let sums = "aa  etcd-v1-linux-amd64.tar.gz.asc\nbb  etcd-v1-linux-amd64.tar.gz\ncc *other\n";
        assert_eq!(sum_of(sums, "etcd-v1-linux-amd64.tar.gz"), Some("bb"));
        assert_eq!(sum_of(sums, "other"), Some("cc"));
        assert_eq!(sum_of(sums, "linux-amd64.tar.gz"), None);
    }
}
