//! What only the cluster controller gives: ids, what was admitted, and to whom a namespace belongs.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use kvmoor_crds::VirtualMachine;
use kvmoor_dev::Cluster;
use kvmoor_dev::deadline::until;
use serde_json::{Value, json};

use crate::golden::{AGGREGATED, can_i};
use crate::{TENANT, create};

/// Tries to take them.
pub async fn ids_and_owners_are_given_by_kvmoor_alone(cluster: &Cluster, admin: &Client, agent: &Client) -> Result<()> {
    let rules = json!([
        { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "create", "patch"] },
        { "apiGroups": ["kvmoor.dev"], "resources": ["virtualmachines/status"], "verbs": ["get", "patch"] },
    ]);
    let rbac = "rbac.authorization.k8s.io/v1";
    create(admin, rbac, "ClusterRole", None, json!({ "metadata": { "name": "mighty" }, "rules": rules })).await?;
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mighty" });
    let subject = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mia" });
    let binding = json!({ "metadata": { "name": "mighty" }, "roleRef": role, "subjects": [subject] });
    create(admin, rbac, "ClusterRoleBinding", None, binding).await?;
    let mia = as_user(cluster, "mia").await?;
    let may = || async { Ok(can_i(cluster, "mia", TENANT)?.contains("virtualmachines.kvmoor.dev/status")) };
    until(AGGREGATED, "mia has her rights", may).await?;

    let judged = json!({
        "type": "Admitted", "status": "True", "reason": "WithinQuota", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let admitted = json!({ "cpu": 1, "memory": "64Mi", "disk": "0" });
    patch_status(admin, json!({ "id": 7, "admitted": admitted, "conditions": [judged] })).await?;
    patch_status(agent, json!({ "phase": "Running" })).await?;
    let taken = [json!({ "id": 8 }), json!({ "admitted": { "cpu": 100 } }), json!({ "conditions": [] })];
    for status in taken {
        let refusal = patch_status(agent, status.clone()).await.err().with_context(|| format!("{status} was taken"))?;
        let said = refusal.to_string();
        ensure!(said.contains("are the cluster controller's") || said.contains("given by Kvmoor"), "{status}: {said}");
    }
    let refusal = patch_status(&mia, json!({ "id": 8 })).await.err().context("somebody changed an id")?;
    ensure!(refusal.to_string().contains("status.id is given by Kvmoor"), "{refusal}");

    let namespaces: Api<Namespace> = Api::all(mia);
    let mine = json!({ "metadata": { "name": "mine" } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(mine)?).await?;
    for (name, label) in [("mine", json!("somebody")), (TENANT, json!("mia")), (TENANT, Value::Null)] {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "kvmoor.dev/user": label } } }));
        let refusal = namespaces.patch(name, &PatchParams::default(), &patch).await.err();
        let refusal = refusal.with_context(|| format!("{name} was labelled {label}"))?.to_string();
        ensure!(refusal.contains("the label kvmoor.dev/user is set and removed by Kvmoor"), "{refusal}");
    }
    Ok(())
}

async fn patch_status(client: &Client, status: Value) -> kube::Result<VirtualMachine> {
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), TENANT);
    api.patch_status("here", &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await
}

async fn as_user(cluster: &Cluster, user: &str) -> Result<Client> {
    let mut file = Kubeconfig::read_from(cluster.control_plane().admin_kubeconfig())?;
    let info = file.auth_infos.first_mut().and_then(|named| named.auth_info.as_mut()).context("a kubeconfig")?;
    info.impersonate = Some(user.to_owned());
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
