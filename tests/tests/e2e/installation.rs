//! What an installation brings besides programs: the catalog of images and the default quota, and the check of `helm test`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kvmoor_crds::{Image, Quota, VirtualMachineClass, names};
use kvmoor_dev::SYSTEM_NAMESPACE;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::Method;
use serde_json::{Value, json};

use crate::shared::Shared;

const GRACE: Duration = Duration::from_secs(20);

pub async fn an_upgrade_labels_the_admins_secret_and_ends_no_session(shared: &Shared) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(shared.cluster.client().await?, SYSTEM_NAMESPACE);
    let labelled = json!({ "metadata": { "labels": { "helm.sh/chart": "kvmoor-1.2.3" } } });
    secrets.patch(names::ADMIN_SECRET, &PatchParams::default(), &Patch::Merge(labelled)).await?;
    // A password that changed is taken up within a second.
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < end {
        shared.admin.get("/api/auth/me").await.context("the session lasts")?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

pub async fn the_catalog_is_applied_and_admins_have_the_last_word(shared: &Shared) -> Result<()> {
    let client = shared.cluster.client().await?;
    let images: Api<Image> = Api::all(client.clone());
    let quotas: Api<Quota> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let quota = || async { Ok(quotas.get(names::QUOTA_NAME).await?) };
    let before = wait::until("the default quota", SOON, quota, |_| true).await?;
    let path = shared.cluster.dir().join("catalog.yaml");
    let catalog = |sum: &str, vms: u32| {
        let url = "https://images.example.com/a.qcow2";
        let image =
            json!({ "name": "in-catalog", "spec": { "url": url, "sha256": sum.repeat(64), "displayName": "A" } });
        let quota = json!({ "maxVms": vms, "maxCpu": 50, "maxMemory": "50Gi" });
        let class = json!({ "name": "in-catalog", "spec": { "cpu": 1, "memory": format!("{vms}Mi") } });
        std::fs::write(&path, json!({ "images": [image], "classes": [class], "quota": quota }).to_string())
    };
    catalog("0", 31)?;
    with_catalog(shared, Some(&path)).await?;
    let is_there = |image: &Option<Image>| image.is_some();
    wait::until("the image of the catalog", SOON, || async { Ok(images.get_opt("in-catalog").await?) }, is_there)
        .await?;
    let classes: Api<VirtualMachineClass> = Api::all(shared.cluster.client().await?);
    let class = || async { Ok(classes.get("in-catalog").await?.spec.memory.0) };
    wait::until("the class of the catalog", SOON, class, |memory| memory == "31Mi").await?;
    let vms = || async { Ok(quotas.get(names::QUOTA_NAME).await?.spec.max_vms) };
    wait::until("the quota of the catalog", SOON, vms, |vms| *vms == 31).await?;

    put_quota(shared, json!({ "max_vms": 32, "max_cpu": 50, "max_memory": 51200 })).await?;
    images.delete("in-catalog", &DeleteParams::default()).await?;
    with_catalog(shared, Some(&path)).await?;
    wait::until("the image again", SOON, || async { Ok(images.get_opt("in-catalog").await?) }, is_there).await?;
    ensure!(vms().await? == 32, "the catalog took back what an admin set");

    // What never changes in an Image or a class is refused, and the rest is applied all the same.
    catalog("1", 33)?;
    with_catalog(shared, Some(&path)).await?;
    wait::until("the new quota of the catalog", SOON, vms, |vms| *vms == 33).await?;
    let image = images.get("in-catalog").await?;
    ensure!(image.spec.sha256 == Some("0".repeat(64)) && class().await? == "31Mi");

    with_catalog(shared, None).await?;
    images.delete("in-catalog", &DeleteParams::default()).await?;
    classes.delete("in-catalog", &DeleteParams::default()).await?;
    let quota = json!({
        "max_vms": before.spec.max_vms, "max_cpu": before.spec.max_cpu,
        "max_memory": kvmoor_crds::quantity::bytes(&before.spec.max_memory)? >> 20,
    });
    put_quota(shared, quota).await
}

async fn put_quota(shared: &Shared, quota: Value) -> Result<()> {
    let (status, answer) = shared.admin.call(Method::PUT, "/api/quota", Some(quota)).await?;
    ensure!(status.is_success(), "{status} {answer}");
    Ok(())
}

async fn with_catalog(shared: &Shared, path: Option<&Path>) -> Result<()> {
    let controller = shared.cluster.cluster_controller()?;
    controller.stop(GRACE).await;
    controller.set_env("KVMOOR_CATALOG", path.map(|path| path.to_str().context("a path")).transpose()?);
    shared.cluster.start_components().await
}

pub async fn the_check_of_helm_test_says_what_is_wrong(shared: &Shared) -> Result<()> {
    let program = shared.cluster.cluster_controller()?.program();
    let check = async |password: &str| {
        let mut command = tokio::process::Command::new(&program);
        let admin = shared.cluster.admin();
        command.args(["check", "--url", &shared.cluster.api_url(), "--username", &admin.username]);
        command.env("KVMOOR_CHECK_PASSWORD", password).env("KUBECONFIG", "/dev/null").output().await
    };
    let good = check(&shared.cluster.admin().password).await?;
    let said = String::from_utf8_lossy(&good.stderr);
    ensure!(good.status.success() && said.contains("virtual machines can run"), "{said}");
    let bad = check("not the password").await?;
    let said = String::from_utf8_lossy(&bad.stderr);
    ensure!(!bad.status.success() && said.contains("the login of the first admin failed"), "{said}");
    ensure!(!said.contains("not the password"), "the password is in the log");
    Ok(())
}
