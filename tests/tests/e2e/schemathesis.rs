//! Schemathesis over the whole OpenAPI document, by an admin: no 5xx, no status that the document does not
//! have, no answer that its schema does not allow, nothing wrong taken and nothing right refused.
//!
//! It talks to an API server of its own, whose throttling is then nobody else's. `tests/schemathesis` has its settings and
//! what it has to know of sessions and numbers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use kvmoor_crds::{Image, User};
use kvmoor_dev::binaries::cache_dir;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::shared::Shared;

/// No run takes longer.
const DEADLINE: Duration = Duration::from_secs(600);
/// Requests for each operation and way to make them up, at most.
const EXAMPLES: &str = "12";
/// How long the accounts may take to be gone.
const GONE: Duration = Duration::from_secs(300);
/// How many accounts are removed at a time.
const AT_ONCE: usize = 8;

pub async fn by_an_admin(shared: &Shared) -> Result<()> {
    run(shared, "admin").await
}

async fn run(shared: &Shared, role: &str) -> Result<()> {
    let (server, url) = shared.cluster.another_api_server(&format!("schemathesis-{role}"))?;
    // The client tells apart whom it stands for.
    server.set_env("KVMOOR_TRUSTED_PROXIES", Some("127.0.0.0/8"));
    server.start()?;
    let there = Rest::new(&url)?;
    wait::until("the API server is ready", SOON, || there.get("/api/ready"), |_| true).await?;
    let before = accounts(shared).await?;
    let images: Api<Image> = Api::all(shared.cluster.client().await?);
    let images_before = images.list(&ListParams::default()).await?.items;
    let default = shared.admin.get("/api/quota").await?["quota"].clone();
    let outcome = test(shared, &there, role).await;
    // An admin may have set the default quota to anything. What it did not limit, null does not limit.
    let limits: serde_json::Map<_, _> = ["max_vms", "max_cpu", "max_memory", "max_snapshots", "max_disk"]
        .map(|limit| (limit.to_owned(), default[limit].clone()))
        .into_iter()
        .collect();
    shared.admin.ok(Method::PUT, "/api/quota", Some(limits.into())).await?;
    let now = shared.admin.get("/api/quota").await?["quota"].clone();
    ensure!(now == default, "the default quota is {now}, and was {default}");
    let made: Vec<_> = accounts(shared).await?.difference(&before).copied().collect();
    let removals = stream::iter(made).map(|id| remove(shared, id)).buffer_unordered(AT_ONCE).try_collect::<()>();
    let removed = removals.await;
    server.stop(SOON).await;
    restore(&images, images_before).await?;
    outcome.and(removed)?;
    // Their namespaces go too, which keeps the control plane busy; the next case is not to wait for that.
    let users: Api<User> = Api::all(shared.cluster.client().await?);
    let left = || async { Ok(users.list_metadata(&ListParams::default()).await?.items.len()) };
    wait::until("the accounts are gone", GONE, left, |left| *left <= before.len()).await?;
    Ok(())
}

async fn test(shared: &Shared, there: &Rest, role: &str) -> Result<()> {
    let account =
        json!({ "username": format!("schemathesis-{role}"), "password": "password of schemathesis", "role": role });
    let id = shared.admin.post("/api/admin/users", account).await?["id"].clone();
    let room = json!({ "max_vms": 100, "max_cpu": 1_000_000, "max_memory": 1_i64 << 40, "user_id": id });
    shared.admin.ok(Method::PUT, "/api/quota", Some(room)).await?;
    let caller = there.login(&format!("schemathesis-{role}"), "password of schemathesis").await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let program = cache_dir()?.join("schemathesis/bin/schemathesis");
    ensure!(program.is_file(), "run dev/setup-schemathesis first");
    let begin = Instant::now();
    let report = cache_dir()?.join(format!("schemathesis-{role}.log"));
    let output = std::fs::File::create(&report).with_context(|| report.display().to_string())?;
    let mut child = Command::new(program)
        // It leaves notes of its own where it runs.
        .current_dir(cache_dir()?.join("schemathesis"))
        .env("PYTHONPATH", &folder)
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/api/openapi.json", there.base()))
        .args(["--url", there.base(), "--max-examples", EXAMPLES, "--no-color"])
        .env("KVMOOR_URL", there.base())
        .env("KVMOOR_CALLER_TOKEN", caller.token().context("a token")?)
        .env("KVMOOR_ADMIN_TOKEN", shared.admin.token().context("a token")?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()?;
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
    let said = String::from_utf8_lossy(&std::fs::read(&report)?).into_owned();
    let ended = ended.with_context(|| format!("Schemathesis, as {role}, takes too long:\n{said}"))??;
    ensure!(ended.success(), "Schemathesis, as {role}: {ended}\n{said}");
    let summary = said.lines().rev().find(|line| line.contains("generated")).unwrap_or_default();
    ensure!(!summary.contains("errored"), "Schemathesis, as {role}, could not send all requests:\n{said}");
    println!("schemathesis, as {role}: {summary}, {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The numbers of all accounts.
async fn accounts(shared: &Shared) -> Result<BTreeSet<i64>> {
    let users = shared.admin.get("/api/admin/users").await?;
    users.as_array().context("a list")?.iter().map(|user| user["id"].as_i64().context("a number")).collect()
}

/// Has the images be those of before: an admin may have made any, and deleted any.
async fn restore(images: &Api<Image>, before: Vec<Image>) -> Result<()> {
    let names = |images: &[Image]| images.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>();
    let now = images.list(&ListParams::default()).await?.items;
    for name in names(&now).difference(&names(&before)) {
        images.delete(name, &DeleteParams::default()).await?;
    }
    for image in before.iter().filter(|image| !names(&now).contains(&image.name_any())) {
        let mut again = Image::new(&image.name_any(), image.spec.clone());
        again.metadata.labels.clone_from(&image.metadata.labels);
        again.metadata.annotations.clone_from(&image.metadata.annotations);
        images.create(&PostParams::default(), &again).await?;
    }
    Ok(())
}

async fn remove(shared: &Shared, id: i64) -> Result<()> {
    let path = format!("/api/admin/users/{id}?force=true");
    let (status, answer): (_, Value) = shared.admin.call(Method::DELETE, &path, None).await?;
    ensure!(status.is_success() || status == StatusCode::NOT_FOUND, "{path}: {status} {answer}");
    Ok(())
}
