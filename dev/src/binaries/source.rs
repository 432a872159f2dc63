//! Which releases are used and where they come from.

/// A release of a project written in Go.
#[derive(Debug)]
pub(crate) struct Release {
    /// The project's name, for the cache.
    pub(super) project: &'static str,
    /// The version, with its `v`.
    pub(crate) version: &'static str,
    /// The Go module that holds the programs.
    pub(super) module: &'static str,
    /// The package of each program, below the module: `{}` is the program's name.
    pub(super) package: &'static str,
    /// What to give to the linker, so that the program knows its version.
    pub(super) ldflags: &'static str,
    /// How the official release is laid out.
    pub(super) download: Download,
}

/// The layout of an official release.
#[derive(Debug)]
pub(super) enum Download {
    /// Single files `dl.k8s.io/VERSION/bin/linux/ARCH/NAME`, each with a `.sha256` beside it.
    KubernetesFiles,
    /// An archive on GitHub with a file `SHA256SUMS` beside it.
    EtcdArchive,
    /// An archive `get.helm.sh/helm-VERSION-linux-ARCH.tar.gz` with a `.sha256sum` beside it.
    HelmArchive,
    /// An archive on GitHub with a `.sha256` beside it.
    CoreDnsArchive,
}

pub(super) const KUBERNETES: Release = Release {
    project: "kubernetes",
    version: "v1.37.2",
    module: "k8s.io/kubernetes",
    package: "cmd/{}",
    ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2",
    download: Download::KubernetesFiles,
};

pub(super) const ETCD: Release = Release {
    project: "etcd",
    version: "v3.7.3",
    module: "go.etcd.io/etcd/server/v3",
    package: "",
    ldflags: "-s -w",
    download: Download::EtcdArchive,
};

pub(super) const HELM: Release = Release {
    project: "helm",
    version: "v4.3.1",
    module: "helm.sh/helm/v4",
    package: "cmd/{}",
    ldflags: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
    download: Download::HelmArchive,
};

pub(super) const COREDNS: Release = Release {
    project: "coredns",
    version: "v1.15.0",
    module: "github.com/coredns/coredns",
    package: "",
    ldflags: "-s -w",
    download: Download::CoreDnsArchive,
};

impl Release {
    pub(super) fn cache_name(&self) -> String {
        format!("{}-{}", self.project, self.version)
    }

    pub(super) fn package_of(&self, program: &str) -> String {
        let package = self.package.replace("{}", program);
        if package.is_empty() { self.module.to_owned() } else { format!("{}/{package}", self.module) }
    }
}

/// The machine's architecture, as Go names it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
