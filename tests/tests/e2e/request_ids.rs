//! Logs in JSON, in which all lines of a request carry its id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_tests::feed::Feed;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::vm::{TestVm, blank};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::shared::Shared;

/// Lines that are of the process and not of a request.
const OF_THE_PROCESS: [&str; 9] = [
    "serving metrics",
    "listening",
    "not ready any more",
    "stopping",
    "stopped",
    "cannot watch; trying again",
    "cannot read the signing keys",
    "a connection broke off",
    "left out an object that this version cannot read",
];
const SOON: Duration = Duration::from_secs(30);

pub async fn every_line_of_a_request_has_its_id(shared: &Shared) -> Result<()> {
    let server = shared.cluster.api_server()?;
    let changes = [("KVMOOR_LOG_FORMAT", "json"), ("RUST_LOG", "info,kvmoor_api_server=debug")];
    let before = changes.map(|(name, _)| (name, server.env(name)));
    for (name, value) in changes {
        server.set_env(name, Some(value));
    }
    server.stop(Duration::from_secs(15)).await;
    let begin = std::fs::metadata(server.log())?.len();
    shared.cluster.start_components().await?;
    let done = work(shared).await;
    for (name, value) in before {
        server.set_env(name, value.as_deref());
    }
    server.stop(Duration::from_secs(15)).await;
    shared.cluster.start_components().await?;
    let asked = done?;

    let log = std::fs::read(server.log())?;
    let log = String::from_utf8_lossy(log.get(usize::try_from(begin)?..).context("the log has grown")?).into_owned();
    let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    // What is no JSON is of the process after the last restart.
    for line in log.lines().map_while(|line| serde_json::from_str::<Value>(line).ok()) {
        let id = line.pointer("/span/request.id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_own = line["target"].as_str().is_some_and(|target| target.starts_with("kvmoor_api_server"));
        let message = line["message"].as_str().unwrap_or_default();
        ensure!(!id.is_empty() || !is_own || OF_THE_PROCESS.contains(&message), "a line of no request: {line}");
        lines.entry(id).or_default().push(line);
    }
    for (id, status) in asked {
        let lines = lines.get(&id).with_context(|| format!("no line has the id {id}"))?;
        let answered: Vec<_> = lines.iter().filter(|line| line["message"] == "answered").collect();
        ensure!(answered.len() == 1, "one answer to {id}: {lines:?}");
        ensure!(answered[0]["status"] == status && answered[0]["duration_ms"].is_number(), "{}", answered[0]);
    }
    for (first, last) in [("answered", "feed closed"), ("console opened", "console closed")] {
        let mut both = lines.values().filter(|lines| {
            let messages: BTreeSet<_> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
            messages.contains(first) && messages.contains(last)
        });
        ensure!(both.next().is_some(), "{first} and {last} belong to one request");
    }
    Ok(())
}

/// Requests of many kinds: their ids and the status that each was answered with.
async fn work(shared: &Shared) -> Result<Vec<(String, u16)>> {
    let namespace = shared.namespace("request-ids").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "asked-for", blank()).await?;
    let running = vm.until_phase(Phase::Running).await?;
    let number = running.status.and_then(|status| status.id).context("a number")?;
    let admin = &shared.admin;
    wait::until("the server has read all", SOON, || admin.get("/api/ready"), |_| true).await?;
    let wrong = json!({ "username": "admin-of-ids", "password": "not the password" });
    let greedy = json!({ "name": "greedy", "cpu": 1, "memory": 1 << 20, "os_type": "tiny" });
    let mut asked = Vec::new();
    for (method, path, body, status) in [
        (Method::GET, "/api/vms".to_owned(), None, 200),
        (Method::GET, format!("/api/vms/{number}/stats"), None, 200),
        (Method::GET, "/api/vms/987654321".to_owned(), None, 404),
        (Method::GET, "/api/nowhere".to_owned(), None, 404),
        (Method::POST, "/api/auth/login".to_owned(), Some(wrong), 401),
        (Method::POST, "/api/vms".to_owned(), Some(greedy), 403),
        (Method::POST, "/api/vms".to_owned(), Some(json!({ "name": "" })), 400),
    ] {
        let id = format!("test-{}", uuid::Uuid::new_v4());
        let answer = send(admin, method, &path, body, &id).await?;
        ensure!(answer.0.as_u16() == status, "{path}: {answer:?}");
        ensure!(answer.1 == id, "the answer has the id of the request");
        asked.push((id, status));
    }
    let ticket = admin.post(&format!("/api/vms/{number}/console-ticket"), json!({})).await?;
    let ticket = ticket["ticket"].as_str().context("a ticket")?;
    let id = format!("test-{}", uuid::Uuid::new_v4());
    let path = format!("/ws/vnc?id={number}&ticket={ticket}");
    let viewer = Viewer::open(admin.base(), &path, &[("x-request-id", &id)]).await?;
    let viewer = viewer.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    asked.push((id, 101));
    drop((viewer, Feed::open(admin, "").await?));
    vm.remove().await?;
    shared.drop_namespace(&namespace).await?;
    Ok(asked)
}

async fn send(
    session: &Rest,
    method: Method,
    path: &str,
    body: Option<Value>,
    id: &str,
) -> Result<(StatusCode, String)> {
    let request = reqwest::Client::new().request(method, format!("{}{path}", session.base()));
    let request = request.bearer_auth(session.token().context("a session")?).header("x-request-id", id);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await?;
    let id = answer.headers().get("x-request-id").context("an id")?.to_str()?.to_owned();
    Ok((answer.status(), id))
}
