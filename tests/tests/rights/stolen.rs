//! A stolen token of a node controller × every verb × every resource that the server has × own and foreign objects.
//!
//! What it may do stands in [`is_meant`]; everything else must be refused with 403, and what belongs to others must be as
//! it was.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use kvmoor_dev::{Cluster, SYSTEM_NAMESPACE};
use serde_json::{Value, json};

use crate::{NODES, TENANT};

/// Kinds that are bound to a node.
const BOUND: [&str; 3] = ["virtualmachines", "virtualmachinesnapshots", "virtualmachinerestores"];
/// Whoever is logged in may ask these; nothing is stored.
const QUESTIONS: [&str; 4] =
    ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews", "tokenreviews"];

/// A resource or subresource of the server.
#[derive(Debug, Clone)]
struct Resource {
    /// Group and version as in `apiVersion`.
    version: String,
    group: String,
    /// With its subresource: `virtualmachines/status`.
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// One thing to try.
#[derive(Debug)]
struct Attempt<'a> {
    resource: &'a Resource,
    verb: &'a str,
    /// `None` for what has no namespace, and for a list of all.
    namespace: Option<&'a str>,
    /// Whether it is about what belongs to the token's node.
    own: bool,
}

/// Tries all of it.
pub async fn every_verb_on_every_resource(thief: &Client, admin: &Client) -> Result<()> {
    let resources = resources(admin).await?;
    let before = versions(admin).await?;
    let (mut tried, mut meant, mut wrong) = (0, 0, Vec::new());
    for resource in &resources {
        for verb in &resource.verbs {
            let namespaces: &[Option<&str>] = match (resource.namespaced, verb.as_str()) {
                (false, _) => &[None],
                (true, "list" | "watch") => &[Some(TENANT), Some(SYSTEM_NAMESPACE), None],
                (true, _) => &[Some(TENANT), Some(SYSTEM_NAMESPACE)],
            };
            for namespace in namespaces {
                for own in [true, false] {
                    let attempt = Attempt { resource, verb, namespace: *namespace, own };
                    let code = attempt.make(thief, admin).await?;
                    let is_refused = code == 403;
                    tried += 1;
                    meant += usize::from(!is_refused);
                    if is_refused == is_meant(&attempt) {
                        wrong.push(format!("{code} {verb} {} in {namespace:?}, own: {own}", resource.name));
                    }
                }
            }
        }
    }
    eprintln!(
        "a stolen token: {tried} attempts on {} resources, {meant} answered otherwise than by 403",
        resources.len()
    );
    ensure!(tried > 1000, "only {tried} attempts: were the resources found?");
    ensure!(wrong.is_empty(), "not as is meant:\n{}", wrong.join("\n"));
    ensure!(versions(admin).await? == before, "something of others was written");
    Ok(())
}

/// What a node controller is for. All that is not here is refused.
fn is_meant(attempt: &Attempt<'_>) -> bool {
    let Attempt { resource, verb, namespace, own } = attempt;
    let (kind, subresource) = resource.name.split_once('/').unwrap_or((&resource.name, ""));
    let is_ours = resource.group == "kvmoor.dev";
    let reads = ["get", "list", "watch"].contains(verb);
    let changes = ["update", "patch"].contains(verb);
    match (resource.group.as_str(), kind, subresource) {
        (_, kind, "") if is_ours && (BOUND.contains(&kind) || kind == "images") => reads,
        // What belongs to the other node does not exist in the system namespace, where the object is missing.
        (_, kind, "status") if is_ours && BOUND.contains(&kind) => {
            *verb == "get" || (changes && (*own || *namespace != Some(TENANT)))
        }
        (_, "hosts", "") if is_ours => reads || (*own && (changes || *verb == "create")),
        (_, "hosts", "status") if is_ours => *verb == "get" || (changes && *own),
        ("coordination.k8s.io", "leases", "") => {
            *namespace == Some(SYSTEM_NAMESPACE) && (*verb == "get" || (*own && (changes || *verb == "create")))
        }
        ("", "nodes", "") => *verb == "get",
        // Certificates to trust, which Kubernetes shows to every service account.
        ("certificates.k8s.io", "clustertrustbundles", "") => reads,
        // In its own name only. To change one that is not there is no write.
        ("events.k8s.io", "events", "") => (*own && *verb == "create") || *verb == "patch",
        (_, kind, "") if QUESTIONS.contains(&kind) => *verb == "create",
        _ => false,
    }
}

impl Attempt<'_> {
    fn name(&self) -> String {
        let node = if self.own { NODES[0] } else { NODES[1] };
        let kind = self.resource.name.split('/').next().unwrap_or_default();
        match kind {
            "hosts" | "nodes" => node.to_owned(),
            "leases" => format!("kvmoor-host-{node}"),
            kind if BOUND.contains(&kind) => if self.own { "here" } else { "there" }.to_owned(),
            _ => if self.own { "own" } else { "foreign" }.to_owned(),
        }
    }

    fn collection(&self) -> String {
        let prefix = if self.resource.group.is_empty() { "/api" } else { "/apis" };
        let namespace = self.namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let kind = self.resource.name.split('/').next().unwrap_or_default();
        format!("{prefix}/{}{namespace}/{kind}", self.resource.version)
    }

    fn object(&self) -> String {
        let subresource = self.resource.name.split_once('/').map(|(_, name)| format!("/{name}")).unwrap_or_default();
        format!("{}/{}{subresource}", self.collection(), self.name())
    }

    async fn make(&self, thief: &Client, admin: &Client) -> Result<u16> {
        let is_sub = self.resource.name.contains('/');
        let (method, path) = match self.verb {
            "get" => (Method::GET, self.object()),
            "list" => (Method::GET, format!("{}?limit=1", self.collection())),
            "watch" => (Method::GET, format!("{}?watch=1&timeoutSeconds=1", self.collection())),
            "create" if is_sub => (Method::POST, self.object()),
            "create" => (Method::POST, self.collection()),
            "update" => (Method::PUT, self.object()),
            "patch" => (Method::PATCH, self.object()),
            "delete" => (Method::DELETE, self.object()),
            "deletecollection" => (Method::DELETE, self.collection()),
            other => anyhow::bail!("an unknown verb: {other}"),
        };
        let mut request = Request::builder().method(method.clone()).uri(&path);
        let body = match method {
            Method::PATCH => {
                request = request.header("content-type", "application/merge-patch+json");
                json!({ "metadata": { "labels": { "stolen": "yes" } } })
            }
            Method::POST | Method::PUT => {
                request = request.header("content-type", "application/json");
                self.body(admin).await?
            }
            _ => Value::Null,
        };
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body)? };
        let answer = thief.send(request.body(bytes.into())?).await.with_context(|| format!("{method} {path}"))?;
        Ok(answer.status().as_u16())
    }

    /// The object as it is, if there is one, else one with as little as its kind takes.
    async fn body(&self, admin: &Client) -> Result<Value> {
        let bare = self.object();
        let bare = bare.strip_suffix("/status").unwrap_or(&bare);
        let request = Request::get(bare).body(Vec::new())?;
        if self.verb == "update"
            && let Ok(object) = admin.request::<Value>(request).await
        {
            return Ok(object);
        }
        let mut body = json!({
            "apiVersion": self.resource.version, "kind": self.resource.kind, "metadata": { "name": self.name() },
        });
        match (self.resource.group.as_str(), self.resource.name.as_str()) {
            ("kvmoor.dev", "hosts") => body["spec"] = json!({}),
            ("coordination.k8s.io", "leases") => body["spec"] = json!({ "holderIdentity": "thief" }),
            ("events.k8s.io", "events") => {
                let regarding = json!({
                    "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "name": "there",
                    "namespace": self.namespace,
                });
                let event = json!({
                    "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "kvmoor-controller-node",
                    "reportingInstance": if self.own { NODES[0] } else { NODES[1] }, "action": "Steal",
                    "reason": "Stolen", "type": "Warning", "note": "a note", "regarding": regarding,
                });
                for (key, value) in event.as_object().into_iter().flatten() {
                    body[key] = value.clone();
                }
            }
            (_, "tokenreviews") => body["spec"] = json!({ "token": "x" }),
            (_, "selfsubjectaccessreviews") => {
                body["spec"] = json!({ "resourceAttributes": { "verb": "get", "resource": "secrets" } });
            }
            (_, "selfsubjectrulesreviews") => body["spec"] = json!({ "namespace": TENANT }),
            _ => {}
        }
        Ok(body)
    }
}

/// The token as the kubelet makes it for the pod on `host-0`: good for the API, bound to the node.
pub async fn thief(cluster: &Cluster, admin: &Client) -> Result<Client> {
    let node = Api::<Node>::all(admin.clone()).get(NODES[0]).await?;
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: node.metadata.name,
        uid: node.metadata.uid,
    };
    let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), SYSTEM_NAMESPACE);
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request("kvmoor-controller-node", &PostParams::default(), &request).await?;
    let token = answer.status.context("a token")?.token;
    let mut file = Kubeconfig::read_from(cluster.control_plane().admin_kubeconfig())?;
    let user = file.auth_infos.first_mut().and_then(|named| named.auth_info.as_mut()).context("a kubeconfig")?;
    user.client_certificate = None;
    user.client_key = None;
    user.token = Some(token.into());
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Everything that the server says it has, in each group's preferred version and all others.
async fn resources(admin: &Client) -> Result<Vec<Resource>> {
    let ask = async |path: &str| -> Result<Value> {
        admin.request(Request::get(path).body(Vec::new())?).await.with_context(|| format!("get {path}"))
    };
    let mut versions = vec![("/api/v1".to_owned(), String::new(), "v1".to_owned())];
    let groups = ask("/apis").await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let version = version["groupVersion"].as_str().context("a version")?.to_owned();
            let group = group["name"].as_str().context("a group")?.to_owned();
            versions.push((format!("/apis/{version}"), group, version));
        }
    }
    let mut found = Vec::new();
    for (path, group, version) in versions {
        let list = ask(&path).await?;
        for resource in list["resources"].as_array().into_iter().flatten() {
            let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
            let verbs = resource["verbs"].as_array().into_iter().flatten();
            found.push(Resource {
                version: version.clone(),
                group: group.clone(),
                name: text("name"),
                kind: text("kind"),
                namespaced: resource["namespaced"].as_bool().unwrap_or(false),
                verbs: verbs.filter_map(|verb| verb.as_str()).map(str::to_owned).collect(),
            });
        }
    }
    Ok(found)
}

/// The versions of all that the token must not change.
async fn versions(admin: &Client) -> Result<BTreeMap<String, Value>> {
    let system = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}");
    let mut paths: Vec<_> =
        BOUND.iter().map(|kind| format!("/apis/kvmoor.dev/v1alpha1/namespaces/{TENANT}/{kind}/there")).collect();
    paths.push(format!("/apis/kvmoor.dev/v1alpha1/hosts/{}", NODES[1]));
    paths.push(format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases/kvmoor-host-{}", NODES[1]));
    paths.extend(NODES.map(|node| format!("/api/v1/nodes/{node}")));
    paths.extend([format!("{system}/secrets/own"), format!("{system}/serviceaccounts/kvmoor-controller-node")]);
    let mut versions = BTreeMap::new();
    for path in paths {
        let object: Value = admin.request(Request::get(&path).body(Vec::new())?).await?;
        versions.insert(path, object["metadata"]["resourceVersion"].clone());
    }
    Ok(versions)
}
