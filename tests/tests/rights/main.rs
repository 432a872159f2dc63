//! What each account may do, tried on a real kube-apiserver with the rights and policies of the chart.
//!
//! No controller runs here, so nothing but these tests writes.

mod golden;
mod protected;
mod stolen;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use kvmoor_dev::{Cluster, SYSTEM_NAMESPACE};
use serde_json::{Value, json};

/// A namespace that belongs to people.
const TENANT: &str = "tenant";
/// The node whose token is stolen, and another.
const NODES: [&str; 2] = ["host-0", "host-1"];

#[tokio::test]
async fn rights_are_what_is_written_down_and_a_stolen_token_reaches_nothing_of_others() -> Result<()> {
    let cluster = Cluster::builder().hosts(0).do_not_start_components().start().await?;
    let admin = cluster.client().await?;
    set_up(&admin).await?;
    golden::compare(&cluster).await?;
    let thief = stolen::thief(&cluster, &admin).await?;
    stolen::every_verb_on_every_resource(&thief, &admin).await?;
    protected::ids_and_owners_are_given_by_kvmoor_alone(&cluster, &admin, &thief).await?;
    cluster.stop().await
}

/// Two of everything that is bound to a node, one for each.
async fn set_up(admin: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let tenant = json!({ "metadata": { "name": TENANT, "labels": { "kvmoor.dev/user": "0" } } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(tenant)?).await?;
    for (role, user) in [("kvmoor-user", "kvmoor:alice"), ("view", "vera"), ("edit", "edgar"), ("admin", "ada")] {
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
        let subject = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user });
        let name = user.replace(':', "-");
        let binding = json!({ "metadata": { "name": name }, "roleRef": role, "subjects": [subject] });
        create(admin, "rbac.authorization.k8s.io/v1", "RoleBinding", Some(TENANT), binding).await?;
    }
    let nodes: Api<Node> = Api::all(admin.clone());
    for (node, vm) in NODES.into_iter().zip(["here", "there"]) {
        nodes.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": node } }))?).await?;
        let ours = "kvmoor.dev/v1alpha1";
        create(admin, ours, "Host", None, json!({ "metadata": { "name": node }, "spec": {} })).await?;
        let specs = [
            ("VirtualMachine", json!({ "cpu": 1, "memory": "64Mi", "nodeName": node })),
            ("VirtualMachineSnapshot", json!({ "vmName": vm, "nodeName": node })),
            ("VirtualMachineRestore", json!({ "snapshotName": vm, "nodeName": node })),
        ];
        for (kind, spec) in specs {
            create(admin, ours, kind, Some(TENANT), json!({ "metadata": { "name": vm }, "spec": spec })).await?;
        }
        let lease =
            json!({ "metadata": { "name": format!("kvmoor-host-{node}") }, "spec": { "holderIdentity": node } });
        create(admin, "coordination.k8s.io/v1", "Lease", Some(SYSTEM_NAMESPACE), lease).await?;
    }
    for namespace in [TENANT, SYSTEM_NAMESPACE] {
        for name in ["own", "foreign"] {
            let secret = json!({ "metadata": { "name": name }, "stringData": { "password": "secret" } });
            create(admin, "v1", "Secret", Some(namespace), secret).await?;
        }
    }
    Ok(())
}

async fn create(admin: &Client, version: &str, kind: &str, namespace: Option<&str>, mut object: Value) -> Result<()> {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    anyhow::ensure!(made.uid().is_some());
    Ok(())
}
