//! The serial port of real guests: a shell on it over a WebSocket, and what was said on it over REST.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, tiny};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::console::{no_descriptor_stays, number, refused, remove_user, view};
use crate::shared::Shared;

fn serial(id: i64, token: &str) -> String {
    format!("/ws/serial?id={id}&token={token}")
}

fn path(shared: &Shared, id: i64) -> Result<String> {
    Ok(serial(id, shared.admin.token().context("a session")?))
}

/// Types a command until the shell answers it: the first one may come before there is a shell.
async fn until_shell(terminal: &mut Viewer) -> Result<()> {
    let begin = std::time::Instant::now();
    loop {
        terminal.write(b"echo shell-$((40+2))\n").await?;
        match terminal.read_until("shell-42", Duration::from_secs(5)).await {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(begin.elapsed() < BOOT, "no shell: {error:#}"),
        }
    }
}

pub async fn a_shell_over_a_websocket(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("shell").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "shell", tiny()).await?;
    vm.until_phase(Phase::Running).await?;
    let path = path(shared, number(&vm).await?)?;
    let mut one = view(shared, &path).await?;
    ensure!(one.protocol.as_deref() == Some("binary"), "{:?}", one.protocol);
    until_shell(&mut one).await?;

    // Two look on: both see what either types, and what comes of it.
    let mut two = view(shared, &path).await?;
    two.write_text("echo from-two-$((6*7))\n").await?;
    one.read_until("from-two-42", SOON).await?;
    two.read_until("from-two-42", SOON).await?;
    one.write(b"echo from-one-$((6*7))\n").await?;
    two.read_until("from-one-42", SOON).await?;
    one.read_until("from-one-42", SOON).await?;
    // The one that opened it leaves; the other stays.
    one.close().await?;
    two.write(b"hostname; echo still-$((6*7))\n").await?;
    let said = two.read_until("still-42", SOON).await?;
    ensure!(said.contains("shell"), "the guest's host name: {said:?}");
    two.close().await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn who_may_open_it_and_how_it_ends(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("ports").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "ports", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let id = number(&vm).await?;
    let token = shared.admin.token().context("a session")?;
    refused(shared, &format!("/ws/serial?id={id}"), &[], 401).await?;
    refused(shared, &serial(id, "x"), &[], 401).await?;
    refused(shared, &serial(999_999, token), &[], 404).await?;
    refused(shared, &serial(id, token), &[("origin", "https://evil.example")], 403).await?;
    let stranger = shared.user("ports-stranger").await?;
    refused(shared, &serial(id, stranger.token().context("a session")?), &[], 404).await?;
    remove_user(shared, "ports-stranger").await?;

    // The right ends with the session.
    let guest = shared.user("ports-guest").await?;
    let role = format!("/api/admin/users/{}/role", guest.get("/api/auth/me").await?["id"]);
    shared.admin.ok(Method::PUT, &role, Some(json!({ "role": "admin" }))).await?;
    let guest = shared.anonymous()?.login("ports-guest", "password of ports-guest").await?;
    let mut terminal = view(shared, &serial(id, guest.token().context("a session")?)).await?;
    guest.post("/api/auth/logout", json!({})).await?;
    let frame = terminal.until_closed(Duration::from_secs(5)).await?.context("a close frame")?;
    ensure!(u16::from(frame.code) == 1008, "{frame:?}");
    remove_user(shared, "ports-guest").await?;

    // A ticket opens one console once, whichever of the two.
    let ticket = shared.admin.post(&format!("/api/vms/{id}/console-ticket"), json!({})).await?;
    let query = format!("id={id}&ticket={}", ticket["ticket"].as_str().context("a ticket")?);
    view(shared, &format!("/ws/serial?{query}")).await?.close().await?;
    refused(shared, &format!("/ws/serial?{query}"), &[], 401).await?;
    refused(shared, &format!("/ws/vnc?{query}"), &[], 401).await?;

    // Each virtual machine has room for so many.
    let path = serial(id, token);
    let mut several = Vec::new();
    for _ in 0..8 {
        several.push(view(shared, &path).await?);
    }
    refused(shared, &path, &[], 429).await?;
    for terminal in several {
        terminal.close().await?;
    }

    // The host's controller dies: the guest does not, and the code says whose fault it was.
    let mut first = wait::until("there is room again", SOON, || view(shared, &path), |_| true).await?;
    shared.cluster.node_controller(0)?.kill().await;
    let frame = first.until_closed(SOON).await?.context("a close frame")?;
    ensure!(u16::from(frame.code) == 1011, "{frame:?}");
    shared.cluster.start_components().await?;
    let mut first = wait::until("the console is back", SOON, || view(shared, &path), |_| true).await?;
    let mut second = view(shared, &path).await?;
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    for terminal in [&mut first, &mut second] {
        let frame = terminal.until_closed(SOON).await?.context("a close frame")?;
        ensure!(u16::from(frame.code) == 1000, "{frame:?}");
    }
    vm.until_phase(Phase::Stopped).await?;
    refused(shared, &path, &[], 409).await?;
    vm.remove().await?;
    // The API server hears of it a moment later than the Kubernetes API.
    wait::until("it is not there", SOON, || refused(shared, &path, &[], 404), |()| true).await?;
    shared.drop_namespace(&namespace).await
}

pub async fn reconnects_leave_no_descriptor_behind(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("reopened").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "reopened", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let path = path(shared, number(&vm).await?)?;
    no_descriptor_stays(shared, &path, async |viewer| viewer.write(b"x").await).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn the_boot_log(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("logged").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "logged", tiny()).await?;
    vm.until_booted().await?;
    let id = number(&vm).await?;
    let log = format!("/api/vms/{id}/log");
    let said =
        |log: &serde_json::Value| log.as_str().is_some_and(|log| log.contains("Kvmoor tiny: logged has address"));
    wait::until("the log has the boot", SOON, || shared.admin.get(&log), said).await?;
    let all = shared.admin.get(&log).await?;
    let all = all.as_str().context("text")?;
    let tail = shared.admin.get(&format!("{log}?bytes=10")).await?;
    let tail = tail.as_str().context("text")?;
    ensure!(tail.len() == 10 && all.ends_with(tail), "{tail:?} of {all:?}");
    for wrong in ["0", "-1", "x", "1048577"] {
        let (status, body) = shared.admin.call(Method::GET, &format!("{log}?bytes={wrong}"), None).await?;
        ensure!(status == StatusCode::BAD_REQUEST, "{wrong}: {status} {body}");
    }
    // What was said before a restart is still there, and none of it once the virtual machine is deleted.
    let files = || -> Result<Vec<_>> {
        let dir = shared.cluster.host(0)?.log_dir().context("a private host")?.join("qemu");
        let entries = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let entries: Vec<String> = entries.collect::<Result<_>>()?;
        Ok(entries.into_iter().filter(|name| name.starts_with(&format!("{}-serial", vm.domain()))).collect())
    };
    ensure!(!files()?.is_empty(), "libvirt writes it down");
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    vm.until_phase(Phase::Stopped).await?;
    ensure!(said(&shared.admin.get(&log).await?), "it is there while the guest is off");
    vm.delete().await?;
    vm.until_gone().await?;
    ensure!(files()?.is_empty(), "left: {:?}", files()?);
    shared.drop_namespace(&namespace).await
}
