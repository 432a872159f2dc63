//! Nobody gets more than the quota: not by many requests at once, not over several replicas, not by kubectl. Whoever writes
//! the objects is refused by a policy at once, or by the cluster controller in the end.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, Quota, VirtualMachine, names};
use kvmoor_tests::events::until_warned;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::{SOON, TestVm, blank, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::shared::Shared;

/// Requests at once.
const REQUESTS: usize = 200;
/// How many of them there is room for.
const ROOM: usize = 17;

/// A Quota of a namespace.
struct TestQuota {
    api: Api<Quota>,
}

impl TestQuota {
    async fn create(shared: &Shared, namespace: &str, spec: Value) -> Result<Self> {
        let api: Api<Quota> = Api::namespaced(shared.cluster.client().await?, namespace);
        let quota = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Quota", "metadata": { "name": names::QUOTA_NAME }, "spec": spec,
        });
        api.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
        Ok(Self { api })
    }

    async fn set(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api.patch(names::QUOTA_NAME, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Waits until its status, which policies read, counts that many virtual machines.
    async fn until_used(&self, vms: i64) -> Result<()> {
        let look = || async { Ok(self.api.get(names::QUOTA_NAME).await?.status.and_then(|status| status.used)) };
        let counted = |used: &Option<kvmoor_crds::QuotaUsed>| used.as_ref().is_some_and(|used| used.vms == vms);
        wait::until(&format!("the Quota counts {vms}"), SOON, look, counted).await.map(drop)
    }
}

/// Waits until the cluster controller judges a user by a quota of so many CPUs. It hears of a quota a moment later than the
/// API server.
pub async fn until_judged_by(user: &Rest, max_cpu: i64) -> Result<()> {
    let greedy = json!({ "name": "greedy", "cpu": 512, "memory": 16 });
    let refusal = || async {
        let (status, answer) = user.call(Method::POST, "/api/vms", Some(greedy.clone())).await?;
        ensure!(status == StatusCode::FORBIDDEN, "{status} {answer}");
        Ok(answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let words = format!("+ 512 requested > {max_cpu} allowed");
    wait::until("the quota holds", SOON, refusal, |message| message.contains(&words)).await.map(drop)
}

pub async fn over_rest(shared: &Shared) -> Result<()> {
    let user = shared.user("greedy").await?;
    let body = json!({ "name": "huge", "cpu": 21, "memory": 64 });
    let (code, answer) = user.call(Method::POST, "/api/vms", Some(body)).await?;
    ensure!(code == StatusCode::FORBIDDEN && answer["error"] == "Forbidden", "{code} {answer}");
    let message = answer["message"].as_str().context("a message")?;
    ensure!(message.contains("21") && message.contains("20"), "the numbers: {message}");
    ensure!(user.get("/api/vms").await? == json!([]), "nothing is left of it");
    Ok(())
}

pub async fn limits_of_snapshots_and_disks(shared: &Shared) -> Result<()> {
    let user = shared.user("frugal").await?;
    let id = user.get("/api/auth/me").await?["id"].clone();
    let set = async |snapshots: Value, disk: Value| {
        let limits = json!({
            "user_id": id, "max_vms": 5, "max_cpu": 5, "max_memory": 1024, "max_snapshots": snapshots, "max_disk": disk,
        });
        shared.admin.ok(Method::PUT, "/api/quota", Some(limits)).await
    };
    let quota = set(json!(0), json!(100)).await?["quota"].clone();
    ensure!(quota["max_snapshots"] == 0 && quota["max_disk"] == 100 && quota["default"] == false, "{quota}");
    until_judged_by(&user, 5).await?;
    let vm = |disk: i64| json!({ "name": "thin", "cpu": 1, "memory": 32, "disk": disk, "start": false });
    let refused = async |path: &str, body: Value, message: &str| {
        let (code, answer) = user.call(Method::POST, path, Some(body)).await?;
        ensure!(code == StatusCode::FORBIDDEN && answer["message"] == message, "{code} {answer}");
        Ok(())
    };
    refused("/api/vms", vm(101), "quota exceeded: disk 0 bytes used + 101Mi requested > 100Mi allowed").await?;
    let made = user.post("/api/vms", vm(60)).await?;
    refused("/api/vms", vm(41), "quota exceeded: disk 60Mi used + 41Mi requested > 100Mi allowed").await?;
    let path = format!("/api/vms/{}/snapshots", made["id"]);
    let snapshot = json!({ "name": "one" });
    refused(&path, snapshot.clone(), "quota exceeded: snapshots 0 used + 1 requested > 0 allowed").await?;
    // What is left out stays; null takes a limit away.
    let same = json!({ "user_id": id, "max_vms": 5, "max_cpu": 5, "max_memory": 1024 });
    let quota = shared.admin.ok(Method::PUT, "/api/quota", Some(same)).await?["quota"].clone();
    ensure!(quota["max_snapshots"] == 0 && quota["max_disk"] == 100, "{quota}");
    let quota = set(Value::Null, Value::Null).await?["quota"].clone();
    ensure!(quota.get("max_snapshots").is_none() && quota.get("max_disk").is_none(), "{quota}");
    let taken = || user.post(&path, snapshot.clone());
    wait::until("there is room for a snapshot", SOON, taken, |_| true).await?;
    let used = json!({ "vms": 1, "cpu": 1, "memory": 32, "snapshots": 1, "disk": 60 });
    wait::until("usage", SOON, || user.get("/api/quota"), |quota: &Value| quota["usage"] == used).await?;
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{id}?force=true"), None).await?;
    Ok(())
}

/// `kubectl create` of a virtual machine: what it says on standard error, if it is refused.
async fn kubectl(shared: &Shared, namespace: &str, name: &str, spec: &Value) -> Result<Option<String>> {
    let object = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": name }, "spec": spec,
    });
    let mut child = Command::new(shared.cluster.kubectl())
        .args(["create", "-f", "-", "--namespace", namespace])
        .arg("--kubeconfig")
        .arg(shared.cluster.control_plane().admin_kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(object.to_string().as_bytes()).await?;
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await??;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Waits until the policy refuses a virtual machine that is only tried out, in these words. It sees what is written to a
/// Quota a moment later.
async fn until_policy_says(shared: &Shared, namespace: &str, spec: &Value, words: &str) -> Result<()> {
    let api: Api<VirtualMachine> = Api::namespaced(shared.cluster.client().await?, namespace);
    let object = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "tried" }, "spec": spec,
    });
    let object = serde_json::from_value(object)?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let refusal = || async {
        match api.create(&dry, &object).await {
            Ok(_) => Ok(String::new()),
            Err(kube::Error::Api(status)) => Ok(status.message.clone()),
            Err(error) => Err(error.into()),
        }
    };
    wait::until("the policy sees the quota", SOON, refusal, |said| said.contains(words)).await.map(drop)
}

pub async fn kubectl_is_refused_at_once(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("quota-policy").await?;
    let limits = json!({ "maxVms": 2, "maxCpu": 3, "maxMemory": "100Mi", "maxDisk": "3Gi" });
    let quota = TestQuota::create(shared, &namespace, limits).await?;
    quota.until_used(0).await?;
    let cases = [
        (json!({ "cpu": 4 }), "quota exceeded: cpu 0 used + 4 requested > 3 allowed"),
        (json!({ "memory": "101Mi" }), "quota exceeded: memory 0 used + 101Mi requested > 100Mi allowed"),
        (
            json!({ "disk": { "size": "4Gi" } }),
            "quota exceeded: disk 0 used + 4294967296 bytes requested > 3Gi allowed",
        ),
        (
            json!({ "disks": [{ "name": "a", "size": "1Gi" }, { "name": "b", "size": "1025Mi" }] }),
            "quota exceeded: disk 0 used + 3222274048 bytes requested > 3Gi allowed",
        ),
    ];
    let (too_much, words) = &cases[0];
    until_policy_says(shared, &namespace, &with(blank(), too_much.clone()), words).await?;
    for (change, message) in cases {
        let said = kubectl(shared, &namespace, "large", &with(blank(), change.clone())).await?;
        let said = said.with_context(|| format!("{change} was taken"))?;
        ensure!(said.contains(message), "{change}: {said}");
    }
    let off = with(blank(), json!({ "powerState": "Stopped" }));
    for name in ["first", "second"] {
        ensure!(kubectl(shared, &namespace, name, &off).await?.is_none(), "{name} fits");
    }
    quota.until_used(2).await?;
    let words = "virtual machines 2 used + 1 requested > 2 allowed";
    until_policy_says(shared, &namespace, &off, words).await?;
    let said = kubectl(shared, &namespace, "third", &off).await?.context("a third was taken")?;
    ensure!(said.contains(words), "{said}");

    // Growing is no way around it, and what does not grow is not refused.
    let first = TestVm::existing(&shared.cluster, &namespace, "first").await?;
    for (change, message) in [
        (json!({ "cpu": 3 }), "cpu 2 used + 2 more requested > 3 allowed"),
        (json!({ "memory": "69Mi" }), "memory 64Mi used, more requested by growing to 69Mi > 100Mi allowed"),
    ] {
        let error = first.patch(change.clone()).await.err().with_context(|| format!("{change} was taken"))?;
        ensure!(format!("{error:#}").contains(message), "{change}: {error:#}");
    }
    first.patch(json!({ "cpu": 2 })).await?;
    quota.set(json!({ "maxVms": 0, "maxCpu": 0, "maxMemory": "0", "maxDisk": "0" })).await?;
    first.patch(json!({ "displayName": "Renamed", "cpu": 1 })).await?;
    first.remove().await?;
    TestVm::existing(&shared.cluster, &namespace, "second").await?.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// What the policy lets through, because its numbers are old, waits until there is room.
pub async fn the_cluster_controller_has_the_last_word(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("quota-last-word").await?;
    let quota = TestQuota::create(shared, &namespace, json!({ "maxVms": 1, "maxCpu": 1, "maxMemory": "64Mi" })).await?;
    quota.until_used(0).await?;
    // Nobody counts, so both fit.
    let controller = shared.cluster.cluster_controller()?;
    controller.stop(SOON).await;
    for name in ["first", "second"] {
        ensure!(kubectl(shared, &namespace, name, &blank()).await?.is_none(), "the policy knows of none yet");
        // The older one is admitted, and times of creation are in whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    controller.start()?;
    let first = TestVm::existing(&shared.cluster, &namespace, "first").await?;
    let second = TestVm::existing(&shared.cluster, &namespace, "second").await?;
    first.until_phase(Phase::Running).await?;
    let message = second.until_condition(types::ADMITTED, "False", "QuotaExceeded").await?;
    ensure!(message.contains("virtual machines 1 used + 1 requested > 1 allowed"), "the numbers: {message}");
    let phase = second.get().await?.status.and_then(|status| status.phase);
    ensure!(phase == Some(Phase::Pending), "Pending, not {phase:?}");
    let warning = until_warned(&shared.cluster, &namespace, second.uid(), "QuotaExceeded").await?;
    ensure!(warning.contains("requested > 1 allowed"), "{warning}");
    ensure!(second.domains().await?.is_empty() && second.volumes().await?.is_empty(), "nothing in libvirt");
    // Growing by a resize is no way around it either.
    quota.set(json!({ "maxCpu": 2 })).await?;
    controller.stop(SOON).await;
    // Once the policy has seen the room.
    wait::until("more is taken", SOON, || first.patch(json!({ "cpu": 2 })), |_| true).await?;
    quota.set(json!({ "maxCpu": 1 })).await?;
    controller.start()?;
    first.until_condition(types::ADMITTED, "False", "QuotaExceeded").await?;
    first.patch(json!({ "cpu": 1 })).await?;
    first.until_condition(types::ADMITTED, "True", "WithinQuota").await?;
    // When there is room it starts by itself.
    first.delete().await?;
    second.until_phase(Phase::Running).await?;
    first.until_gone().await?;
    second.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn a_lowered_quota_stops_nothing(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("quota-lowered").await?;
    let quota = TestQuota::create(shared, &namespace, json!({ "maxVms": 1, "maxCpu": 2, "maxMemory": "64Mi" })).await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "large", with(blank(), json!({ "cpu": 2 }))).await?;
    vm.until_phase(Phase::Running).await?;
    let qemu = vm.qemu().context("it runs")?;
    quota.set(json!({ "maxVms": 0, "maxCpu": 0, "maxMemory": "16Mi" })).await?;
    vm.patch(json!({ "displayName": "Still there" })).await?;
    vm.until_condition(types::ADMITTED, "True", "WithinQuota").await?;
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    vm.until_phase(Phase::Stopped).await?;
    ensure!(vm.qemu() != Some(qemu), "it was stopped on demand");
    // A start does not ask for more.
    vm.patch(json!({ "powerState": "Running" })).await?;
    vm.until_phase(Phase::Running).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn two_hundred_at_once_over_three_replicas(shared: &Shared) -> Result<()> {
    let user = shared.user("rusher").await?;
    let id = user.get("/api/auth/me").await?["id"].clone();
    let room = json!({ "user_id": id, "max_vms": ROOM, "max_cpu": 1000, "max_memory": 1_000_000 });
    shared.admin.ok(Method::PUT, "/api/quota", Some(room)).await?;
    let replicas = [shared.cluster.another_api_server("second")?, shared.cluster.another_api_server("third")?];
    let mut sessions = vec![user.clone()];
    for (server, url) in &replicas {
        server.start()?;
        let there = Rest::new(url)?.with_token(user.token().context("a token")?);
        wait::until("the replica is ready", SOON, || there.get("/api/ready"), |_| true).await?;
        sessions.push(there);
    }
    let body = json!({ "name": "one of many", "cpu": 1, "memory": 16, "disk": 16, "start": false });
    let calls = (0..).zip(sessions.iter().cycle()).take(REQUESTS).map(|(number, session)| {
        let body = body.clone();
        async move {
            let mut asked = 0;
            // Whoever is told on a busy machine that nobody has admitted it in time asks again, as clients do: later from
            // one time to the next, and not all at once, or it would be too much again.
            loop {
                let (status, answer) = session.call(Method::POST, "/api/vms", Some(body.clone())).await?;
                asked += 1;
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    return anyhow::Ok((status, answer, asked));
                }
                let (later, apart) = (Duration::from_millis(250 << asked.min(5)), Duration::from_millis(20) * number);
                tokio::time::sleep(later + apart).await;
            }
        }
    });
    let answers = try_join_all(calls).await?;
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for (status, answer, _) in &answers {
        *counts.entry(status.as_u16()).or_default() += 1;
        let is_clear = answer["message"].as_str().is_some_and(|message| message.contains("requested > 17 allowed"));
        ensure!(status.is_success() || is_clear, "{status} {answer}");
    }
    // What was admitted too late is taken back, and takes up room until it is gone: others may have been refused for it.
    if answers.iter().any(|(_, _, asked)| *asked > 1) {
        let made = counts.get(&201).copied().unwrap_or_default();
        for _ in made..ROOM {
            let again = || user.post("/api/vms", body.clone());
            wait::until("there is room again", SOON, again, |_| true).await?;
            *counts.entry(201).or_default() += 1;
            *counts.entry(403).or_default() -= 1;
        }
    }
    ensure!(counts == BTreeMap::from([(201, ROOM), (403, REQUESTS - ROOM)]), "{counts:?}");
    // Each replica answers when it has heard itself that what it refused is gone; the others may hear of it a moment later.
    let listed = |vms: &Value| vms.as_array().is_some_and(|vms| vms.len() == ROOM);
    for session in &sessions {
        wait::until("what was refused is not there", SOON, || session.get("/api/vms"), listed).await?;
        let used = |quota: &Value| quota["usage"]["vms"] == ROOM && quota["usage"]["cpu"] == ROOM;
        wait::until("what was refused is not charged", SOON, || session.get("/api/quota"), used).await?;
    }
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{id}?force=true"), None).await?;
    for (server, _) in &replicas {
        server.stop(SOON).await;
    }
    Ok(())
}
