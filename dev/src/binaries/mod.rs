//! The programs of Kubernetes, etcd and Helm, by the quickest way that this machine offers: `$KUBEBUILDER_ASSETS`, the cache
//! of earlier runs, the official release, or a build from source, which needs only Go and a module proxy.

mod build;
mod download;
mod source;

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
pub(crate) use source::Release;
use source::{COREDNS, ETCD, HELM, KUBERNETES};

use crate::{files, instance::Lock};

/// Another process may be building the same; that takes minutes.
const CACHE_LOCK: Duration = Duration::from_secs(30 * 60);

/// Paths of what a control plane needs.
#[derive(Clone, Debug)]
pub struct ControlPlaneBinaries {
    /// etcd 3.7.
    pub etcd: PathBuf,
    /// kube-apiserver 1.37.
    pub apiserver: PathBuf,
    /// kube-controller-manager 1.37.
    pub controller_manager: PathBuf,
    /// kubectl 1.37.
    pub kubectl: PathBuf,
}

impl ControlPlaneBinaries {
    /// Finds, downloads or builds them. Says what it does.
    ///
    /// # Errors
    /// When one is neither found nor could be downloaded or built; the message says what was tried.
    pub async fn ensure() -> Result<Self> {
        Self::ensure_in(&cache_dir()?).await
    }

    /// The same with another directory as cache.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub async fn ensure_in(cache: &Path) -> Result<Self> {
        let finder = Finder::new(cache.to_owned());
        Ok(Self {
            etcd: finder.find(&ETCD, "etcd").await?,
            apiserver: finder.find(&KUBERNETES, "kube-apiserver").await?,
            controller_manager: finder.find(&KUBERNETES, "kube-controller-manager").await?,
            kubectl: finder.find(&KUBERNETES, "kubectl").await?,
        })
    }
}

/// Paths of what a node with pods needs besides, and the scheduler that places them.
#[derive(Clone, Debug)]
pub struct NodeBinaries {
    /// kubelet 1.37.
    pub kubelet: PathBuf,
    /// kube-proxy 1.37.
    pub proxy: PathBuf,
    /// kube-scheduler 1.37.
    pub scheduler: PathBuf,
    /// CoreDNS 1.15.
    pub dns: PathBuf,
}

impl NodeBinaries {
    /// Finds, downloads or builds them. Says what it does.
    ///
    /// # Errors
    /// As [`ControlPlaneBinaries::ensure`].
    pub async fn ensure() -> Result<Self> {
        let finder = Finder::new(cache_dir()?);
        Ok(Self {
            kubelet: finder.find(&KUBERNETES, "kubelet").await?,
            proxy: finder.find(&KUBERNETES, "kube-proxy").await?,
            scheduler: finder.find(&KUBERNETES, "kube-scheduler").await?,
            dns: finder.find(&COREDNS, "coredns").await?,
        })
    }
}

/// Finds, downloads or builds etcd alone, with `cache` as the cache.
///
/// # Errors
/// As [`ControlPlaneBinaries::ensure`].
pub async fn ensure_etcd(cache: &Path) -> Result<PathBuf> {
    Finder::new(cache.to_owned()).find(&ETCD, "etcd").await
}

/// Finds, downloads or builds Helm 4.
///
/// # Errors
/// As [`ControlPlaneBinaries::ensure`].
pub async fn ensure_helm() -> Result<PathBuf> {
    Finder::new(cache_dir()?).find(&HELM, "helm").await
}

/// The cache of this user for what takes long to make: `${XDG_CACHE_HOME:-~/.cache}/kvmoor`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("kvmoor"))
}

/// Looks for programs in all places, and remembers which servers did not answer.
struct Finder {
    cache: PathBuf,
    assets: Option<PathBuf>,
    downloads: download::Downloads,
}

impl Finder {
    fn new(cache: PathBuf) -> Self {
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        Self { cache, assets, downloads: download::Downloads::default() }
    }

    async fn find(&self, release: &Release, name: &str) -> Result<PathBuf> {
        if let Some(path) = self.assets.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file()) {
            return Ok(path);
        }
        let dir = self.cache.join("bin").join(release.cache_name());
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
        files::make_dir(&dir, 0o755)?;
        let lock = dir.join(".lock");
        let _lock = tokio::task::spawn_blocking(move || Lock::take(&lock, CACHE_LOCK)).await??;
        if path.is_file() {
            return Ok(path);
        }
        let refused = match self.downloads.fetch(release, name, &path).await {
            Ok(()) => return Ok(path),
            Err(refused) => refused,
        };
        tracing::info!("{name} {} cannot be downloaded ({refused:#}), building it from source", release.version);
        build::build(release, name, &path, &self.cache).await.with_context(|| {
            format!("{name} {} was neither found nor could be downloaded or built", release.version)
        })?;
        Ok(path)
    }
}
