//! libvirt's own command line, for what a cluster's set-up and a test's checks need of libvirt.

use std::time::Duration;

use anyhow::Result;

use crate::process::run;

const DEADLINE: Duration = Duration::from_secs(120);

/// `virsh` on one connection.
#[derive(Clone, Debug)]
pub struct Virsh {
    uri: String,
}

impl Virsh {
    /// Commands to the libvirt at `uri`.
    pub fn new(uri: impl Into<String>) -> Self {
        Self { uri: uri.into() }
    }

    /// Runs `virsh ARGS` and returns what it printed.
    ///
    /// # Errors
    /// When the command fails, with what it wrote to standard error, or takes longer than two minutes.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let mut words = vec!["--connect", self.uri.as_str(), "--quiet"];
        words.extend_from_slice(args);
        run("virsh", &words, DEADLINE).await
    }

    /// Names of all domains, running or not.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn domains(&self) -> Result<Vec<String>> {
        self.names(&["list", "--all", "--name"]).await
    }

    /// Names of the running domains.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn running_domains(&self) -> Result<Vec<String>> {
        self.names(&["list", "--name"]).await
    }

    /// Names of the volumes in a storage pool.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn volumes(&self, pool: &str) -> Result<Vec<String>> {
        let table = self.run(&["vol-list", pool]).await?;
        let first = |line: &str| line.split_ascii_whitespace().next().map(str::to_owned);
        Ok(table.lines().filter_map(first).filter(|name| name != "Name" && !name.starts_with("---")).collect())
    }

    async fn names(&self, args: &[&str]) -> Result<Vec<String>> {
        let names = self.run(args).await?;
        Ok(names.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}
