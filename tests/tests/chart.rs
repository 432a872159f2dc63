//! The chart without pods: what Helm makes of it and refuses, and what a real kube-apiserver says to that. With pods it
//! is tested by `make test-cluster`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use kvmoor_crds::VirtualMachine;
use kvmoor_dev::deadline::until;
use kvmoor_dev::{Cluster, SYSTEM_NAMESPACE, checkout_root};
use kvmoor_tests::helm::{Helm, RELEASE, chart, values_files};
use kvmoor_tests::values;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn lint_has_nothing_to_say() -> Result<()> {
    let helm = Helm::find().await?;
    for file in values_files()? {
        helm.run(&["lint", "--strict", "{chart}", "-f", &file.to_string_lossy()])?;
    }
    Ok(())
}

/// Values, and a part of the sentence that refuses them.
const SENSELESS: &[(&str, &str)] = &[
    ("apiServer.replicas=0", "/apiServer/replicas': minimum: got 0, want 1"),
    ("apiServer.replicas=two", "/apiServer/replicas': got string, want integer"),
    ("apiServer.image.pullPolicy=Sometimes", "must be one of '', 'Always', 'IfNotPresent', 'Never'"),
    ("apiServer.service.type=Magic", "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
    ("apiServer.trustedProxies={everybody}", "/apiServer/trustedProxies/0': 'everybody' does not match"),
    ("apiServer.allowedOrigins={console.example.com}", "/apiServer/allowedOrigins/0': 'console.example.com' does not"),
    ("clusterController.leaseDurationSeconds=1", "minimum: got 1, want 3"),
    ("nodeController.virtType=xen", "must be one of 'auto', 'kvm', 'qemu'"),
    ("nodeController.reservedMemory=much", "/nodeController/reservedMemory': 'much' does not match"),
    ("nodeController.cpuOvercommit=0", "minimum: got 0, want 1"),
    ("nodeController.port=80", "minimum: got 80"),
    ("nodeController.libvirt.storagePool=a/b", "/nodeController/libvirt/storagePool': 'a/b' does not match"),
    ("defaultQuota.maxVms=-1", "minimum: got -1, want 0"),
    ("apiserver.replicas=3", "additional properties 'apiserver' not allowed"),
    ("images.debian-13.sha265=00", "additional properties 'sha265' not allowed"),
    ("images.debian-13.sha256=00", "/images/debian-13/sha256': '00' does not match"),
    ("images.debian-13.sha256=", "images.debian-13: sha256 is missing"),
    ("images.debian-13.builtIn=true", "images.debian-13: give one of url, builtIn"),
    ("images.debian-13.uploaded=true", "images.debian-13: give one of url, builtIn"),
    ("images.mine.enabled=true", "images.mine: where it comes from is missing"),
    ("images.Mine.enabled=true", "\"Mine\" cannot be the name of an image"),
    ("classes.small.cpu=0", "minimum: got 0, want 1"),
    ("classes.small.memory=much", "/classes/small/memory': 'much' does not match"),
    ("classes.tiny.enabled=true", "classes.tiny: cpu or memory is missing"),
    ("classes.Tiny.enabled=true", "\"Tiny\" cannot be the name of a class"),
    ("apiServer.ingress.enabled=true", "apiServer.ingress.host is missing"),
    ("apiServer.ingress.tls.enabled=true", "there is nothing that could serve TLS"),
    ("apiServer.service.nodePort=30000", "apiServer.service.nodePort needs apiServer.service.type"),
    ("metrics.enabled=false,metrics.serviceMonitor.enabled=true", "there would be nothing to scrape"),
    ("secrets.create=false,admin.password=x", "put the password into the Secret kvmoor-admin yourself"),
    ("nodeController.libvirt.socketDirectory=run/libvirt", "must be an absolute path"),
    (
        "nodeController.libvirt.bundled.enabled=true,nodeController.libvirt.uri=qemu+tcp://elsewhere/system",
        "bundled is on, but uri names another libvirt, qemu+tcp://elsewhere/system",
    ),
    (
        "nodeController.libvirt.bundled.enabled=true,nodeController.libvirt.socketDirectory=/run/other",
        "has its sockets in /run/libvirt, but socketDirectory is /run/other",
    ),
    (
        "nodeController.libvirt.bundled.enabled=true,nodeController.libvirt.serialLogDirectory=/var/log/other",
        "logs to /var/log/libvirt/qemu, but serialLogDirectory is /var/log/other",
    ),
    (
        "nodeController.libvirt.bundled.subnet=10.0.0.0/8",
        "/nodeController/libvirt/bundled/subnet': '10.0.0.0/8' does not",
    ),
];

#[tokio::test]
async fn values_that_make_no_sense_are_refused_in_words() -> Result<()> {
    let helm = Helm::find().await?;
    for (values, sentence) in SENSELESS {
        let output = helm.try_run(&["template", RELEASE, "{chart}", "--set", values])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{values} is accepted");
        ensure!(said.contains(sentence), "{values}: expected {sentence:?} in {said}");
    }
    let old = helm.try_run(&["template", RELEASE, "{chart}", "--kube-version", "1.32.9"])?;
    let said = String::from_utf8_lossy(&old.stderr);
    ensure!(said.contains("requires kubeVersion: >=1.33.0-0"), "an old Kubernetes: {said}");
    Ok(())
}

#[tokio::test]
async fn secrets_are_made_up_each_time_and_never_a_default() -> Result<()> {
    let helm = Helm::find().await?;
    let password = |objects: &[Value]| -> Result<String> {
        let secret =
            objects.iter().find(|object| object["kind"] == "Secret" && object["metadata"]["name"] == "kvmoor-admin");
        Ok(secret.context("no Secret kvmoor-admin")?["data"]["password"].as_str().unwrap_or_default().to_owned())
    };
    let (first, second) = (password(&helm.template(&[])?)?, password(&helm.template(&[])?)?);
    ensure!(first.len() >= 32 && first != second, "{first} {second}");
    let none = helm.template(&["--set", "secrets.create=false"])?;
    ensure!(none.iter().all(|object| object["kind"] != "Secret"));
    Ok(())
}

#[test]
fn the_reference_of_values_is_up_to_date() -> Result<()> {
    let text = std::fs::read_to_string(chart().join("values.yaml"))?;
    let made = values::reference(&text)?;
    let path = checkout_root().join("docs/values.md");
    if std::env::var_os("KVMOOR_WRITE").is_some() {
        std::fs::write(&path, &made)?;
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(stands == made, "docs/values.md is not made from charts/kvmoor/values.yaml: run `make values`");
    Ok(())
}

#[tokio::test]
async fn a_real_server_takes_it_and_keeps_what_must_stay() -> Result<()> {
    let cluster = Cluster::builder().hosts(0).components(false).start().await?;
    let helm = Helm::find().await?.on(&cluster.control_plane().admin_kubeconfig());
    let client = cluster.client().await?;
    install(&helm, &client).await?;
    an_upgrade_mends_and_keeps(&helm, &client).await?;
    every_rendering_is_valid(&helm, &client).await?;
    pods_are_as_restricted_as_they_can_be(&client).await?;
    an_uninstall_keeps_what_people_made(&helm, &client).await?;
    cluster.stop().await
}

async fn install(helm: &Helm, client: &Client) -> Result<()> {
    let older = older_chart()?;
    let said = helm.run(&["install", RELEASE, &older.to_string_lossy(), "--create-namespace"])?;
    std::fs::remove_dir_all(&older)?;
    ensure!(said.contains("get secret kvmoor-admin"), "the notes do not tell the first login: {said}");
    let vm = json!({ "metadata": { "name": "kept" }, "spec": { "cpu": 1, "memory": "64Mi" } });
    let vms: Api<VirtualMachine> = Api::namespaced(client.clone(), "default");
    vms.create(&PostParams::default(), &serde_json::from_value(vm)?).await?;
    Ok(())
}

/// A field that an older chart did not have.
const NEWER: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/displayName";

/// The chart as it would be from before a field of the virtual machine.
fn older_chart() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("kvmoor-older-chart-{}", std::process::id()));
    copy(&chart(), &dir)?;
    let path = dir.join("files/crds/virtualmachines.kvmoor.dev.yaml");
    let mut definition: Value = serde_yaml::from_str(&std::fs::read_to_string(&path)?)?;
    let (parent, field) = NEWER.rsplit_once('/').context("a path")?;
    let fields = definition.pointer_mut(parent).and_then(Value::as_object_mut).context("the fields")?;
    fields.remove(field).context("the newer field")?;
    let rules =
        definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations");
    if let Some(rules) = rules.and_then(Value::as_array_mut) {
        rules.retain(|rule| !rule.to_string().contains(field));
    }
    std::fs::write(&path, serde_json::to_string(&definition)?)?;
    Ok(dir)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Strict: a field that the server does not know is an error. In namespaces of their own, so that all is new.
async fn every_rendering_is_valid(helm: &Helm, client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for (number, file) in values_files()?.into_iter().enumerate() {
        let namespace = format!("rendered-{number}");
        let body = json!({ "metadata": { "name": namespace } });
        namespaces.create(&PostParams::default(), &serde_json::from_value(body)?).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let has_account = || async { Ok(accounts.get_opt("default").await?.is_some()) };
        until(SOON, "the namespace has its account", has_account).await?;
        let objects = helm.in_namespace(&namespace).template(&["-f", &file.to_string_lossy()])?;
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object)?;
            let types = object.types.clone().context("an object without a type")?;
            if types.api_version.starts_with("monitoring.coreos.com/") {
                // Its definitions are the Prometheus operator's.
                continue;
            }
            let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
            let api: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let params = PatchParams::apply("test").force().dry_run().validation_strict();
            let what = || format!("{}: {} {}", file.display(), types.kind, object.name_any());
            api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await.with_context(what)?;
        }
    }
    Ok(())
}

/// By the judgement of Kubernetes' own Pod Security admission.
async fn pods_are_as_restricted_as_they_can_be(client: &Client) -> Result<()> {
    let enforce = async |level: &str| {
        let labels = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.patch(SYSTEM_NAMESPACE, &PatchParams::default(), &Patch::Merge(labels)).await
    };
    enforce("restricted").await?;
    let deployments = ["kvmoor-api-server", "kvmoor-controller-cluster"];
    for name in deployments {
        try_pod(client, "Deployment", name).await.with_context(|| format!("{name} is not restricted"))?;
    }
    enforce("baseline").await?;
    let refusal =
        try_pod(client, "DaemonSet", "kvmoor-controller-node").await.err().context("it mounts a host path")?;
    let said = refusal.to_string();
    ensure!(said.contains("hostPath volumes"), "{said}");
    for more in ["privileged", "hostPort", "host namespaces", "capabilities"] {
        ensure!(!said.contains(more), "the node controller's pod has more than directories of the host: {said}");
    }
    enforce("privileged").await?;
    Ok(())
}

async fn try_pod(client: &Client, kind: &str, name: &str) -> Result<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM_NAMESPACE, &resource);
    let template = api.get(name).await?.data["spec"]["template"].clone();
    let pod =
        json!({ "metadata": { "name": "tried", "labels": template["metadata"]["labels"] }, "spec": template["spec"] });
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &serde_json::from_value(pod)?).await?;
    Ok(())
}

async fn secrets(client: &Client) -> Result<BTreeMap<String, Value>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let mut found = BTreeMap::new();
    for name in ["kvmoor-jwt", "kvmoor-admin"] {
        let secret = api.get(name).await.with_context(|| format!("the Secret {name}"))?;
        found.insert(
            name.to_owned(),
            json!({ "data": secret.data, "key": secret.annotations().get("kvmoor.dev/current-key") }),
        );
    }
    Ok(found)
}

/// Things that were lost or are of an older chart are put right, keys and passwords stay.
async fn an_upgrade_mends_and_keeps(helm: &Helm, client: &Client) -> Result<()> {
    let before = secrets(client).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    deployments.delete("kvmoor-api-server", &DeleteParams::default()).await?;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    roles.delete("kvmoor-user", &DeleteParams::default()).await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let has_field = async || -> Result<bool> {
        let definition = definitions.get("virtualmachines.kvmoor.dev").await?;
        Ok(serde_json::to_value(definition)?.pointer(NEWER).is_some())
    };
    ensure!(!has_field().await?, "the older definition has the newer field");

    helm.run(&["upgrade", RELEASE, "{chart}", "--set", "apiServer.replicas=3,log.filter=debug"])?;
    let deployment = deployments.get("kvmoor-api-server").await.context("the deleted Deployment")?;
    ensure!(deployment.spec.and_then(|spec| spec.replicas) == Some(3));
    roles.get("kvmoor-user").await.context("the deleted ClusterRole")?;
    ensure!(has_field().await?, "the definition is still the older one");
    ensure!(secrets(client).await? == before, "an upgrade changed a Secret");

    helm.run(&["upgrade", RELEASE, "{chart}", "--set", "admin.password=correct horse"])?;
    let after = secrets(client).await?;
    ensure!(after["kvmoor-jwt"] == before["kvmoor-jwt"], "a new password ended all sessions");
    ensure!(after["kvmoor-admin"] != before["kvmoor-admin"], "the password that was asked for is not there");
    helm.run(&["rollback", RELEASE, "1"])?;
    ensure!(secrets(client).await?["kvmoor-jwt"] == before["kvmoor-jwt"], "a rollback changed the keys");
    Ok(())
}

async fn an_uninstall_keeps_what_people_made(helm: &Helm, client: &Client) -> Result<()> {
    let before = secrets(client).await?;
    let vms: Api<VirtualMachine> = Api::namespaced(client.clone(), "default");
    let uid = vms.get("kept").await?.uid();
    let said = helm.run(&["uninstall", RELEASE])?;
    ensure!(said.contains("virtualmachines.kvmoor.dev"), "it does not say what is kept: {said}");
    ensure!(vms.get("kept").await?.uid() == uid, "the virtual machine is another");
    ensure!(secrets(client).await? == before, "an uninstall changed a Secret");
    helm.run(&["install", RELEASE, "{chart}"])?;
    ensure!(secrets(client).await? == before, "the second installation has other keys");
    ensure!(vms.get("kept").await?.uid() == uid);
    Ok(())
}
