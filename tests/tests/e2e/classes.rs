//! Classes: sizes by name, over REST and with kubectl.

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_tests::vm::{SOON, TestVm, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::shared::Shared;

/// The spec of a virtual machine of a class: a disk as small as it is.
fn of_class(class: &str) -> Value {
    json!({ "className": class, "disk": { "size": "1Gi" }, "terminationGracePeriodSeconds": 1 })
}

async fn make(shared: &Shared, name: &str, cpu: i32, memory: &str) -> Result<()> {
    let class = json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachineClass",
        "metadata": { "name": name }, "spec": { "cpu": cpu, "memory": memory, "disk": "2Gi" },
    });
    let api: kube::Api<kvmoor_crds::VirtualMachineClass> = kube::Api::all(shared.cluster.client().await?);
    api.create(&kube::api::PostParams::default(), &serde_json::from_value(class)?).await?;
    Ok(())
}

pub async fn a_size_by_name(shared: &Shared) -> Result<()> {
    let classes = shared.admin.get("/api/classes").await?;
    let of = |name: &str| classes.as_array().and_then(|all| all.iter().position(|class| class["name"] == name));
    let order: Vec<_> = ["small", "medium", "large", "xlarge"].map(of).into();
    ensure!(order.iter().all(Option::is_some) && order.is_sorted(), "those of a new installation: {classes}");
    let small = order[0].map(|index| &classes[index]).context("just seen")?;
    ensure!(small["cpu"] == 1 && small["memory"] == 2048 && small["disk"] == 20480, "{small}");

    make(shared, "tiny-one", 1, "64Mi").await?;
    make(shared, "tiny-two", 2, "96Mi").await?;
    let user = shared.user("classy").await?;
    // The cluster controller may hear of a class a moment later.
    let create = || user.post("/api/vms", json!({ "name": "by class", "class": "tiny-one" }));
    let vm = wait::until("a virtual machine of the class", SOON, create, |_| true).await?;
    ensure!(vm["cpu"] == 1 && vm["memory"] == 64 && vm["class"] == "tiny-one", "{vm}");
    let (id, namespace) = (vm["id"].as_i64().context("a number")?, vm["namespace"].as_str().context("a namespace")?);
    let object = TestVm::existing(&shared.cluster, namespace, vm["resource_name"].as_str().context("a name")?).await?;
    object.until_phase(Phase::Running).await?;
    let usage = user.get("/api/quota").await?;
    ensure!(usage["usage"]["cpu"] == 1 && usage["usage"]["memory"] == 64, "{usage}");
    let stats = user.get(&format!("/api/vms/{id}/stats")).await?;
    ensure!(stats["cpu"]["count"] == 1 && stats["memory"]["total"] == 64, "{stats}");
    ensure!(stats["disks"][0]["capacity_bytes"] == 2_u64 << 30, "the disk that the class says: {stats}");

    // Another class is another size; so are numbers.
    let resize = |body: Value| async { user.post(&format!("/api/vms/{id}/action"), body).await };
    let larger = || resize(json!({ "action": "resize", "class": "tiny-two" }));
    let larger = wait::until("a resize to the other class", SOON, larger, |_| true).await?;
    ensure!(larger["cpu"] == 2 && larger["memory"] == 96 && larger["class"] == "tiny-two", "{larger}");
    // There is nothing in it that would shut down.
    object.patch(json!({ "terminationGracePeriodSeconds": 1 })).await?;
    object.request("restart").await?;
    object
        .until("has the new size", SOON, |vm| {
            let resources = vm.status.as_ref().and_then(|status| status.resources.as_ref());
            resources.is_some_and(|resources| resources.cpu == 2 && resources.memory.0 == "96Mi")
        })
        .await?;
    let numbers = resize(json!({ "action": "resize", "memory": 128 })).await?;
    ensure!(numbers["cpu"] == 2 && numbers["memory"] == 128 && numbers["class"] == Value::Null, "{numbers}");

    for (body, refusal, word) in [
        (
            json!({ "name": "x", "class": "none-such" }),
            StatusCode::NOT_FOUND,
            "there is no VirtualMachineClass none-such",
        ),
        (json!({ "name": "x", "class": "tiny-one", "cpu": 1 }), StatusCode::BAD_REQUEST, "either"),
        (json!({ "name": "x", "class": null }), StatusCode::BAD_REQUEST, "null"),
        (json!({ "name": "x", "cpu": 1 }), StatusCode::BAD_REQUEST, "memory"),
    ] {
        let (status, answer) = user.call(Method::POST, "/api/vms", Some(body.clone())).await?;
        let message = answer["message"].as_str().unwrap_or_default();
        ensure!(status == refusal && message.contains(word), "{body}: {status} {answer}");
    }
    let action = format!("/api/vms/{id}/action");
    let (status, answer) =
        user.call(Method::POST, &action, Some(json!({ "action": "resize", "class": "none-such" }))).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status} {answer}");
    let kept = user.get(&format!("/api/vms/{id}")).await?;
    ensure!(kept["memory"] == 128 && kept["class"] == Value::Null, "the size of before: {kept}");
    let listed = user.get("/api/vms").await?;
    ensure!(listed.as_array().is_some_and(|vms| vms.len() == 1), "what is refused is not left: {listed}");
    user.ok(Method::DELETE, &format!("/api/vms/{id}"), None).await?;
    object.until_gone().await?;
    crate::console::remove_user(shared, "classy").await
}

pub async fn a_class_that_comes_later_or_goes(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("classes").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "early", with(of_class("late"), json!({}))).await?;
    let message = vm.until_condition("Admitted", "False", "ClassNotFound").await?;
    ensure!(message.contains("late"), "{message}");
    make(shared, "late", 1, "64Mi").await?;
    vm.until_phase(Phase::Running).await?;
    let qemu = vm.qemu().context("QEMU runs")?;
    let api: kube::Api<kvmoor_crds::VirtualMachineClass> = kube::Api::all(shared.cluster.client().await?);
    api.delete("late", &kube::api::DeleteParams::default()).await?;
    vm.until_condition("Admitted", "False", "ClassNotFound").await?;
    vm.patch(json!({ "powerState": "Paused" })).await?;
    vm.until_phase(Phase::Paused).await?;
    ensure!(vm.qemu() == Some(qemu), "it keeps what it has");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}
