//! What cloud-init in a guest is told: user data from Secrets, keys of users, other instance ids; and who gets it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, guest_data, names};
use kvmoor_dev::SYSTEM_NAMESPACE;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, in_phase, tiny, with};
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::shared::Shared;

/// In all user data of these cases; it must be in no log and no custom resource.
pub const SECRET: &str = "hush-5b1c-user-data";
/// A virtual machine that waits for its Secret looks every 30 s at the latest.
pub const SEEN: Duration = Duration::from_secs(90);

pub async fn secrets(shared: &Shared, namespace: &str) -> Result<Api<Secret>> {
    Ok(Api::namespaced(shared.cluster.client().await?, namespace))
}

pub fn secret(name: &str, data: Value) -> Result<Secret> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data,
    }))?)
}

fn script(word: &str) -> String {
    kvmoor_tests::secrets::made("user data of a guest", SECRET.as_bytes());
    format!("#!/bin/sh\n# {SECRET}\necho \"this is {word}\"\n")
}

async fn until_runcmd(vm: &TestVm<'_>, word: &str) -> Result<()> {
    let said = || vm.http("/runcmd.log");
    wait::until(&format!("the guest's log says {word}"), BOOT, said, |log| log.contains(word)).await?;
    Ok(())
}

pub async fn user_data_from_a_secret(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("told").await?;
    let cloud_init = json!({ "userDataSecretRef": { "name": "boot", "key": "script" } });
    let vm =
        TestVm::create(&shared.cluster, &namespace, "told", with(tiny(), json!({ "cloudInit": cloud_init }))).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "UserDataMissing").await?;
    ensure!(message.contains("no Secret boot"), "{message}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing is begun before");

    let api = secrets(shared, &namespace).await?;
    let params = PostParams::default();
    api.create(&params, &secret("boot", json!({ "other": "x" }))?).await?;
    let sentence = |vm: &kvmoor_crds::VirtualMachine| {
        vm.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default()
    };
    vm.until("names the key", SEEN, |vm| sentence(vm).contains("no key script")).await?;
    api.delete("boot", &DeleteParams::default()).await?;
    let large = "x".repeat(guest_data::LARGEST_USER_DATA + 1);
    api.create(&params, &secret("boot", json!({ "script": large }))?).await?;
    vm.until("names the size", SEEN, |vm| sentence(vm).contains("524289 bytes")).await?;
    vm.until_condition(types::READY, "False", "UserDataTooLarge").await?;
    api.delete("boot", &DeleteParams::default()).await?;
    api.create(&params, &secret("boot", json!({ "script": script("the first") }))?).await?;
    vm.until("is Running", SEEN, |vm| in_phase(vm, Phase::Running)).await?;
    ensure!(vm.until_booted().await? == "told", "the guest has the object's name");
    until_runcmd(&vm, "this is the first").await?;
    ensure!(vm.http("/instance-id").await? == vm.uid(), "the instance id is the UID");
    let object = serde_json::to_string(&vm.get().await?)?;
    ensure!(!object.contains(SECRET), "no user data in the object");

    // A changed seed: told at the next start, but it is the same instance for the guest until another is asked for.
    vm.patch(json!({ "cloudInit": { "userDataSecretRef": { "name": "boot2", "key": "script" } } })).await?;
    api.create(&params, &secret("boot2", json!({ "script": script("the second") }))?).await?;
    let message = vm.until_condition(types::RESTART_REQUIRED, "True", "SpecChanged").await?;
    ensure!(message.contains("cloudInit"), "{message}");
    restart(&vm, json!({ "restart": 1 })).await?;
    vm.until_condition(types::RESTART_REQUIRED, "False", "UpToDate").await?;
    ensure!(vm.http("/instance-id").await? == vm.uid(), "still the same instance");
    ensure!(vm.http("/runcmd.log").await?.contains("the first"), "its commands are not run again");
    restart(&vm, json!({ "restart": 2, "reprovision": 1 })).await?;
    ensure!(vm.http("/instance-id").await? == format!("{}-1", vm.uid()), "another instance");
    until_runcmd(&vm, "this is the second").await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

async fn restart(vm: &TestVm<'_>, requests: Value) -> Result<()> {
    let boot = vm.http("/boot-id").await?;
    vm.patch(json!({ "requests": requests })).await?;
    wait::until("has booted again", BOOT, || vm.http("/boot-id"), |id| *id != boot).await?;
    Ok(())
}

pub async fn over_rest(shared: &Shared) -> Result<()> {
    let user = shared.user("told-user").await?;
    let keys = json!({ "ssh_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO0 of the user"] });
    ensure!(user.get("/api/auth/ssh-keys").await? == json!({ "ssh_authorized_keys": [] }), "none at first");
    for bad in [json!({ "ssh_authorized_keys": ["a\nb"] }), json!({ "ssh_authorized_keys": [""] }), json!({})] {
        let (status, body) = user.call(Method::PUT, "/api/auth/ssh-keys", Some(bad)).await?;
        ensure!(status == StatusCode::BAD_REQUEST, "{status} {body}");
    }
    ensure!(user.ok(Method::PUT, "/api/auth/ssh-keys", Some(keys.clone())).await? == keys, "as they were given");
    ensure!(user.get("/api/auth/ssh-keys").await? == keys, "and kept");
    let new = json!({
        "name": "told over REST", "cpu": 1, "memory": 96, "disk": 1024, "os_type": "tiny",
        "ssh_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO1 of the VM"],
        "user_data": script("over REST"),
    });
    let answer = user.post("/api/vms", new).await?;
    ensure!(!answer.to_string().contains(SECRET), "user data is shown to nobody: {answer}");
    let uuid = answer["uuid"].as_str().context("a UUID")?;
    let namespace = names::user_namespace("told-user");
    let vms: Api<kvmoor_crds::VirtualMachine> = Api::namespaced(shared.cluster.client().await?, &namespace);
    let listed = vms.list(&Default::default()).await?;
    let object = listed.items.iter().find(|vm| vm.metadata.uid.as_deref() == Some(uuid)).context("it is there")?;
    let name = object.metadata.name.clone().context("a name")?;
    ensure!(!serde_json::to_string(object)?.contains(SECRET), "no user data in the object");
    let vm = TestVm::existing(&shared.cluster, &namespace, &name).await?;
    vm.until_booted().await?;
    until_runcmd(&vm, "this is over REST").await?;
    let keys = vm.http("/ssh-authorized-keys").await?;
    ensure!(keys.contains("of the VM") && keys.contains("of the user"), "{keys}");

    let api = secrets(shared, &namespace).await?;
    let name = names::guest_data_secret(&name);
    ensure!(api.get_opt(&name).await?.is_some(), "the Secret is there");
    user.ok(Method::DELETE, &format!("/api/vms/{}", answer["id"]), None).await?;
    vm.until_gone().await?;
    wait::until("the Secret goes with it", SEEN, || async { Ok(api.get_opt(&name).await?) }, Option::is_none).await?;
    let users = shared.admin.get("/api/admin/users").await?;
    let id = users.as_array().into_iter().flatten().find(|user| user["username"] == "told-user").context("it")?;
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{}", id["id"]), None).await?;
    Ok(())
}

/// A token as a host has one: bound to that Node.
async fn token(shared: &Shared, account: &str, node: Option<&str>, audience: &str) -> Result<String> {
    let client = shared.cluster.client().await?;
    let bound_object_ref = match node {
        None => None,
        Some(name) => Some(BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Api::<Node>::all(client.clone()).get(name).await?.metadata.uid,
        }),
    };
    let spec = TokenRequestSpec { audiences: vec![audience.to_owned()], bound_object_ref, expiration_seconds: None };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("a status")?.token)
}

pub async fn only_its_own_host_is_told(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("told-whom").await?;
    let api = secrets(shared, &namespace).await?;
    api.create(&PostParams::default(), &secret("boot", json!({ "user-data": script("x") }))?).await?;
    let cloud_init = json!({ "userDataSecretRef": { "name": "boot" } });
    let vm =
        TestVm::create(&shared.cluster, &namespace, "told-whom", with(blank(), json!({ "cloudInit": cloud_init })))
            .await?;
    vm.until_phase(Phase::Running).await?;

    let client = shared.cluster.client().await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let annotations = leases.get(names::LEADER_LEASE).await?.metadata.annotations.context("annotations")?;
    let address = annotations.get(guest_data::ADDRESS_ANNOTATION).context("an address")?;
    let certificate = annotations.get(guest_data::CERTIFICATE_ANNOTATION).context("a certificate")?;
    let address: std::net::SocketAddr = address.parse()?;
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(certificate.as_bytes())?])
        .resolve(guest_data::SERVER_NAME, address)
        .no_proxy()
        .build()?;
    let get = async |path: String, token: Option<String>| {
        let request = http.get(format!("https://{}:{}{path}", guest_data::SERVER_NAME, address.port()));
        let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
        let answer = request.send().await?;
        anyhow::Ok((answer.status(), answer.text().await?))
    };
    let path = || guest_data::path(&namespace, "told-whom", vm.uid());
    let nodes: Api<Node> = Api::all(client);
    let other: Node =
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "other-host" } }))?;
    nodes.create(&PostParams::default(), &other).await?;
    let own = shared.cluster.node_name(0);
    let account = "kvmoor-controller-node";
    let audience = guest_data::AUDIENCE;
    for (what, token, status) in [
        ("no token", None, 401),
        ("something else", Some("x".to_owned()), 401),
        ("another audience", Some(token(shared, account, Some(&own), "kvmoor-node").await?), 401),
        ("another account", Some(token(shared, "kvmoor-api-server", Some(&own), audience).await?), 403),
        ("a token for no node", Some(token(shared, account, None, audience).await?), 403),
        ("another host's token", Some(token(shared, account, Some("other-host"), audience).await?), 403),
    ] {
        let (answered, body) = get(path(), token).await?;
        ensure!(answered.as_u16() == status, "{what}: {answered} {body}");
        ensure!(!body.contains("userData"), "{what}: {body}");
    }
    let good = token(shared, account, Some(&own), audience).await?;
    let (status, body) = get(path(), Some(good.clone())).await?;
    ensure!(status == StatusCode::OK, "{status} {body}");
    let guest_data::Answer::Data(data) = serde_json::from_str(&body)? else { anyhow::bail!("{body}") };
    ensure!(data.user_data.is_some_and(|data| data.0 == script("x").as_bytes()), "the user data as it was written");
    let before = guest_data::path(&namespace, "told-whom", "550e8400-e29b-41d4-a716-446655440000");
    let (status, body) = get(before, Some(good.clone())).await?;
    ensure!(status == StatusCode::NOT_FOUND, "an earlier one of its name: {status} {body}");
    let (status, body) = get(format!("{}/..", path()), Some(good)).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status} {body}");

    // The host's own account reads no Secrets.
    let host = shared.cluster.client_as(shared.cluster.node_controller(0)?).await?;
    let refused = Api::<Secret>::namespaced(host, &namespace).get("boot").await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "a host reads a Secret by itself");
    nodes.delete("other-host", &DeleteParams::default()).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// The cluster controller is away while a guest is to be made: it is made when that is back, under another address.
pub async fn the_cluster_controller_is_away(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("told-later").await?;
    let off = with(blank(), json!({ "powerState": "Stopped" }));
    let vm = TestVm::create(&shared.cluster, &namespace, "told-later", off).await?;
    vm.until_phase(Phase::Stopped).await?;
    let process = shared.cluster.cluster_controller()?;
    process.kill().await;
    let keys = json!({ "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO2"] });
    vm.patch(json!({ "cloudInit": keys, "powerState": "Running" })).await?;
    vm.until_condition(types::READY, "False", "GuestDataUnavailable").await?;
    ensure!(vm.qemu().is_none(), "it is not started without");
    process.start()?;
    vm.until("is Running", SEEN, |vm| in_phase(vm, Phase::Running)).await?;
    vm.until("nothing is left to do", SOON, |vm| {
        let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        kvmoor_crds::conditions::is_true(conditions, types::SYNCHRONIZED)
    })
    .await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}
