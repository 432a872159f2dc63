//! What the cases share: the cluster, and sessions of its users.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kvmoor_dev::Cluster;
use kvmoor_dev::process::Managed;
use kvmoor_tests::rest::{self, Rest};
use kvmoor_tests::secrets;
use tokio::task::JoinHandle;

use crate::Case;

/// No case may take longer, not even with many crashes of a guest that boots in software, on a busy machine.
const CASE_DEADLINE: Duration = Duration::from_secs(1200);

/// How long a process may take to end at the end.
const STOP: Duration = Duration::from_secs(15);

/// The cluster and sessions of its users.
pub struct Shared {
    pub cluster: Cluster,
    /// A session of the first admin.
    pub admin: Rest,
    /// Takes note of the cluster's Secrets.
    secrets: JoinHandle<()>,
}

impl Shared {
    /// Starts the cluster.
    pub async fn start() -> Result<Self> {
        // kube logs each answer that is not a success; here the cases judge them.
        tracing_subscriber::fmt().with_env_filter("warn,kube_client=off").with_writer(std::io::stderr).init();
        let cluster = Cluster::builder().hosts(1).env("KVMOOR_LARGEST_IMAGE", "64Mi").start().await?;
        secrets::made("the first admin's password", cluster.admin().password.as_bytes());
        let secrets = secrets::follow(cluster.client().await?);
        let admin = rest::admin(&cluster).await?;
        Ok(Self { cluster, admin, secrets })
    }

    /// Takes the cluster down, and looks for secrets in what all of its parts have logged until then.
    pub async fn stop(self) -> Result<()> {
        for process in self.cluster.processes() {
            process.stop(STOP).await;
        }
        self.secrets.abort();
        let clean = self.no_secret_in_any_log();
        self.cluster.stop().await.and(clean)
    }

    fn no_secret_in_any_log(&self) -> Result<()> {
        let search = secrets::search(self.cluster.dir())?;
        for process in self.cluster.processes() {
            let log = process.log();
            ensure!(
                search.files.contains(&log) && std::fs::metadata(&log)?.len() > 0,
                "{} logs nothing",
                process.name()
            );
        }
        let (files, mebibytes) = (search.files.len(), search.bytes >> 20);
        println!("{} forms of secrets looked for in {files} logs, {mebibytes} MiB", search.secrets);
        ensure!(search.leaks.is_empty(), "secrets in logs: {:#?}", search.leaks);
        Ok(())
    }

    /// Runs a case, then makes sure that all of Kvmoor's processes run for the next one.
    pub async fn run(&self, case: Case) -> Result<()> {
        let lengths: Vec<usize> = self.logs().map(|(_, log)| log.len()).collect();
        let result = tokio::time::timeout(CASE_DEADLINE, case(self)).await.context("the case takes too long");
        let result = result.and_then(|result| result);
        if result.is_err() {
            self.print_logs(&lengths);
        }
        let healed = self.heal().await;
        result.and(healed)
    }

    async fn heal(&self) -> Result<()> {
        let mut all_run = true;
        for process in self.cluster.processes() {
            process.set_env("KVMOOR_CRASH_AFTER", None);
            all_run &= process.pid().is_some();
        }
        if all_run { self.cluster.wait_ready().await } else { self.cluster.start_components().await }
    }

    /// A client without a session.
    pub fn anonymous(&self) -> Result<Rest> {
        Rest::new(&self.cluster.api_url())
    }

    /// A namespace of its own for a case; [`Self::drop_namespace`] removes it.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        let api: Api<Namespace> = Api::all(self.cluster.client().await?);
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        api.create(&PostParams::default(), &namespace).await?;
        Ok(name.to_owned())
    }

    /// Deletes a case's namespace.
    pub async fn drop_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client().await?);
        api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// An approved user with that name, and a session of it.
    pub async fn user(&self, name: &str) -> Result<Rest> {
        let password = format!("password of {name}");
        let body = serde_json::json!({ "username": name, "password": password, "role": "user" });
        self.admin.post("/api/admin/users", body).await?;
        self.anonymous()?.login(name, &password).await
    }

    /// What every process has logged, by its name.
    fn logs(&self) -> impl Iterator<Item = (String, String)> {
        let read = |process: &Managed| {
            let log = std::fs::read(process.log()).unwrap_or_default();
            (process.name().to_owned(), String::from_utf8_lossy(&log).into_owned())
        };
        self.cluster.processes().into_iter().map(read)
    }

    /// The end of what every process has logged beyond these lengths.
    fn print_logs(&self, lengths: &[usize]) {
        for ((name, log), length) in self.logs().zip(lengths) {
            let lines: Vec<&str> = log.get(*length..).unwrap_or(&log).lines().collect();
            let tail = lines.get(lines.len().saturating_sub(100)..).unwrap_or_default();
            eprintln!("---- what {name} logged\n{}", tail.join("\n"));
        }
    }
}
