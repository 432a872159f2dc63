//! What each of Kvmoor's identities may do, tried with its real token against the real API, its rights and policies.
//!
//! No controller runs here, so nothing but this test writes.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic, reason = "a test ends at the first failure")]

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    coordination::v1::Lease,
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kvmoor_crds::{Host, VirtualMachine, agent, names};
use kvmoor_dev::{Cluster, SYSTEM_NAMESPACE, deadline::until};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const TENANT: &str = "tenant";
const POLICIES_WORK: Duration = Duration::from_secs(30);

type Outcome<T> = Result<T, kube::Error>;

#[track_caller]
fn allowed<T>(outcome: Outcome<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("must be allowed: {error}"))
}

/// Refused because of `why`, a part of the message: by RBAC that names the resource, by a policy its own words.
#[track_caller]
fn refused<T: Debug>(outcome: Outcome<T>, why: &str) {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(why) => {}
        other => panic!("must be refused with {why:?}: {other:?}"),
    }
}

const RBAC: &str = "cannot ";
const PLACEMENT: &str = "spec.nodeName is set by Kvmoor";
const FINALIZER: &str = "the finalizer kvmoor.dev/host is set and dropped by Kvmoor";

fn vm(name: &str, spec: &Value) -> VirtualMachine {
    let mut whole = json!({ "cpu": 1, "memory": "64Mi" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": whole })).unwrap()
}

/// One identity's view of one kind.
struct As<K> {
    api: Api<K>,
}

impl<K> As<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    async fn create(&self, object: K) -> Outcome<K> {
        self.api.create(&PostParams::default(), &object).await
    }

    async fn patch(&self, name: &str, patch: Value) -> Outcome<K> {
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn patch_status(&self, name: &str, patch: Value) -> Outcome<K> {
        self.api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }
}

fn vms(client: &Client) -> As<VirtualMachine> {
    As { api: Api::namespaced(client.clone(), TENANT) }
}

fn hosts(client: &Client) -> As<Host> {
    As { api: Api::all(client.clone()) }
}

fn leases(client: &Client) -> As<Lease> {
    As { api: Api::namespaced(client.clone(), SYSTEM_NAMESPACE) }
}

fn secrets(client: &Client, namespace: &str) -> As<Secret> {
    As { api: Api::namespaced(client.clone(), namespace) }
}

fn lease(name: &str) -> Lease {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "holderIdentity": "test" } })).unwrap()
}

fn host(name: &str) -> Host {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": {} })).unwrap()
}

/// The finalizer is dropped by all and returned by none.
fn unheld() -> Value {
    json!({ "metadata": { "finalizers": [] } })
}

fn phase(phase: &str) -> Value {
    json!({ "status": { "phase": phase } })
}

#[tokio::test]
async fn nobody_may_do_more_than_it_must() {
    let cluster = Cluster::builder().hosts(2).do_not_start_components().start().await.unwrap();
    let admin = cluster.client().await.unwrap();
    set_up(&admin).await;
    policies_work(&cluster.client_as(cluster.api_server().unwrap()).await.unwrap()).await;

    node_controller(&cluster, &admin).await;
    a_token_without_node(&cluster, &admin).await;
    api_server(&cluster.client_as(cluster.api_server().unwrap()).await.unwrap()).await;
    user(&as_user(&cluster, "kvmoor:alice").await).await;
    cluster_controller(&cluster.client_as(cluster.cluster_controller().unwrap()).await.unwrap()).await;
    cluster.stop().await.unwrap();
}

/// Two virtual machines, one on each host, and a user's rights.
async fn set_up(admin: &Client) {
    let namespaces = As::<Namespace> { api: Api::all(admin.clone()) };
    allowed(namespaces.create(serde_json::from_value(json!({ "metadata": { "name": TENANT } })).unwrap()).await);
    for (name, node) in [("here", "host-0"), ("there", "host-1")] {
        let mut vm = vm(name, &json!({ "nodeName": node }));
        vm.metadata.finalizers = Some(vec![names::VM_FINALIZER.into()]);
        allowed(vms(admin).create(vm).await);
    }
    let secret = json!({ "metadata": { "name": "user-data" }, "stringData": { "password": "secret" } });
    allowed(secrets(admin, TENANT).create(serde_json::from_value(secret).unwrap()).await);
    let bindings = As::<RoleBinding> { api: Api::namespaced(admin.clone(), TENANT) };
    allowed(bindings.create(role_binding("alice", names::USER_CLUSTER_ROLE)).await);
}

fn role_binding(name: &str, role: &str) -> RoleBinding {
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
    let user = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("kvmoor:{name}") });
    serde_json::from_value(json!({ "metadata": { "name": name }, "roleRef": role, "subjects": [user] })).unwrap()
}

/// kube-apiserver takes up a new policy within a second or two.
async fn policies_work(api_server: &Client) {
    let vms = vms(api_server);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let placed = vm("placed", &json!({ "nodeName": "host-0" }));
    let is_refused = || async { Ok(vms.api.create(&dry, &placed).await.is_err()) };
    until(POLICIES_WORK, "the policies are in force", is_refused).await.unwrap();
}

async fn node_controller(cluster: &Cluster, admin: &Client) {
    let agent = cluster.client_as(cluster.node_controller(0).unwrap()).await.unwrap();
    let own = vms(&agent);
    allowed(own.patch_status("here", phase("Running")).await);
    refused(own.patch_status("there", phase("Running")).await, "only the status of objects bound to its node");
    for patch in [json!({ "spec": { "nodeName": "host-0" } }), json!({ "spec": { "cpu": 2 } }), unheld()] {
        refused(own.patch("here", patch.clone()).await, RBAC);
        refused(own.patch("there", patch).await, RBAC);
    }
    refused(own.create(vm("new", &json!({}))).await, RBAC);
    refused(own.api.delete("here", &DeleteParams::default()).await, RBAC);
    // The way through the status ends before metadata and spec.
    let sneaky = json!({ "metadata": { "finalizers": [] }, "spec": { "cpu": 2 }, "status": { "phase": "Paused" } });
    let kept = allowed(own.patch_status("here", sneaky).await);
    assert_eq!(kept.metadata.finalizers.unwrap_or_default(), [names::VM_FINALIZER]);
    assert_eq!(kept.spec.cpu, 1);
    let bound = ListParams::default().fields("spec.nodeName=host-0");
    let listed = allowed(Api::<VirtualMachine>::all(agent.clone()).list(&bound).await);
    assert_eq!(listed.items.len(), 1);

    for namespace in [TENANT, SYSTEM_NAMESPACE] {
        refused(secrets(&agent, namespace).api.list(&ListParams::default()).await, RBAC);
        refused(secrets(&agent, namespace).api.get("user-data").await, RBAC);
    }

    allowed(leases(&agent).create(lease(&names::host_lease("host-0"))).await);
    allowed(leases(&agent).patch(&names::host_lease("host-0"), json!({ "spec": { "holderIdentity": "me" } })).await);
    for other in [names::host_lease("host-1"), names::LEADER_LEASE.to_owned()] {
        allowed(leases(admin).create(lease(&other)).await);
        let stolen = leases(&agent).patch(&other, json!({ "spec": { "holderIdentity": "me" } })).await;
        refused(stolen, "only the Lease of its own host");
    }

    allowed(hosts(&agent).create(host("host-0")).await);
    refused(hosts(&agent).create(host("host-1")).await, "only its own Host");
    allowed(hosts(admin).create(host("host-1")).await);
    allowed(hosts(&agent).patch_status("host-0", json!({ "status": { "conditions": [] } })).await);
    let status = json!({ "status": { "conditions": [] } });
    refused(hosts(&agent).patch_status("host-1", status).await, "only its own Host");
    let closed = json!({ "spec": { "unschedulable": true } });
    refused(hosts(&agent).patch("host-0", closed.clone()).await, "does not change the spec of its Host");
    refused(hosts(&agent).patch("host-1", closed).await, "only its own Host");
}

/// The same account, but a token that was not issued for a node: it writes nothing at all.
async fn a_token_without_node(cluster: &Cluster, admin: &Client) {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    let spec = TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request("kvmoor-controller-node", &PostParams::default(), &request).await;
    let token = answer.unwrap().status.unwrap().token;
    let stray = changed_client(cluster, |user| {
        user.client_certificate = None;
        user.client_key = None;
        user.token = Some(token.into());
    })
    .await;
    let why = "the token was not issued for a node";
    refused(vms(&stray).patch_status("here", phase("Running")).await, why);
    refused(leases(&stray).create(lease("kvmoor-host-stray")).await, why);
}

async fn api_server(client: &Client) {
    let vms = vms(client);
    allowed(vms.create(vm("by-api", &json!({}))).await);
    refused(vms.create(vm("placed", &json!({ "nodeName": "host-0" }))).await, PLACEMENT);
    refused(vms.patch("by-api", json!({ "spec": { "nodeName": "host-0" } })).await, PLACEMENT);
    allowed(vms.patch("by-api", json!({ "spec": { "cpu": 2 } })).await);
    refused(vms.patch("here", unheld()).await, FINALIZER);
    let hold = json!({ "metadata": { "finalizers": [names::VM_FINALIZER] } });
    refused(vms.patch("by-api", hold).await, FINALIZER);
    refused(vms.patch_status("by-api", phase("Running")).await, RBAC);
    allowed(secrets(client, SYSTEM_NAMESPACE).api.get(names::JWT_SECRET).await);
    refused(secrets(client, TENANT).api.get("user-data").await, RBAC);
    refused(hosts(client).patch("host-0", json!({ "spec": { "unschedulable": true } })).await, RBAC);
    // Tokens for the node controllers' audience, of its own account only.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let spec = TokenRequestSpec { audiences: vec![agent::PEER_AUDIENCE.to_owned()], ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let parameters = PostParams::default();
    allowed(accounts.create_token_request("kvmoor-api-server", &parameters, &request).await);
    for other in ["kvmoor-controller-cluster", "kvmoor-controller-node"] {
        refused(accounts.create_token_request(other, &parameters, &request).await, RBAC);
    }
}

async fn user(client: &Client) {
    let vms = vms(client);
    allowed(vms.create(vm("by-user", &json!({}))).await);
    refused(vms.create(vm("placed", &json!({ "nodeName": "host-0" }))).await, PLACEMENT);
    refused(vms.patch("by-user", json!({ "spec": { "nodeName": "host-0" } })).await, PLACEMENT);
    allowed(vms.patch("here", json!({ "spec": { "powerState": "Stopped" } })).await);
    refused(vms.patch("here", unheld()).await, FINALIZER);
    refused(vms.patch_status("by-user", phase("Running")).await, RBAC);
    // User data for cloud-init stands in Secrets of the namespace; password hashes do not.
    allowed(secrets(client, TENANT).api.get("user-data").await);
    refused(secrets(client, SYSTEM_NAMESPACE).api.get(names::JWT_SECRET).await, RBAC);
    let elsewhere: Api<VirtualMachine> = Api::namespaced(client.clone(), "default");
    refused(elsewhere.list(&ListParams::default()).await, RBAC);
    allowed(vms.api.delete("by-user", &DeleteParams::default()).await);
    // Deleting asks for it; the host must let go first.
    allowed(vms.api.delete("there", &DeleteParams::default()).await);
    let there = allowed(vms.api.get("there").await);
    assert!(there.metadata.deletion_timestamp.is_some());
    refused(vms.patch("there", unheld()).await, FINALIZER);
}

async fn cluster_controller(client: &Client) {
    let vms = vms(client);
    let placed = json!({ "metadata": { "finalizers": [names::VM_FINALIZER] }, "spec": { "nodeName": "host-1" } });
    allowed(vms.patch("by-api", placed).await);
    allowed(vms.patch_status("by-api", json!({ "status": { "id": 7 } })).await);
    allowed(vms.patch("there", unheld()).await);
    assert!(vms.api.get_opt("there").await.unwrap().is_none(), "released, it is gone");
    // What REST created and was refused over quota goes, and hosts are handed what their guests are told.
    allowed(vms.api.delete("by-api", &DeleteParams::default()).await);
    allowed(secrets(client, TENANT).api.get("user-data").await);
    refused(secrets(client, TENANT).api.list(&ListParams::default()).await, RBAC);
    let bindings = As::<RoleBinding> { api: Api::namespaced(client.clone(), TENANT) };
    allowed(bindings.create(role_binding("bob", names::USER_CLUSTER_ROLE)).await);
    refused(
        bindings.create(role_binding("mallory", "cluster-admin")).await,
        "grant RBAC permissions not currently held",
    );
}

async fn as_user(cluster: &Cluster, user: &str) -> Client {
    changed_client(cluster, |info| info.impersonate = Some(user.to_owned())).await
}

/// A client with the admin's server and another identity.
async fn changed_client(cluster: &Cluster, change: impl FnOnce(&mut kube::config::AuthInfo)) -> Client {
    let mut file = Kubeconfig::read_from(cluster.control_plane().admin_kubeconfig()).unwrap();
    change(file.auth_infos.first_mut().unwrap().auth_info.as_mut().unwrap());
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
