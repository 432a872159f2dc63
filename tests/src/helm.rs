//! Running Helm on the chart of this checkout.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use kvmoor_dev::{binaries, checkout_root};
use serde::Deserialize as _;
use serde_json::Value;

/// The release that the tests install.
pub const RELEASE: &str = "kvmoor";

/// Helm, perhaps with a cluster.
#[derive(Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Helm {
    /// Helm without a cluster.
    pub async fn find() -> Result<Self> {
        let program = binaries::ensure_helm().await?;
        Ok(Self { program, kubeconfig: "/dev/null".into(), namespace: kvmoor_dev::SYSTEM_NAMESPACE.to_owned() })
    }

    /// The same on a cluster.
    #[must_use]
    pub fn on(mut self, kubeconfig: &Path) -> Self {
        self.kubeconfig = kubeconfig.to_owned();
        self
    }

    /// The same for another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// Runs it; `{chart}` in the words is the chart's folder.
    pub fn try_run(&self, words: &[&str]) -> Result<Output> {
        let chart = chart();
        let words = words.iter().map(|word| word.replace("{chart}", &chart.to_string_lossy()));
        let mut command = Command::new(&self.program);
        command.args(words).args(["--namespace", &self.namespace]).env("KUBECONFIG", &self.kubeconfig);
        command.output().context("run helm")
    }

    /// Runs it and answers what it prints; it must succeed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.try_run(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {said}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The objects that the chart renders to with these further words.
    pub fn template(&self, words: &[&str]) -> Result<Vec<Value>> {
        let all = [&["template", RELEASE, "{chart}"], words].concat();
        documents(&self.run(&all)?)
    }
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    checkout_root().join("charts/kvmoor")
}

/// The values files of the chart's folder `ci`: the ways to install it that are tested.
pub fn values_files() -> Result<Vec<PathBuf>> {
    let dir = chart().join("ci");
    let mut files: Vec<_> = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    ensure!(!files.is_empty(), "{} has no values", dir.display());
    Ok(files)
}

/// The YAML documents of a text.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}
